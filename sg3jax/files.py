"""Files written whole or not at all, and what is said if they cannot be."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# `pathlib` makes one slash of two.
_ADDRESS = re.compile(
  r'[a-z][a-z0-9+.-]*://|(https?|ftp|gs|s3):/', re.IGNORECASE
)


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a path that a user named, with `~` for their home folder.

  Raises:
    ValueError: If it is the address of something elsewhere.
  """
  text = os.fspath(path)
  if _ADDRESS.match(text):
    raise ValueError(
      f'{text} is an address and no path on this machine: download it first, '
      'and name the local copy'
    )
  return pathlib.Path(os.path.expanduser(text))


def check_folder(path: str | os.PathLike[str]) -> None:
  """Checks that files can be written to a folder, which may still be missing.

  Raises:
    NotADirectoryError: If it, or what it would lie in, is a file.
    PermissionError: If it must not be written to.
  """
  folder = pathlib.Path(path).absolute()
  while not folder.exists() and folder != folder.parent:
    folder = folder.parent
  if not folder.is_dir():
    raise NotADirectoryError(f'{folder} is a file: choose another folder')
  if not os.access(folder, os.W_OK | os.X_OK):
    raise PermissionError(
      f'{folder} cannot be written to: make it writable, or choose another '
      'folder'
    )


@contextlib.contextmanager
def naming_errors(path: str | os.PathLike[str]) -> Iterator[None]:
  """Makes errors of writing name what could not be written, and the reason.

  Raises:
    OSError: If the body raises one, with a sentence for its message.
  """
  try:
    yield
  except OSError as error:
    if error.errno is None:  # It is a sentence already.
      raise
    remedy = (
      'make room there'
      if error.errno in _FULL
      else 'make it writable, or choose another place'
    )
    raise OSError(
      f'{pathlib.Path(path)} cannot be written: {os.strerror(error.errno)}: '
      f'{remedy}'
    ) from error


def write_error(path: str | os.PathLike[str], error: Exception) -> OSError:
  """Returns the error to raise: it names the path, the reason and the remedy.

  Args:
    path: What could not be written.
    error: What the attempt raised.
  """
  number = getattr(error, 'errno', None)
  # So do the libraries below a checkpoint spell it.
  if match := re.search(r"os_error_code='(\d+)'", str(error)):
    number = int(match[1])
  reason = os.strerror(number) if number else str(error).partition('\n')[0]
  remedy = (
    'Make room there, or raise the quota, and run the same command again: it '
    'goes on from the newest checkpoint, the earlier ones are whole'
    if number in _FULL
    else 'Make it writable, or choose another --workdir'
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
    OSError: If it cannot be written, as `write_error` says it.
  """
  try:
    write_bytes(path, text.encode())
  except OSError as error:
    raise write_error(path, error) from error
