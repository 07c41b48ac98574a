"""Setup of JAX's persistent compilation cache for the commands.

Compiling a large model takes minutes, and every command is a new process. If
JAX is given a cache folder, it stores compiled programs there, keyed by
everything that they depend on: the program, the devices and the versions. The
commands use a folder below the user's cache folder. When this package is used
from Python, it leaves the setting unchanged.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import warnings
from typing import Any

import jax

from sg3jax import files

_CONFIG: Any = jax.config  # Its fields are made at run time.

# With less free space than this, in bytes, nothing is cached. A program takes a
# few MiB.
_LEAST_FREE = 2**30


def enable(choice: str | None) -> None:
  """Sets the folder in which JAX caches compiled programs.

  If the folder cannot be used, prints one warning and disables the cache.

  Args:
    choice: The folder or URL, or 'none' to disable the cache. None stands for
      the user's setting in JAX, or else `default_folder`.
  """
  if choice is None and _is_chosen_by_user():
    return
  try:
    folder = None if choice == 'none' else choice or str(default_folder())
    if folder and '://' not in folder:  # JAX checks buckets itself.
      path = pathlib.Path(folder).expanduser().absolute()
      folder = str(path)
      _check(path)
  except (OSError, RuntimeError) as error:
    print(
      f'warning: compiled programs are not kept: {error} '
      '(--compilation_cache=FOLDER names another folder, or none)',
      file=sys.stderr,
    )
    folder = None
  # If the disk fills up later, the next command prints the warning above.
  warnings.filterwarnings(
    'ignore', 'Error writing persistent compilation cache'
  )
  _CONFIG.update('jax_compilation_cache_dir', folder)


def current_folder() -> str | None:
  """Returns the folder in which JAX caches programs; None if it does not."""
  if not _CONFIG.jax_enable_compilation_cache:
    return None
  return _CONFIG.jax_compilation_cache_dir or None


def default_folder() -> pathlib.Path:
  """Returns the default cache folder, below the user's cache folder.

  Raises:
    RuntimeError: If the user has no home folder.
  """
  return files.cache_folder() / 'compiled'


def _is_chosen_by_user() -> bool:
  return (
    _CONFIG.jax_compilation_cache_dir is not None
    or 'JAX_COMPILATION_CACHE_DIR' in os.environ
  )


def _check(folder: pathlib.Path) -> None:
  """Makes a folder, and raises OSError unless files can be written to it."""
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=folder):
    pass
  free = shutil.disk_usage(folder).free
  if free < _LEAST_FREE:
    raise OSError(
      f'the disk of {folder} must have {_LEAST_FREE / 2**30:g} GiB of free '
      f'space, got {free / 2**30:.2f}'
    )
