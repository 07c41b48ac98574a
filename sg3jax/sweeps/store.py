"""What is known of the points of a sweep, in files.

    results/NAME.json   a point's record: its configuration, status and figures
    errors/NAME.txt     the traceback of one that failed
    runs/NAME/          the run folder of one that is trained

A record is written whole or not at all. What is measured again is never lost:
the older record and run folder get a number, `NAME.json.1` and `NAME.1`.
"""

import json
import pathlib
from typing import Any

from sg3jax import files

Record = dict[str, Any]


class Store:
  """The folder of one sweep in one mode. One process may write to it.

  Attributes:
    folder: The folder.
  """

  def __init__(self, folder: str | pathlib.Path):
    self.folder = pathlib.Path(folder).absolute()
    self._lock = None

  def lock(self) -> None:
    """Keeps other processes from running the same sweep, until this one ends.

    Raises:
      ValueError: If one is.
      OSError: If the folder cannot be written.
    """
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      self._lock = files.lock(self.folder / '.lock')
    except files.LockedError as error:
      raise ValueError(
        f'another process is running the sweep in {self.folder} ({error}): '
        'wait for it, or choose another --outdir'
      ) from error
    except OSError as error:
      raise files.write_error(self.folder, error) from error

  def run_folder(self, name: str) -> pathlib.Path:
    """Returns where a point is trained."""
    return self.folder / 'runs' / name

  def read(self, name: str) -> Record | None:
    """Returns the record of a point, None if there is none.

    Raises:
      ValueError: If the file is damaged.
    """
    path = self._record(name)
    if not path.exists():
      return None
    try:
      return json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
      raise ValueError(
        f'{path} is no valid record ({error}): move it away to run the point '
        'again'
      ) from error

  def write(self, name: str, record: Record, traceback: str = '') -> None:
    """Writes a record at once, and the traceback of a point that failed.

    Raises:
      OSError: If the folder cannot be written, or the disk is full.
    """
    text = json.dumps(record, indent=2, allow_nan=False)
    files.write_text(self._record(name), f'{text}\n')
    errors = self.folder / 'errors' / f'{name}.txt'
    if traceback:
      files.write_text(errors, traceback)
    elif record['status'] == 'done':
      errors.unlink(missing_ok=True)

  def names(self) -> set[str]:
    """Returns the names of all points that have a record."""
    return {path.stem for path in (self.folder / 'results').glob('*.json')}

  def set_aside(self, name: str, *, with_run: bool) -> None:
    """Numbers what there is of a point, so that it can be made again.

    Args:
      name: The point.
      with_run: Whether that includes the run folder.
    """
    paths = [self._record(name)]
    if with_run:
      paths.append(self.run_folder(name))
    number = 1  # Behind a sign that no point's name has.
    while any(
      path.with_name(f'{path.name}~{number}').exists() for path in paths
    ):
      number += 1
    for path in paths:
      if path.exists():
        path.rename(path.with_name(f'{path.name}~{number}'))

  def _record(self, name: str) -> pathlib.Path:
    return self.folder / 'results' / f'{name}.json'
