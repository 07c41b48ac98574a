"""Stores the records of a sweep's points in files.

    results/NAME.json   the record of a point: configuration, status and values
    errors/NAME.txt     the traceback of a point that failed
    runs/NAME/          the run folder of a point that is trained

Records are written atomically. Running a point again loses nothing: the older
record and run folder are renamed with a number, `NAME.json~1` and `NAME~1`.
"""

import json
import pathlib
from typing import Any

from sg3jax import files

Record = dict[str, Any]


class Store:
  """The folder of one sweep in one mode, which one process at a time writes.

  Attributes:
    folder: Absolute path of the folder.
  """

  def __init__(self, folder: str | pathlib.Path):
    self.folder = pathlib.Path(folder).absolute()
    self._lock = None

  def lock(self) -> None:
    """Prevents other processes from running this sweep until this one ends.

    Raises:
      ValueError: If another process is running it.
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
    """Returns the folder in which a point is trained."""
    return self.folder / 'runs' / name

  def read(self, name: str) -> Record | None:
    """Returns the record of a point; None if there is none.

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
        f'{path} must be a valid record, got {error}: move the file away to '
        'run the point again'
      ) from error

  def write(self, name: str, record: Record, traceback: str = '') -> None:
    """Writes the record of a point, and the traceback if the point failed.

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
    """Renames the files of a point, so that it can be run again.

    Args:
      name: Name of the point.
      with_run: Whether to rename the run folder too.
    """
    paths = [self._record(name)]
    if with_run:
      paths.append(self.run_folder(name))
    number = 1  # Follows a ~, which names of points cannot contain.
    while any(
      path.with_name(f'{path.name}~{number}').exists() for path in paths
    ):
      number += 1
    for path in paths:
      if path.exists():
        path.rename(path.with_name(f'{path.name}~{number}'))

  def _record(self, name: str) -> pathlib.Path:
    return self.folder / 'results' / f'{name}.json'
