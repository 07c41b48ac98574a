"""A tiny run in a process of its own, which may be killed: for tests.

    python run_tiny.py WORKDIR DESIGN [SIGNAL step|save|time|start COUNT]

sends itself the signal (SIGKILL, SIGTERM) after so many steps, while the
checkpoint of that number is being written, or so many seconds after its first
step or its start. The last line that it prints are its seconds from that step
to the end.
"""

import os
import signal
import sys
import threading
import time

import noise
import tiny

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import loop, preemption, sharding
from sg3jax.train.step import trainer


def make_source() -> noise.Noise:
  """Returns forty random images with labels of three classes."""
  return noise.Noise(40, label_dim=3)


def _call_after(count: int, function, action):
  """Returns the function, which does something more at its call number."""
  calls = 0

  def counted(*args, **kwargs):
    nonlocal calls
    result = function(*args, **kwargs)
    calls += 1
    if calls == count:
      action()
    return result

  return counted


def _after_step(count: int, action) -> None:
  jit_step = trainer.jit_step
  trainer.jit_step = lambda *args: _call_after(count, jit_step(*args), action)


def _prepare(
  number: signal.Signals, when: str, count: float, over: threading.Event
) -> None:
  def strike():
    if not over.is_set():  # Nobody would handle the signal any more.
      os.kill(os.getpid(), number)

  if when in ('time', 'start'):
    timer = threading.Timer(count, strike)
    timer.daemon = True
    if when == 'start':
      timer.start()
    else:
      _after_step(1, timer.start)
  elif when == 'step':
    _after_step(int(count), strike)
  else:  # `save` returns when it has begun to write in the background.
    checkpoint_lib.Checkpoints.save = _call_after(
      int(count), checkpoint_lib.Checkpoints.save, strike
    )


def main():
  workdir, design, *kill = sys.argv[1:]
  over = threading.Event()
  if kill:
    _prepare(signal.Signals[kill[0]], kill[1], float(kill[2]), over)
  start = []
  _after_step(1, lambda: start.append(time.monotonic()))
  config = tiny.tiny_config(design, total_kimg=0.096)
  config.data.cond = True
  config.data.mirror = True
  config.seed = 4  # D finds some of these real from the start: p rises at once.
  # The checkpoints, of every fourth step, fall between two adaptations.
  config.train.augment.update(
    mode='ada', interval=3, speed_kimg=0.1, target=-0.9
  )
  mesh = sharding.make_mesh(1)
  with preemption.stop_on_signals() as stop:
    loop.train(config, make_source(), workdir, mesh=mesh, stop=stop)
    over.set()
  if stop.obeyed:
    sys.exit(preemption.EXIT_CODE)
  if start:  # Not in a run that had ended before.
    print(time.monotonic() - start[0])


if __name__ == '__main__':
  main()
