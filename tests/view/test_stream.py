"""When frames are rendered and sent, and in which quality."""

import asyncio

import pytest

from sg3jax.view import stream, views


class TestStream:
  def _serve(self, feed, *, render_seconds=0.0, timeout=5.0, shows=True):
    """Runs a stream while `feed(stream)` does; returns what was rendered."""
    rendered, idle = [], []

    async def run():
      async def render(request, quality, extras):
        rendered.append((request.number, quality, extras))
        await asyncio.sleep(render_seconds)
        return b''

      async def send(message):
        if shows:
          one.acknowledge(rendered[-1][0])

      async def rest(request, is_stale):
        idle.append((request.number, is_stale()))

      one = stream.Stream(render, send, idle=rest, timeout=timeout)
      running = asyncio.create_task(one.run())
      feeding = asyncio.create_task(feed(one))
      done, _ = await asyncio.wait(
        [running, feeding], return_when=asyncio.FIRST_COMPLETED
      )
      running.cancel()
      if running in done:
        running.result()
      return rendered, idle

    return asyncio.run(run())

  def test_the_newest_request_wins(self):
    async def feed(one):
      for number in range(100):
        one.offer(stream.Request(number, views.View(), moving=True))
        await asyncio.sleep(0.002)
      one.offer(stream.Request(100, views.View()))
      await asyncio.sleep(0.2)

    rendered, idle = self._serve(feed, render_seconds=0.03)
    numbers = [number for number, _, _ in rendered]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 100
    assert len(numbers) < 40
    assert idle[-1] == (100, False)
    assert (numbers[0], True) in idle

  def test_a_page_that_shows_nothing_is_given_up(self):
    async def feed(one):
      one.offer(stream.Request(1, views.View()))
      await asyncio.sleep(5)

    with pytest.raises(TimeoutError):
      self._serve(feed, timeout=0.05, shows=False)


class TestPace:
  def test_slow_connections_get_smaller_pictures_while_moving(self):
    pace = stream.Pace()
    assert pace.quality(moving=True) == stream.LEVELS[0]
    for _ in range(60):
      pace.observe(0.01, 0.2, moving=True, extras=False)
    assert pace.quality(moving=True) == stream.LEVELS[-1]
    assert pace.quality(moving=False) == stream.LEVELS[0]
    for _ in range(60):
      pace.observe(0.01, 0.001, moving=True, extras=False)
    assert pace.quality(moving=True) == stream.LEVELS[0]

  def test_slow_models_show_images_alone_while_moving(self):
    pace = stream.Pace()
    for _ in range(20):
      pace.observe(0.3, 0.001, moving=True, extras=True)
    assert not pace.has_extras(moving=True)
    assert pace.has_extras(moving=False)
    assert pace.quality(moving=True) == stream.LEVELS[0]
    for _ in range(100):
      pace.observe(0.01, 0.001, moving=True, extras=False)
    assert pace.has_extras(moving=True)
