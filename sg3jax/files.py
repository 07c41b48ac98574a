"""Paths given by users, files written whole or not at all, and locks."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import socket
import time
import warnings
from collections.abc import Iterator
from typing import IO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# What a file system answers that keeps no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the path that a user means: a leading `~` is the home folder.

  Args:
    path: A file or folder of a local or mounted file system.

  Raises:
    ValueError: If it is an address, such as `gs://bucket/run`. A local folder
      of such a name can be given as `./gs:/bucket/run`.
  """
  text = os.fspath(path)
  # `pathlib.Path` leaves one slash of the two.
  if re.match('[A-Za-z][A-Za-z0-9+.-]+:/', text):
    raise ValueError(
      f'the folder must be on a local or mounted file system, got {text!r}: '
      'mount the bucket or server (a bucket with gcsfuse or s3fs, for '
      'instance), and name the folder where it is mounted'
    )
  return pathlib.Path(os.path.expanduser(text))


def write_error(path: str | os.PathLike[str], error: Exception) -> OSError:
  """Returns the error to raise: it names the path, the reason and the remedy.

  Args:
    path: What could not be written.
    error: What the attempt raised.
  """
  number = getattr(error, 'errno', None)
  # This is how the libraries below a checkpoint spell it.
  if match := re.search(r"os_error_code='(\d+)'", str(error)):
    number = int(match[1])
  reason = os.strerror(number) if number else str(error).partition('\n')[0]
  remedy = (
    'Make room there, or raise the quota, and run the same command again: it '
    'goes on from the newest checkpoint, the earlier ones are whole'
    if number in _FULL
    else 'Make it writable, or choose another folder'
  )
  return OSError(f'Cannot write {pathlib.Path(path)}: {reason}. {remedy}')


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a path to write to; what was written then takes the place of `path`.

  A reader finds the old file or the new one, whole. If the writing fails, the
  old one stays and nothing else is left. The path has the suffix of the file;
  folders are made.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Hosts that share the folder may have equal process ids.
  token = secrets.token_hex(4)
  temporary = path.with_name(f'.{path.stem}.{token}{path.suffix}')
  try:
    yield temporary
    with open(temporary, 'rb+') as file:
      os.fsync(file.fileno())  # The data first, then the name.
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file at once, as `replacing` does."""
  with replacing(path) as temporary:
    temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file at once, as `replacing` does.

  Raises:
    OSError: If it cannot be written; see `write_error`.
  """
  try:
    write_bytes(path, text.encode())
  except OSError as error:
    raise write_error(path, error) from error


def append_text(path: str | os.PathLike[str], text: str) -> None:
  """Appends to a text file, making it if need be.

  Raises:
    OSError: If it cannot be written; see `write_error`.
  """
  try:
    with open(path, 'a', encoding='utf-8') as file:
      file.write(text)
  except OSError as error:
    raise write_error(path, error) from error


class LockedError(ValueError):
  """Another process holds a lock; the message says which one."""


def lock(path: str | os.PathLike[str]) -> IO[str]:
  """Takes the lock of a file for this process, without waiting.

  The lock ends when the file that is returned is closed, and with the process,
  however that ends: what a dead process has left in the file is in nobody's
  way. The file stays where it is. On a file system without locks this warns
  and goes on.

  Args:
    path: The file, which is made if need be; its folder exists.

  Returns:
    The file: keep it open as long as the lock is needed.

  Raises:
    LockedError: If another process, or another part of this one, holds the
      lock. The message names its host, its process id and since when.
    OSError: If the file cannot be written.
  """
  file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
  try:
    _flock(file)
  except BlockingIOError as error:
    file.seek(0)
    holder = file.read().strip() or 'another process'
    file.close()
    raise LockedError(holder) from error
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      file.close()
      raise
    warnings.warn(
      f'{pathlib.Path(path).parent} is on a file system without locks '
      f'({os.strerror(error.errno)}): do not run two processes there at once',
      RuntimeWarning,
      stacklevel=2,
    )
  file.truncate(0)
  since = time.strftime('%Y-%m-%d %H:%M:%S %Z')
  file.write(
    f'process {os.getpid()} on {socket.gethostname()}, since {since}\n'
  )
  file.flush()
  return file


def _flock(file: IO[str]) -> None:
  try:
    import fcntl
  except ImportError as error:  # Windows has none.
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
  fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
