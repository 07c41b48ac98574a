"""Runs commands of this package as their users do, in processes."""

import os
import pathlib
import subprocess
import sys

import sg3jax


def make(cache: pathlib.Path):
  """Returns `call('import', ...)`, which runs one: (status, out, error).

  Args:
    cache: A folder for compiled programs.
  """
  env = os.environ | {
    'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join(
      filter(
        None,
        [
          str(pathlib.Path(sg3jax.__file__).parents[1]),
          os.environ.get('PYTHONPATH'),
        ],
      )
    ),
  }

  def call(*args):
    process = subprocess.run(
      [sys.executable, '-m', 'sg3jax', *map(str, args)],
      env=env,
      capture_output=True,
      text=True,
      timeout=600,
      check=False,
    )
    return process.returncode, process.stdout, process.stderr

  return call
