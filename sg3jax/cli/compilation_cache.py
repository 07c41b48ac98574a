"""Compiled programs that are kept from one command to the next.

Compiling a large model takes minutes, and every command compiles anew. JAX
keeps programs in a folder if it has one (its persistent compilation cache),
and finds them by all that they depend on: the program, the devices, the
versions. The commands give it one below the user's cache folder. Used from
Python, this package leaves the setting as it is.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import warnings
from typing import Any

import jax

_CONFIG: Any = jax.config  # Its fields are made at run time.

# Below this much free space the disk is left to others; a program takes a few
# MiB.
_LEAST_FREE = 2**30


def enable(choice: str | None) -> None:
  """Chooses the folder where JAX keeps compiled programs.

  If the folder cannot be used, prints one warning and keeps nothing.

  Args:
    choice: The folder or URL, or 'none' to keep nothing. None for what the user
      has set in JAX, or else `default_folder`.
  """
  if choice is None and _is_chosen_by_user():
    return
  try:
    folder = None if choice == 'none' else choice or str(default_folder())
    if folder and '://' not in folder:  # In a bucket JAX finds out itself.
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
  # If the disk fills up later on, the next command says so, in one line.
  warnings.filterwarnings(
    'ignore', 'Error writing persistent compilation cache'
  )
  _CONFIG.update('jax_compilation_cache_dir', folder)


def current_folder() -> str | None:
  """Returns the folder where JAX keeps compiled programs; None for nowhere."""
  if not _CONFIG.jax_enable_compilation_cache:
    return None
  return _CONFIG.jax_compilation_cache_dir or None


def default_folder() -> pathlib.Path:
  """Returns the folder for compiled programs below the user's cache folder.

  Raises:
    RuntimeError: If the user has no home folder.
  """
  root = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(root):  # The XDG specification says to ignore these.
    root = '~/Library/Caches' if sys.platform == 'darwin' else '~/.cache'
  return pathlib.Path(root).expanduser() / 'sg3jax' / 'compiled'


def _is_chosen_by_user() -> bool:
  return (
    _CONFIG.jax_compilation_cache_dir is not None
    or 'JAX_COMPILATION_CACHE_DIR' in os.environ
  )


def _check(folder: pathlib.Path) -> None:
  """Raises OSError unless files can be written to a folder, which is made."""
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=folder):
    pass
  free = shutil.disk_usage(folder).free
  if free < _LEAST_FREE:
    raise OSError(
      f'the disk of {folder} must have {_LEAST_FREE / 2**30:g} GiB of free '
      f'space, got {free / 2**30:.2f}'
    )
