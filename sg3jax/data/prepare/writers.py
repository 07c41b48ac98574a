"""Writes prepared images so that an interrupted writer can go on.

A writer works in a folder of its own. It records in a journal which images are
safely stored, always after they are, and continues after the last of them: the
result has the same bytes as one written without interruption.
"""

import json
import os
import pathlib
import time
import zipfile
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from sg3jax import files
from sg3jax.data import array_records
from sg3jax.data.prepare import images

_JOURNAL = 'journal.jsonl'
# Seconds between two records of progress, which wait for the disk.
_SYNC_SEC = 2.0
_EPOCH = (1980, 1, 1, 0, 0, 0)  # The date of all entries: the first possible.


def image_name(index: int) -> str:
  """Returns the name of the prepared image for a position in the source."""
  return f'{index // 1000:05d}/img{index:08d}.png'


@runtime_checkable  # For the type checks of the tests.
class Writer(Protocol):
  """Stores outcomes in the order of the source."""

  @property
  def entries(self) -> list[dict[str, Any]]:
    """One record for each outcome so far: `error`, or `notes` and `sha256`."""
    ...

  def add(self, outcome: images.Outcome) -> None:
    """Stores an outcome, whose index must be the number of entries."""
    ...

  def finish(self, texts: Mapping[str, str], dest: pathlib.Path) -> None:
    """Stores text files, completes the dataset and moves it to its place."""
    ...

  def close(self) -> None:
    """Records what is stored and closes all files."""
    ...


def open_writer(
  folder: pathlib.Path, dest: pathlib.Path, shard_images: int
) -> 'ZipWriter | ArrayRecordWriter':
  """Opens a new writer, or one that continues what is in its folder.

  Args:
    folder: The folder to work in.
    dest: A path that ends in `.zip` or `.array_record`.
    shard_images: Number of source images per ArrayRecord file.
  """
  if dest.suffix == '.zip':
    return ZipWriter(folder)
  return ArrayRecordWriter(folder, shard_images)


class _Journal:
  """Records about stored images, one line of JSON for each."""

  def __init__(self, folder: pathlib.Path):
    self._path = folder / _JOURNAL
    self.entries = self._read()
    self._safe = len(self.entries)

  def _read(self) -> list[dict[str, Any]]:
    if not self._path.exists():
      return []
    entries = []
    for line in self._path.read_text().splitlines():
      try:
        entries.append(json.loads(line))
      except ValueError:  # The last line, cut off.
        break
    return entries

  def truncate(self, count: int) -> None:
    """Forgets all but the first entries, also on the disk."""
    del self.entries[count:]
    lines = ''.join(json.dumps(entry) + '\n' for entry in self.entries)
    files.write_text(self._path, lines)
    self._safe = count

  def record(self) -> None:
    """Stores the new entries."""
    lines = [json.dumps(e) + '\n' for e in self.entries[self._safe :]]
    if lines:
      with self._path.open('a') as file:
        file.write(''.join(lines))
        file.flush()
        os.fsync(file.fileno())
      self._safe = len(self.entries)


def _entry(outcome: images.Outcome) -> dict[str, Any]:
  if outcome.png is None:
    return {'error': outcome.error}
  return {'notes': list(outcome.notes), 'sha256': outcome.sha256}


