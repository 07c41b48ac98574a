"""Copies datasets from Google Cloud Storage to this machine's disk.

Images are read in random order, epoch after epoch, so that a local copy is
faster and cheaper than reading from the bucket. Each host makes its own.
"""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from sg3jax import files
from sg3jax.data import array_records

_ADDRESS = re.compile(r'gs://([^/]+)/(.*[^/])/?')
_SUFFIXES = (array_records.SUFFIX, '.json')


def is_remote(spec: str) -> bool:
  """Returns whether a string is an address that `fetch` may know."""
  return spec.startswith('gs://')


def fetch(address: str) -> pathlib.Path:
  """Returns a local copy of a dataset, made or completed if necessary.

  Files are compared by their size, and are complete or absent: a copy that was
  interrupted goes on. Files that are no longer in the bucket are removed from
  the copy, which is in `datasets` of the cache folder.

  Args:
    address: `gs://BUCKET/PATH` of a zip file, or of a folder of which the
      ArrayRecord files and dataset.json are copied.

  Raises:
    ValueError: If it is no such address, or the folder has no such files.
    ImportError: If the package for Google Cloud Storage is missing.
    OSError: If the bucket cannot be read, or the disk is too small.
  """
  match = _ADDRESS.fullmatch(address)
  if match is None:
    raise ValueError(
      f'an address must be gs://BUCKET/PATH, got {address!r}: add the path '
      'of a folder of .array_record files or of a .zip file'
    )
  # Imported here, because it takes a while and few need it.
  from etils import epath

  local = files.cache_folder() / 'datasets' / match[1] / match[2]
  with _reading(address):
    remote = epath.Path(address)
    if match[2].endswith('.zip'):
      found = {local: remote}
    else:
      found = {
        local / path.name: path
        for path in remote.iterdir()
        if path.name.endswith(_SUFFIXES)
      }
    sizes = {path: found[path].stat().length for path in found}
  if not any(path.suffix in (array_records.SUFFIX, '.zip') for path in found):
    raise ValueError(
      f'{address} must contain .array_record files, got none: prepare the '
      'data with `sg3jax data prepare --dest=NAME.array_record` and upload '
      'that folder'
    )
  missing = {
    path: size
    for path, size in sizes.items()
    if not path.exists() or path.stat().st_size != size
  }
  local.parent.mkdir(parents=True, exist_ok=True)
  _check_room(address, local.parent, sum(missing.values()))
  for path in missing:
    with _reading(address), found[path].open('rb') as source:
      _copy(source, path)
  if local.is_dir():
    for path in local.iterdir():
      if path.name.endswith(_SUFFIXES) and path not in found:
        path.unlink(missing_ok=True)
  return local


def _check_room(address: str, folder: pathlib.Path, needed: int) -> None:
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise OSError(
      f'the copy of {address} needs {needed / 2**30:.1f} GiB in {folder}, got '
      f'{free / 2**30:.1f} GiB: make room, or set XDG_CACHE_HOME to a folder '
      'on a larger disk'
    )


def _copy(source: Any, path: pathlib.Path) -> None:
  """Writes a file whole; several processes of a host may do so at once."""
  with (
    files.replacing(path) as temporary,
    temporary.open('wb') as target,
  ):
    shutil.copyfileobj(source, target, 1 << 24)


@contextlib.contextmanager
def _reading(address: str) -> Iterator[None]:
  """Turns the errors of packages for buckets into those of this package."""
  try:
    yield
  except ImportError as error:
    raise ImportError(
      f"reading {address} needs the package gcsfs: pip install 'sg3jax[gcs]', "
      'or download the data and pass the folder'
    ) from error
  except Exception as error:  # Packages for buckets raise almost anything.
    raise OSError(
      f'cannot read {address} ({type(error).__name__}: {error}): check the '
      'address, and that this machine may read the bucket, or download the '
      'data and pass the folder'
    ) from error
