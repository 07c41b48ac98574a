"""A tiny run in a process of its own, which may kill itself: for tests.

    python run_tiny.py WORKDIR DESIGN [step|save COUNT]

kills the process, without any chance to clean up, after so many steps, or while
the checkpoint of that number is being written.
"""

import os
import signal
import sys

import numpy as np
import tiny

from sg3jax.train import checkpoint, loop, sharding, steps


class Noise:
  """Forty random images with labels of three classes."""

  name, resolution, channels, label_dim = 'noise', 16, 3, 3

  def __init__(self):
    rng = np.random.RandomState(0)
    self._images = rng.randint(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    self._labels = np.eye(3, dtype=np.float32)[rng.randint(3, size=40)]

  def __len__(self):
    return len(self._images)

  def __getitem__(self, index):
    return {'image': self._images[index], 'label': self._labels[index]}

  def labels(self):
    return self._labels


def _kill_after(count: int, function):
  calls = 0

  def counted(*args, **kwargs):
    nonlocal calls
    result = function(*args, **kwargs)
    calls += 1
    if calls == count:
      os.kill(os.getpid(), signal.SIGKILL)
    return result

  return counted


def main():
  workdir, design, *kill = sys.argv[1:]
  if kill and kill[0] == 'step':
    jit_step = steps.jit_step
    steps.jit_step = lambda *args: _kill_after(int(kill[1]), jit_step(*args))
  elif kill:  # `save` returns when it has begun to write in the background.
    checkpoint.Checkpoints.save = _kill_after(
      int(kill[1]), checkpoint.Checkpoints.save
    )
  config = tiny.tiny_config(design, total_kimg=0.096)
  config.data.cond = True
  config.data.mirror = True
  config.seed = 4  # D finds some of these real from the start: p rises at once.
  # The checkpoints, of every fourth step, fall between two adaptations.
  config.train.augment.update(
    mode='ada', interval=3, speed_kimg=0.1, target=-0.9
  )
  loop.train(config, Noise(), workdir, mesh=sharding.make_mesh(1))


if __name__ == '__main__':
  main()
