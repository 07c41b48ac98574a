"""Functions that the tests of the runner run in workers."""

import os
import pathlib
import signal
import time

import jax


def square(x):
  """Returns a figure, and where it was computed."""
  time.sleep(0.2)
  return {'square': x * x, 'pid': os.getpid()}


def die_once(marker):
  """Is killed in the middle; when started again it finishes."""
  path = pathlib.Path(marker)
  with path.open('a') as file:
    file.write('started\n')
  if len(path.read_text().splitlines()) == 1:
    os.kill(os.getpid(), signal.SIGKILL)
  return {'square': -1}


def die(marker):
  """Is killed, as often as it is started."""
  with pathlib.Path(marker).open('a') as file:
    file.write('started\n')
  os.kill(os.getpid(), signal.SIGKILL)


def fail():
  """Cannot succeed."""
  raise FloatingPointError('the losses\nare not finite')


def compilation_cache():
  """Returns the folder where this process keeps compiled programs."""
  return {'folder': jax.config.jax_compilation_cache_dir}


def wait(marker):
  """Takes longer than any test."""
  pathlib.Path(marker).write_text(str(os.getpid()))
  time.sleep(600)
