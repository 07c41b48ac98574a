"""ArrayRecord files whose records are image files, as an archive.

They have random access and checksums, and a set of a million images is a few
hundred files. A folder contains `*.array_record` files and, optionally,
`dataset.json`, whose list `names` names the records in the order of the sorted
files.
"""

import io
import json
import pathlib
from typing import Any

SUFFIX = '.array_record'
_LIST = 'dataset.json'


def are_in(path: pathlib.Path) -> bool:
  """Returns whether a folder directly contains ArrayRecord files."""
  return path.is_dir() and any(path.glob(f'*{SUFFIX}'))


class ArrayRecords:
  """The records of ArrayRecord files and the other files beside them.

  It has the interface of `archives.Folder`. A record has the name that
  dataset.json lists, or else its number and the suffix `.png`, whatever its
  format.

  Attributes:
    path: The folder.
    notes: Sentences about what is not read; there are none.

  Args:
    path: The folder.

  Raises:
    OSError: If a file cannot be read.
    ValueError: If a file is damaged, or if the names do not fit the records.
  """

  notes: tuple[str, ...] = ()

  def __init__(self, path: pathlib.Path):
    self.path = path
    # Imported here, because it takes seconds and processes that only decode
    # images do not need it.
    import grain

    shards = sorted(str(p) for p in path.glob(f'*{SUFFIX}'))
    for shard in shards:
      with open(shard, 'rb'):  # An error of the disk has a number here.
        pass
    try:
      self._records = grain.sources.ArrayRecordDataSource(shards)
      count = len(self._records)  # pyright: ignore[reportArgumentType]
    except RuntimeError as error:
      raise ValueError(
        f'an ArrayRecord file in {path} is damaged ({error}): copy it again'
      ) from error
    names = self._listed_names(count)
    if names is None:
      names = [f'{i:08d}.png' for i in range(count)]
    self._index = {name: i for i, name in enumerate(names)}
    if len(names) != count or len(self._index) != count:
      raise ValueError(
        f'"names" in {path / _LIST} must be {count} different names, one for '
        f'each record, got {len(names)} of which {len(self._index)} are '
        'different: copy the dataset again'
      )
    self._others = {
      p.name
      for p in path.iterdir()
      if p.is_file() and not p.name.endswith(SUFFIX)
    }

  def _listed_names(self, count: int) -> list[str] | None:
    path = self.path / _LIST
    if not path.exists():
      return None
    try:
      names = json.loads(path.read_bytes()).get('names')
    except (AttributeError, RecursionError, ValueError) as error:
      raise ValueError(f'{path} is not valid JSON: write it again') from error
    if names is not None and not (
      isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
      raise ValueError(
        f'"names" in {path} must be a list of {count} strings: copy the '
        'dataset again'
      )
    return names

  def names(self) -> list[str]:
    """Returns the names of all records and other files, sorted."""
    return sorted({*self._index, *self._others})

  def open(self, name: str) -> Any:
    """Opens a record or a file for reading: binary and seekable."""
    if name in self._index:
      return io.BytesIO(self._records[self._index[name]])
    return (self.path / name).open('rb')
