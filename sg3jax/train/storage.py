"""What is said when something cannot be written."""

import errno
import os
import pathlib
import re

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
