"""Gives Orbax paths that it accepts, and interprets its errors.

Orbax reads and writes through TensorStore, whose errors are ValueErrors. Their
messages begin with the kind of error in capitals (`DATA_LOSS: ...`) and end
with the system's error number, if there is one (`[os_error_code='5']`).
"""

import atexit
import contextlib
import errno
import functools
import gc
import logging
import os
import pathlib
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Any

from sg3jax import files

# Orbax interprets brackets, stars and question marks as file name patterns.
# TensorStore interprets a backslash as a slash and `gs:/` as an address.
# Neither accepts a name that is not Unicode.
_AWKWARD = re.compile('[][*?\\\\:\ud800-\udfff]')

# Messages about reads in asyncio's log contain one of these names.
_READERS = re.compile('orbax|TensorStore|OCDBT')

# System errors that mean that a part of a checkpoint is missing.
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_MISSING_NUMBERS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)

_STATUS = re.compile(
  'ABORTED|ALREADY_EXISTS|CANCELLED|DATA_LOSS|DEADLINE_EXCEEDED|'
  'FAILED_PRECONDITION|INTERNAL|INVALID_ARGUMENT|NOT_FOUND|OUT_OF_RANGE|'
  'PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAUTHENTICATED|UNAVAILABLE|UNKNOWN'
)

# The TensorStore errors that do not imply damage to what is stored.
_TRANSIENT = (
  'ABORTED', 'CANCELLED', 'DEADLINE_EXCEEDED', 'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED', 'UNAUTHENTICATED', 'UNAVAILABLE',
)  # fmt: skip


class DamagedError(ValueError):
  """The checksums or the structure of a checkpoint are wrong."""


@functools.cache
def safe_path(folder: pathlib.Path) -> pathlib.Path:
  """Returns a path to a folder that Orbax takes literally.

  If its name has characters with a special meaning to Orbax or TensorStore,
  this is a link to it that exists until this process ends; otherwise it is the
  folder itself.
  """
  if not _AWKWARD.search(str(folder)):
    return folder
  link = pathlib.Path(tempfile.mkdtemp(prefix='sg3jax-')) / folder.name
  atexit.register(shutil.rmtree, link.parent, ignore_errors=True)
  link.symlink_to(folder, target_is_directory=True)
  return link


def reason_of(error: BaseException) -> str:
  """Returns the original cause of an error, on one line."""
  while error.__cause__ is not None:
    error = error.__cause__
  if number := _system_error(error):
    return os.strerror(number)
  line = f'{type(error).__name__}: {error}'.partition('\n')[0]
  return line.partition(' [tensorstore_spec=')[0]


@contextlib.contextmanager
def reading(folder: pathlib.Path) -> Iterator[None]:
  """Distinguishes damage from read failures in calls of Orbax that read.

  Reads that Orbax abandons because another read of the same checkpoint has
  failed print nothing.

  Args:
    folder: The checkpoint, for messages.

  Raises:
    DamagedError: If what is stored does not have a checkpoint's structure.
    OSError: If it could not be read, although it may be intact.
  """
  with _quiet():
    try:
      yield
    except Exception as error:
      if not _is_from_storage(error):
        raise
      reason = reason_of(error)
      is_damage = _is_damage(error)
      _drop_frames(error)
      # Orbax reports some unreadable files as missing.
      if is_damage and (found := _find_unreadable(folder)):
        is_damage, reason = False, reason_of(found)
      if is_damage:
        raise DamagedError(reason) from error
      raise OSError(
        f'the checkpoint {folder} could not be read ({reason}). It may be '
        'whole, and nothing was changed: run the same command again when the '
        'folder can be read'
      ) from error


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
  """Names the folder in write errors from calls of Orbax that write.

  Raises:
    OSError: If a file could not be written; see `files.write_error`.
  """
  try:
    yield
  except Exception as error:
    if any(
      isinstance(cause, OSError) or _STATUS.match(str(cause))
      for cause in _causes(error)
    ):
      raise files.write_error(
        folder,
        error,
        'it continues from the newest checkpoint; earlier ones are complete',
      ) from error
    raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """Yields an error and its causes."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _is_from_storage(error: Exception) -> bool:
  """Returns whether an error from Orbax comes from the files that it reads.

  These are errors of the system, of TensorStore, or of parsing the contents of
  a file. Orbax wraps some of them in a bare Exception. Anything else, such as
  a lack of memory or a bug in this package, does not count.
  """
  kinds = (OSError, ValueError, LookupError, AttributeError, TypeError)
  return all(
    isinstance(cause, kinds) or type(cause) is Exception
    for cause in _causes(error)
  )


def _is_damage(error: Exception) -> bool:
  """Returns whether a read error comes from what is stored."""
  for cause in _causes(error):
    if isinstance(cause, OSError) and not isinstance(cause, _MISSING):
      return False
    if str(cause).partition(':')[0] in _TRANSIENT:
      return False
    number = _system_error(cause)
    if number is not None and number not in _MISSING_NUMBERS:
      return False
  return True


def _find_unreadable(folder: pathlib.Path) -> OSError | None:
  """Returns the error of a file that exists but is unreadable, or None."""
  errors: list[OSError] = []
  for parent, _, names in os.walk(folder, onerror=errors.append):
    for name in names:
      try:
        with open(os.path.join(parent, name), 'rb') as file:
          file.read(1)
      except OSError as error:
        errors.append(error)
  found = (error for error in errors if not isinstance(error, _MISSING))
  return next(found, None)


def _system_error(error: BaseException) -> int | None:
  """Returns the system's error number, or None if there is none."""
  if match := re.search(r"os_error_code='(\d+)'", str(error)):
    return int(match[1])
  return error.errno if isinstance(error, OSError) else None


def _drop_frames(error: BaseException) -> None:
  """Releases the reads held by the frames of an error, which ends them."""
  for cause in _causes(error):
    traceback.clear_frames(cause.__traceback__)
  gc.collect()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences reads that Orbax abandons, which would each print a page.

  They end in TensorStore's threads while the error still propagates, or during
  garbage collection: as unraisable exceptions, or in asyncio's log.
  """
  before = sys.unraisablehook

  def report(unraisable: Any) -> None:
    code = getattr(unraisable.object, 'cr_code', None)
    is_read = code is not None and 'orbax' in code.co_filename
    if not is_read and str(unraisable.exc_value) != 'Event loop is closed':
      before(unraisable)

  def is_ours(record: logging.LogRecord) -> bool:
    return not _READERS.search(record.getMessage())

  log = logging.getLogger('asyncio')
  sys.unraisablehook = report
  log.addFilter(is_ours)
  try:
    yield
  finally:
    sys.unraisablehook = before
    log.removeFilter(is_ours)