class ZipWriter:
  """Writes an uncompressed zip file in the layout of the official tool.

  The central directory, at the end of a zip file, is written last. Until then,
  the journal contains what it needs.

  Args:
    folder: The folder to work in.
  """

  def __init__(self, folder: pathlib.Path):
    self._path = folder / 'images.zip'
    self._journal = _Journal(folder)
    self._path.touch()
    self._continue_from_end()
    self._file = self._path.open('r+b')
    self._zip = zipfile.ZipFile(self._file, 'w', zipfile.ZIP_STORED)
    self._synced_at = time.monotonic()
    end = 0
    for index, entry in enumerate(self.entries):
      if 'end' in entry:
        self._restore(index, entry)
        end = entry['end']
    self._file.truncate(end)
    # The next file begins here; at first, this is the beginning.
    self._zip.start_dir = end  # pyright: ignore[reportAttributeAccessIssue]

  @property
  def entries(self) -> list[dict[str, Any]]:
    """One record for each outcome."""
    return self._journal.entries

  def _continue_from_end(self) -> None:
    """Forgets images at the end that a failing machine has not stored."""
    size = self._path.stat().st_size
    count = len(self.entries)
    while count and self.entries[count - 1].get('end', 0) > size:
      count -= 1
    self._journal.truncate(count)

  def _restore(self, index: int, entry: Mapping[str, Any]) -> None:
    """Lists a stored image again, with what its header contains."""
    info = _zip_info(image_name(index))
    info.header_offset = entry['start']
    info.CRC = entry['crc']
    info.file_size = info.compress_size = entry['size']
    self._zip.filelist.append(info)
    self._zip.NameToInfo[info.filename] = info

  def add(self, outcome: images.Outcome) -> None:
    """Stores an outcome."""
    entry = _entry(outcome)
    if outcome.png is not None:
      info = _zip_info(image_name(outcome.index))
      self._zip.writestr(info, outcome.png)
      end = self._zip.start_dir  # pyright: ignore[reportAttributeAccessIssue]
      entry |= {
        'start': info.header_offset,
        'end': end,
        'size': info.file_size,
        'crc': info.CRC,
      }
    self.entries.append(entry)
    if time.monotonic() - self._synced_at > _SYNC_SEC:
      self._sync()

  def _sync(self) -> None:
    self._file.flush()
    os.fsync(self._file.fileno())
    self._journal.record()
    self._synced_at = time.monotonic()

  def finish(self, texts: Mapping[str, str], dest: pathlib.Path) -> None:
    """Adds text files, completes the zip file and moves it to its place."""
    for name, text in texts.items():
      self._zip.writestr(_zip_info(name), text)
    self._zip.close()
    self._file.flush()
    os.fsync(self._file.fileno())
    self._file.close()
    os.replace(self._path, dest)

  def close(self) -> None:
    """Records what is stored; later images continue there."""
    if self._file.closed:
      return
    try:
      self._sync()
    finally:
      # Not `ZipFile.close`, which would write the directory.
      self._zip.fp = None
      self._file.close()


def _zip_info(name: str) -> zipfile.ZipInfo:
  info = zipfile.ZipInfo(name, _EPOCH)
  info.compress_type = zipfile.ZIP_STORED
  info.create_system = 3  # Unix, on every system.
  info.external_attr = 0o644 << 16
  return info


class ArrayRecordWriter:
  """Writes ArrayRecord files, each of a fixed range of source images.

  A file that is not complete when the writer stops is written again.

  Args:
    folder: The folder to work in.
    shard_images: Number of source images per file.
  """

  def __init__(self, folder: pathlib.Path, shard_images: int):
    self._folder = folder / 'shards'
    self._folder.mkdir(exist_ok=True)
    self._shard_images = shard_images
    self._journal = _Journal(folder)
    complete = len(self.entries) // shard_images
    self._journal.truncate(complete * shard_images)
    for path in self._folder.iterdir():
      if path.suffix != array_records.SUFFIX:
        path.unlink()
    self._shard: Any = None
    self._temporary = self._folder / 'shard.incomplete'

  @property
  def entries(self) -> list[dict[str, Any]]:
    """One record for each outcome."""
    return self._journal.entries

  def add(self, outcome: images.Outcome) -> None:
    """Stores an outcome."""
    if outcome.png is not None:
      if self._shard is None:
        self._shard = _open_shard(self._temporary)
      self._shard.write(outcome.png)
    self.entries.append(_entry(outcome))
    if len(self.entries) % self._shard_images == 0:
      self._complete_shard()

  def _complete_shard(self) -> None:
    if self._shard is not None:
      self._shard.close()
      self._shard = None
      number = (len(self.entries) - 1) // self._shard_images
      with self._temporary.open('rb+') as file:
        os.fsync(file.fileno())
      path = self._folder / f'images-{number:05d}{array_records.SUFFIX}'
      os.replace(self._temporary, path)
    self._journal.record()

  def finish(self, texts: Mapping[str, str], dest: pathlib.Path) -> None:
    """Adds text files and moves the folder to its place."""
    if len(self.entries) % self._shard_images:
      self._complete_shard()
    for name, text in texts.items():
      files.write_text(self._folder / name, text)
    os.rename(self._folder, dest)

  def close(self) -> None:
    """Leaves an incomplete file behind, which is written again."""
    if self._shard is not None:
      self._shard.close()
      self._shard = None


def _open_shard(path: pathlib.Path) -> Any:
  from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

  # One image per group: reading an image then reads no others.
  return array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
