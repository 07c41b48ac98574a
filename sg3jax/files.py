"""Paths given by users, atomic writes of files, and locks."""

import contextlib
import errno
import json
import os
import pathlib
import re
import secrets
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import IO, Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# How TensorStore and safetensors write the error number into their messages.
_ERROR_NUMBER = re.compile(r"os_error_code='(\d+)'|\(os error (\d+)\)")

# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


# `pathlib` merges two slashes into one.
_ADDRESS = re.compile('[a-z][a-z0-9+.-]+:/', re.IGNORECASE)


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the path given by a user, with `~` expanded to the home folder.

  Args:
    path: A file or folder in a local or mounted file system.

  Raises:
    ValueError: If the path is an address, such as `gs://bucket/run`. A local
      folder with such a name can be given as `./gs:/bucket/run`.
  """
  text = os.fspath(path)
  if _ADDRESS.match(text):
    raise ValueError(
      'the path must be on a local or mounted file system, got the address '
      f'{text}: download it first and pass the local copy, or mount the bucket '
      'or server and pass the folder where it is mounted'
    )
  return pathlib.Path(os.path.expanduser(text))


def cache_folder() -> pathlib.Path:
  """Returns this package's folder below the user's cache folder.

  Raises:
    RuntimeError: If the user has no home folder.
  """
  root = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(root):  # The XDG specification ignores these.
    root = '~/Library/Caches' if sys.platform == 'darwin' else '~/.cache'
  return pathlib.Path(root).expanduser() / 'sg3jax'


def check_folder(path: str | os.PathLike[str]) -> None:
  """Checks that files can be written to a folder, which need not exist yet.

  Raises:
    NotADirectoryError: If the folder or one of its parents is a file.
    PermissionError: If the folder is not writable.
  """
  folder = pathlib.Path(path).absolute()
  while not folder.exists() and folder != folder.parent:
    folder = folder.parent
  if not folder.is_dir():
    raise NotADirectoryError(f'{folder} is a file: choose another folder')
  # What may be written is known for sure only to the file system: it may be
  # special, read-only, or of a server that does not trust this machine's root.
  try:
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    raise PermissionError(
      f'{folder} cannot be written to ({error.strerror}): make it writable, or '
      'choose another folder'
    ) from error


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[Any]:
  """Yields the complete records of a JSON lines file.

  A line that is still being written, or that was cut by a kill, is left out.
  """
  for line in pathlib.Path(path).read_text(encoding='utf-8').splitlines():
    try:
      yield json.loads(line)
    except json.JSONDecodeError:
      continue


@contextlib.contextmanager
def naming_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Adds the path and the remedy to errors raised while writing.

  Raises:
    OSError: If the body raises one; see `write_error`. An error whose message
      is a sentence already is left as it is.
  """
  try:
    yield
  except OSError as error:
    if error.errno is None:
      raise
    raise write_error(path, error) from error


def write_error(
  path: str | os.PathLike[str], error: Exception, consequence: str = ''
) -> OSError:
  """Returns an error that names the path, the reason and the remedy.

  Args:
    path: File or folder that could not be written.
    error: Error that the attempt raised.
    consequence: What happens if the same command is run again on a disk that
      is no longer full, as a clause; empty to leave it out.
  """
  number = getattr(error, 'errno', None)
  if match := _ERROR_NUMBER.search(str(error)):
    number = int(match[1] or match[2])
  reason = os.strerror(number) if number else str(error).partition('\n')[0]
  if number in _FULL:
    remedy = 'Make room there, or raise the quota, and run the same command'
    remedy += f' again: {consequence}' if consequence else ' again'
  else:
    remedy = 'Make it writable, or choose another folder'
  return OSError(f'Cannot write {pathlib.Path(path)}: {reason}. {remedy}')


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary path, whose file then replaces that at `path`.

  A reader always finds the complete old or new file. If writing fails, the old
  file stays and the temporary file is removed. The temporary path has the
  suffix of `path`. Missing folders are created.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # A process id would not do: hosts that share the folder may have equal ones.
  token = secrets.token_hex(4)
  temporary = path.with_name(f'.{path.stem}.{token}{path.suffix}')
  try:
    yield temporary
    with open(temporary, 'rb+') as file:
      os.fsync(file.fileno())  # Store the data before renaming.
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
  """Writes a file atomically, as `replacing` does."""
  with replacing(path) as temporary:
    temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a text file atomically, as `replacing` does.

  Raises:
    OSError: If the file cannot be written; see `write_error`.
  """
  try:
    write_bytes(path, text.encode())
  except OSError as error:
    raise write_error(path, error) from error


def append_text(path: str | os.PathLike[str], text: str) -> None:
  """Appends to a text file, which is created if it is missing.

  Raises:
    OSError: If the file cannot be written; see `write_error`.
  """
  try:
    with open(path, 'a', encoding='utf-8') as file:
      file.write(text)
  except OSError as error:
    raise write_error(path, error) from error


class LockedError(ValueError):
  """Another process holds a lock; the message describes the process."""


def lock(path: str | os.PathLike[str]) -> IO[str]:
  """Locks a file for this process, without waiting.

  The lock ends when the returned file is closed or the process ends for any
  reason, so a file that a dead process has left does not block others. The file
  is not removed. On a file system without locks, this function only warns.

  Args:
    path: The file, which is created if it is missing; its folder must exist.

  Returns:
    The open file; keep it open as long as the lock is needed.

  Raises:
    LockedError: If another process, or another part of this one, holds the
      lock. The message contains its host, its process id and when it took the
      lock.
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
  except ImportError as error:  # Windows has no such module.
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
  fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
