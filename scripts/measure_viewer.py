"""Measures how smoothly the viewer's page follows a drag, in Chromium.

    python scripts/measure_viewer.py runs/quickstart

It needs the extra `dev` and Chromium. For each kind of drag, it prints the
frames per second, and the time from a change to its image.
"""

import argparse
import pathlib
import shutil
import statistics
import tempfile
import threading
import time

from playwright import sync_api

from sg3jax import model as model_lib
from sg3jax.view import client, engine, server, subject

_SECONDS = 4

# Milliseconds between the moves of the mouse.
_INTERVAL = 16

# Each case drags an element, with some controls switched on.
_CASES = {
  'move the image': ('#models canvas', {}),
  'walk between seeds': ('#map', {}),
  'move, with features of L4': ('#models canvas', {'Layer': 'L4'}),
  'move, with the error': ('#models canvas', {'Equivariance': 'translation'}),
}

# Notes the latency of each frame as the page writes it.
_OBSERVE = """() => {
  const speed = document.getElementById('speed');
  window.frames = [];
  new MutationObserver(() => {
    const {resting, latency, extras} = speed.dataset;
    if (!resting) frames.push([Number(latency), extras ? 1 : 0]);
  }).observe(speed, {attributeFilter: ['data-frames']});
}"""


def main() -> None:
  """Parses the arguments, and prints a line for each case."""
  parser = argparse.ArgumentParser()
  parser.add_argument('network', type=pathlib.Path, help='a run or a model')
  network = parser.parse_args().network
  executable = shutil.which('chromium') or shutil.which('google-chrome')
  if executable is None:
    parser.error('Chromium is required: apt-get install chromium')
  one = subject.Subject(network, model_lib.load_model(network))
  shown = engine.Engine([one])
  shown.warm()
  with tempfile.TemporaryDirectory() as folder:
    viewer = server.Viewer(client.Shop(shown, pathlib.Path(folder)))
    listener = server.bind('localhost', 0)
    serving = server.make_server(viewer)
    thread = threading.Thread(
      target=serving.run, kwargs={'sockets': [listener]}
    )
    thread.start()
    try:
      _measure(f'http://localhost:{listener.getsockname()[1]}/', executable)
    finally:
      serving.should_exit = True
      thread.join()


def _measure(address: str, executable: str) -> None:
  with sync_api.sync_playwright() as play:
    # A container may run as root, where Chromium has no sandbox.
    browser = play.chromium.launch(
      executable_path=executable, args=['--no-sandbox']
    )
    for title, (element, choices) in _CASES.items():
      tab = browser.new_page(viewport={'width': 1280, 'height': 900})
      tab.goto(address)
      _rest(tab)
      tab.evaluate(
        "document.querySelectorAll('details').forEach(x => { x.open = true; })"
      )
      for label, value in choices.items():
        row = f'.controls .row:has(> label:text-is("{label}"))'
        tab.select_option(f'{row} select', value)
      _rest(tab)
      _drag(tab, element, 1.0)  # Compiles what has not been compiled.
      _rest(tab)
      tab.evaluate(_OBSERVE)
      seconds = _drag(tab, element, _SECONDS)
      frames = tab.evaluate('window.frames')
      latencies = sorted(latency for latency, _ in frames)
      late = latencies[int(0.95 * len(latencies))]
      line = (
        f'{title:26} {len(latencies) / seconds:5.1f} frames/s, latency '
        f'{statistics.median(latencies):.0f} ms, 95 % within {late:.0f} ms'
      )
      if choices:  # They are left out of some frames if they take long.
        share = statistics.mean(extras for _, extras in frames)
        line += f', {share:.0%} of the frames with it'
      print(line, flush=True)
      tab.close()
    browser.close()


def _rest(tab: sync_api.Page) -> None:
  """Waits until the image at rest is shown, and the small ones have come."""
  tab.wait_for_function(
    """() => {
      const {shown, asked, resting} = document.getElementById('speed').dataset;
      return shown === asked && resting;
    }""",
    timeout=120_000,
  )
  tab.wait_for_timeout(3000)


def _drag(tab: sync_api.Page, element: str, seconds: float) -> float:
  """Drags to and fro; returns how long it took."""
  box = tab.locator(element).first.bounding_box()
  assert box is not None
  x, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
  tab.mouse.move(x, y)
  tab.mouse.down()
  begin = time.monotonic()
  step = 0
  while time.monotonic() < begin + seconds:
    step += 1
    # A zigzag that ends up anywhere, so that no position is seen twice.
    across = abs((3 * step) % 200 - 100) - 50
    tab.mouse.move(x + across, y + step % 37)
    tab.wait_for_timeout(_INTERVAL)
  tab.mouse.up()
  return time.monotonic() - begin


if __name__ == '__main__':
  main()
