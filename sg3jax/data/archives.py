r"""Access to the files of a folder or a zip file under normalized names.

Tools and systems spell the same name differently: `c\a.png` or `c/a.png`, é as
one character or as two, with or without a leading `./`. This module normalizes
the names of files; `normalize` does the same for the names in a list of labels.
"""

import collections
import os
import pathlib
import struct
import threading
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from sg3jax.data import array_records, report

_UTF8_FLAG = 0x800  # Flag in a zip file: the name is UTF-8, not cp437.


def normalize(name: str) -> str:
  """Returns the normalized name of a file.

  It has `/` between folders, composed characters (NFC), and no parts that are
  empty or `.`.
  """
  name = unicodedata.normalize('NFC', name.replace('\\', '/'))
  return '/'.join(part for part in name.split('/') if part not in ('', '.'))


def open_archive(
  path: pathlib.Path,
) -> 'Folder | Zip | array_records.ArrayRecords':
  """Opens a folder, a zip file or a folder of ArrayRecord files.

  Raises:
    FileNotFoundError: If `path` does not exist.
    OSError: If a folder cannot be listed, or a file cannot be read.
    ValueError: If a file is not a zip file, or if two of the names are equal
      after normalization.
  """
  if array_records.are_in(path):
    return array_records.ArrayRecords(path)
  if path.is_dir():
    return Folder(path)
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist: check the path')
  try:
    return Zip(path)
  except (zipfile.BadZipFile, EOFError, struct.error) as error:
    with path.open('rb') as file:
      truncated = file.read(2) == b'PK'
    raise ValueError(
      f'{path} is a truncated or damaged zip file ({error}): copy or download '
      'it again'
      if truncated
      else f'{path} is not a zip file: pass a folder of images or a zip file'
    ) from error


class Folder:
  """The files in a folder and its subfolders; links are followed.

  Attributes:
    path: The folder.
    notes: Sentences about names that were normalized and links that were
      skipped.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    loops: list[str] = []
    spelt = self._walk(loops)
    self._names, self._stored, self.notes = _uniform(path, spelt)
    if loops:
      self.notes += (
        f'{report.count(len(loops), "link")} to a parent folder skipped: '
        f'{report.examples(sorted(loops))}',
      )

  def names(self) -> list[str]:
    """Returns the normalized names of all files, sorted."""
    return list(self._names)

  def _walk(self, loops: list[str]) -> Iterator[tuple[str, str]]:
    """Yields files for `_uniform`; adds links that form loops to `loops`."""
    for folder, folders, names in os.walk(
      self.path, followlinks=True, onerror=_raise
    ):
      relative = pathlib.Path(folder).relative_to(self.path)
      endless = [f for f in folders if self._leads_up(relative / f)]
      loops.extend((relative / name).as_posix() for name in endless)
      # os.walk continues with the folders that remain in the list.
      folders[:] = [name for name in folders if name not in endless]
      for name in names:
        stored = (relative / name).as_posix()
        yield stored, stored

  def _leads_up(self, relative: pathlib.Path) -> bool:
    """Returns whether a path is a link to a folder that contains it."""
    if not (self.path / relative).is_symlink():
      return False
    target = os.path.realpath(self.path / relative)
    above = (os.path.realpath(self.path / p) for p in relative.parents)
    return any(os.path.commonpath([target, p]) == target for p in above)

  def open(self, name: str) -> Any:
    """Opens a file for reading: a binary, seekable file of varying type."""
    return (self.path / self._stored.get(name, name)).open('rb')


class Zip:
  """The files in a zip file, readable from any thread and process.

  Attributes:
    path: The zip file.
    notes: Sentences about names that were normalized and duplicate names.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._local = threading.local()
    infos = self._handle().infolist()
    files = [info for info in infos if info.filename[-1:] not in ('/', '\\')]
    counts = collections.Counter(info.filename for info in files)
    twice = [name for name, count in counts.items() if count > 1]
    spelt = {info.filename: _decoded(info) for info in files}
    self._names, self._stored, self.notes = _uniform(path, spelt.items())
    if twice:
      self.notes += (
        f'{report.count(len(twice), "name")} found more than once; the last '
        f'file of each is read: {report.examples(twice)}',
      )

  def __getstate__(self) -> dict[str, Any]:
    # Handles are not copied: the copy opens its own.
    return {k: v for k, v in self.__dict__.items() if k != '_local'}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._local = threading.local()

  def names(self) -> list[str]:
    """Returns the normalized names of all files, sorted."""
    return list(self._names)

  def open(self, name: str) -> Any:
    """Opens a file for reading: a binary, seekable file of varying type."""
    return self._handle().open(self._stored.get(name, name))

  def _handle(self) -> zipfile.ZipFile:
    # Each thread has its own handle, so that none waits for another, and so has
    # each process, because processes share a file position after a fork.
    if getattr(self._local, 'pid', None) != os.getpid():
      self._local.file = zipfile.ZipFile(self.path)
      self._local.pid = os.getpid()
    return self._local.file


def _raise(error: OSError) -> None:
  raise error  # Otherwise os.walk would skip a folder that it cannot list.


def _decoded(info: zipfile.ZipInfo) -> str:
  """Returns a name in a zip file, decoded as the tool that wrote it intended.

  macOS writes UTF-8 without setting the flag.
  """
  if not info.flag_bits & _UTF8_FLAG:
    try:
      return info.filename.encode('cp437').decode()
    except UnicodeError:
      pass
  return info.filename


def _uniform(
  path: pathlib.Path, spelt: Iterable[tuple[str, str]]
) -> tuple[list[str], dict[str, str], tuple[str, ...]]:
  """Normalizes names.

  Args:
    path: The folder or zip file, for messages.
    spelt: Pairs of a stored name and the decoded name.

  Returns:
    The normalized names, sorted; the stored names of those that differ; and
    notes about them.

  Raises:
    ValueError: If two stored names are equal after normalization.
  """
  stored: dict[str, str] = {}
  for raw, name in spelt:
    uniform = normalize(name)
    if uniform in stored:
      raise ValueError(
        f'names in {path} must differ after normalization, got '
        f'{report.printable(stored[uniform])!r} and {report.printable(raw)!r}, '
        'which are spellings of one name: rename or remove one of them'
      )
    stored[uniform] = raw
  names = sorted(stored)
  differing = {name: stored[name] for name in names if stored[name] != name}
  notes: tuple[str, ...] = ()
  if differing:
    pairs = [f'{raw} as {name}' for name, raw in differing.items()]
    notes = (
      f'{report.count(len(differing), "name")} normalized to / between folders '
      f'and Unicode NFC: {report.examples(pairs)}',
    )
  return names, differing, notes
