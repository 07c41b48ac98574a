"""Images in a folder or a zip file, with labels in dataset.json."""

import collections
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sg3jax.data import archives, decoding, report
from sg3jax.data import labels as labels_lib

# Checking a header takes about 0.2 ms on a local disk, so this many take a
# second. Larger sets are sampled; every image is checked again when it is
# decoded.
_MAX_HEADERS = 4096

# `sg3jax data prepare` writes its options to this file, beside dataset.json.
PREPARATION = 'preparation.json'
_KNOWN = (labels_lib.FILE, PREPARATION)

# The suffixes that were read before runs recorded their data.
_OLD_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')


class ImageFiles:
  """The images of a folder or a zip file, sorted by name.

  Subfolders are included. Files of other formats and hidden files (`.x`, or in
  `__MACOSX`) are skipped and named in `notes`. A zip file is never extracted,
  so names in it cannot refer to files outside of it.

  Images must be square, of one size, and all grey (1 channel), all RGB (3) or
  all RGBA (4), with 8 bits; `decoding` describes how other modes are read.
  Names are normalized, see `archives`.

  Labels come from `dataset.json` in the root, `{"labels": [[name, label],
  ...]}`. A label is a class number, which becomes one-hot with the largest
  number plus one features, or a list of numbers, which is used unchanged.
  An optional list `class_names` names the classes, and then determines their
  number. Without that file, every subfolder is a class, sorted by name, or by
  value if all names are numbers.

  Attributes:
    name: The name of the folder or file, without suffix.
    resolution: Rows and columns of every image.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    label_dim: Features of a label; 0 without labels.
    class_names: The names of the classes in order; None if they have none.
    unused_labels: A phrase about labels that exist but were not requested.
    notes: Sentences about skipped files, normalized names and contents that are
      not read.
    preparation: Record of how the images were resized; see
      `sources.preparation`.
    changes: Sentences about data that are read differently than before runs
      recorded their data.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    *,
    resolution: int | None = None,
    use_labels: bool = False,
  ):
    """Finds the images, reads the labels, and checks headers.

    Args:
      path: A folder or a zip file.
      resolution: The rows and columns that the images must have, if given.
      use_labels: Whether to read labels.

    Raises:
      FileNotFoundError: If `path` does not exist.
      OSError: If the disk or the network fails to deliver a file.
      ValueError: If images or labels are not usable. The message names the
        file and the remedy.
    """
    path = pathlib.Path(path)
    self._archive = archives.open_archive(path)
    self.name = path.resolve().stem if path.is_file() else path.resolve().name
    everything = self._archive.names()
    self._names = [n for n in everything if is_image(n)]
    if not self._names:
      raise ValueError(
        f'{path} must contain files that end in '
        f'{", ".join(decoding.SUFFIXES)}, got {summary(everything)}'
      )
    self._labels = labels_lib.none(len(self._names))
    self.unused_labels = ''
    self._read_labels(everything, use_labels=use_labels)
    self.label_dim = self._labels.dim
    self.class_names = self._labels.class_names
    self.preparation = self._read_preparation(everything)
    self.notes = (
      *self._archive.notes,
      *describe_skipped(everything),
      *_describe_preparation(self.preparation),
      *self._check_headers(resolution),
    )
    self.changes = _changes(self._names, self.class_names)

  def _read_labels(self, everything: list[str], *, use_labels: bool) -> None:
    """Reads the labels, or describes those that are not requested."""
    text, where = None, str(self._archive.path)
    if labels_lib.FILE in everything:
      text = self._read(labels_lib.FILE)
      where = self._where(labels_lib.FILE)
    if not use_labels:
      self.unused_labels = labels_lib.describe_unused(text, where, self._names)
      return
    if text is not None:
      self._labels = labels_lib.read(text, where, self._names)
      return
    misplaced = [n for n in everything if n.endswith('/' + labels_lib.FILE)]
    if misplaced:
      raise ValueError(
        f'{labels_lib.FILE} must be in the root of {where}, got '
        f'{misplaced[0]}: move it there, and write the names of the images '
        'relative to the root'
      )
    self._labels = labels_lib.from_folders(self._names, where)

  def _read_preparation(self, everything: list[str]) -> dict[str, Any] | None:
    if PREPARATION not in everything:
      return None
    try:
      contents = json.loads(self._read(PREPARATION))
    except (RecursionError, ValueError):
      contents = None
    if not isinstance(contents, dict):
      raise ValueError(
        f'{self._where(PREPARATION)} must be a JSON object: copy the dataset '
        'again, or remove the file'
      )
    return contents

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `image`, uint8 [h, w, c], and `label`, float32 [label_dim].

    Raises:
      OSError: If the disk or the network fails to deliver the file.
      ValueError: If the file is damaged, or its shape differs from that of
        the other images.
    """
    name = self._names[index]
    data = self._read(name)
    try:
      image, header = decoding.decode(data, self._where(name))
    except decoding.UnusableError:
      raise
    except Exception as error:  # Decoders raise almost anything.
      raise self._damaged(name, error) from error
    self._check_shape(name, header.shape)
    return {'image': image, 'label': self._labels[index]}

  def labels(self) -> labels_lib.Labels:
    """Returns all labels, without decoding images."""
    return self._labels

  def fingerprint(self) -> str:
    """Returns a hash of the names of the images, in their order."""
    # Names may contain bytes that are not UTF-8.
    text = '\0'.join(self._names).encode(errors='surrogatepass')
    return hashlib.sha256(text).hexdigest()

  def _read(self, name: str) -> bytes:
    try:
      with self._archive.open(name) as file:
        return file.read()
    except Exception as error:
      raise self._damaged(name, error) from error

  def _where(self, name: str) -> str:
    return f'{report.printable(name)} in {self._archive.path}'

  def _damaged(self, name: str, error: Exception) -> Exception:
    """Returns the error to raise if a file cannot be read."""
    return decoding.unreadable(self._where(name), error)

  def _header(self, name: str) -> decoding.Header:
    try:
      with self._archive.open(name) as file:
        return decoding.read_header(file, self._where(name))
    except decoding.UnusableError:
      raise
    except Exception as error:
      raise self._damaged(name, error) from error

  def _check_headers(self, resolution: int | None) -> list[str]:
    """Sets the shape to that of the first image, and checks other images.

    Args:
      resolution: The rows and columns that the images must have, if given.

    Returns:
      Sentences about contents of the images that are not read.
    """
    first, *rest = self._names
    header = self._header(first)
    height, width, self.channels = header.shape
    where = self._where(first)
    if height != width:
      raise ValueError(
        f'images must be square, got {where} with {height} rows and {width} '
        'columns: crop or resize them'
      )
    self.resolution = height
    if resolution not in (None, height):
      raise ValueError(
        f'images must be {resolution}x{resolution} pixels for this model, got '
        f'{where} with {height}x{width}: set model.resolution to {height}, or '
        'resize the images'
      )
    unread: dict[str, list[str]] = {kind: [] for kind in decoding.UNREAD}
    looked_at = [first, *rest[:: -(-len(rest) // _MAX_HEADERS) or 1]]
    for name in looked_at:
      header = header if name == first else self._header(name)
      self._check_shape(name, header.shape)
      for kind in header.unread:
        unread[kind].append(name)
    sample = ''
    if len(looked_at) < len(self):
      sample = f' of the {len(looked_at):,} inspected'
    return [
      f'{report.count(len(names), "image")}{sample} {decoding.UNREAD[kind]}: '
      f'{report.examples(names)}'
      for kind, names in unread.items()
      if names
    ]

  def _check_shape(self, name: str, shape: tuple[int, int, int]) -> None:
    expected = (self.resolution, self.resolution, self.channels)
    if shape != expected:
      first = report.printable(self._names[0])
      raise ValueError(
        f'images must all have the same shape, got {self._where(name)} with '
        f'{decoding.describe(shape)}, but {first} with '
        f'{decoding.describe(expected)}: convert or remove one of them'
      )


def _is_hidden(name: str) -> bool:
  parts = name.split('/')
  return '__MACOSX' in parts or any(
    p.startswith('.') and p != '..' for p in parts
  )


def _describe_preparation(about: dict[str, Any] | None) -> list[str]:
  """Returns a sentence about how images were resized, which metrics need."""
  if about is None:
    return []
  words = [f'{k} {about[k]}' for k in ('transform', 'filter') if about.get(k)]
  return [f'images prepared with {", ".join(words) or "unknown options"}']


def is_image(name: str) -> bool:
  """Returns whether a file is an image to read, by its normalized name."""
  return name.lower().endswith(decoding.SUFFIXES) and not _is_hidden(name)


def summary(names: Sequence[str]) -> str:
  """Returns a phrase with the most frequent suffixes and their numbers."""
  kinds = collections.Counter(
    pathlib.PurePosixPath(n).suffix.lower() or 'no suffix' for n in names
  )
  found = [f'{count} of {kind}' for kind, count in kinds.most_common(5)]
  if len(kinds) > len(found):
    found.append(f'{len(kinds) - len(found)} other kinds')
  return ', '.join(map(report.printable, found)) or 'no files'


def describe_skipped(names: Sequence[str]) -> list[str]:
  """Returns sentences about the files that are not read."""
  hidden = [name for name in names if _is_hidden(name)]
  others = [
    name
    for name in names
    if not (_is_hidden(name) or is_image(name) or name in _KNOWN)
  ]
  notes = []
  if others:
    notes.append(
      f'{report.count(len(others), "file")} skipped for the format: '
      f'{summary(others)} ({report.examples(others)})'
    )
  if hidden:
    notes.append(
      f'{report.count(len(hidden), "hidden file")} skipped: '
      f'{report.examples(hidden)}'
    )
  return notes


def _changes(
  names: Sequence[str], class_names: tuple[str, ...] | None
) -> tuple[str, ...]:
  """Returns sentences about data that earlier versions read differently."""
  changes = []
  new = [n for n in names if not n.lower().endswith(_OLD_SUFFIXES)]
  if new:
    changes.append(
      f'{report.count(len(new), "image")} not read before: '
      f'{report.examples(new)}'
    )
  if class_names and list(class_names) != sorted(class_names):
    changes.append(
      'class folders sorted by name before '
      f'({report.examples(sorted(class_names))}), and by number now '
      f'({report.examples(class_names)}); put one letter before each name to '
      'keep the old order'
    )
  return tuple(changes)
