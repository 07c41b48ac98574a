"""A tiny run, of which this is one process of several: for tests.

    python run_hosts.py WORKDIR ADDRESS NUMBER INDEX KIMG LAYOUT [FAULT STEP]

Process INDEX of NUMBER trains on its devices, all of which JAX_NUM_CPU_DEVICES
counts, up to KIMG. After STEP steps FAULT befalls it: FULL_DISK, or the signal
of that name.
"""

import errno
import os
import signal
import sys

import noise
import tiny

from sg3jax import files
from sg3jax.train import loop, peers, processes, sharding
from sg3jax.train.step import trainer


def main():
  workdir, address, number, index, kimg, layout, *kill = sys.argv[1:]
  if int(number) > 1:
    processes.join(address, int(number), int(index))
  peers.Watch.__init__.__kwdefaults__.update(interval=1.0, patience=10.0)
  if kill:
    _strike_after(int(kill[1]), kill[0])
  config = tiny.tiny_config(total_kimg=float(kimg))
  config.train.sharding = layout
  for part in (config.model.synthesis, config.model.discriminator):
    part.channel_base, part.channel_max = 512, 32
  config.data.cond = True
  source = noise.Noise(40, label_dim=3)
  loop.train(config, source, workdir, mesh=sharding.make_mesh())


def _strike_after(step: int, fault: str) -> None:
  jit_step = trainer.jit_step
  count = 0

  def counting(*args):
    run = jit_step(*args)

    def counted(*args):
      nonlocal count
      result = run(*args)
      count += 1
      if count == step:
        _strike(fault)
      return result

    return counted

  trainer.jit_step = counting


def _strike(fault: str) -> None:
  if fault != 'FULL_DISK':
    os.kill(os.getpid(), signal.Signals[fault])
    return

  def fail(path, text):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    raise files.write_error(path, error)

  files.append_text = fail


if __name__ == '__main__':
  main()
