"""Labels: class indices or vectors, from dataset.json or from subfolders."""

import collections
import dataclasses
import functools
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, Int64

from sg3jax.data import archives, report

FILE = 'dataset.json'

# A larger class number is an identifier: no network has that many features.
_MAX_CLASSES = 2**20
# Folders into which tools divide large sets, in the order of the images.
_SHARD = re.compile(r'\d{5}')
_MAX_FLOAT = float(np.finfo(np.float32).max)

_Entries: TypeAlias = dict[str, tuple[str, int | Sequence[float]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
  """The labels of a dataset, which become vectors when they are read.

  They read like a float32 array [n, dim]: `labels[rows]` returns the labels of
  some images, with class indices one-hot, and `np.asarray(labels)` those of all
  images. Class indices are stored as integers: one-hot vectors for 100,000
  images of 10,000 classes would take 3.7 GiB.

  Attributes:
    values: Class indices, int64 [n], or vectors, float32 [n, dim].
    dim: Features of a label; 0 without labels.
    class_names: The name of each class, in the order of the indices; None if
      classes have no names or labels are vectors.
  """

  values: Int64[np.ndarray, ' n'] | Float32[np.ndarray, 'n dim']
  dim: int
  class_names: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.values)

  @property
  def shape(self) -> tuple[int, int]:
    """The number of labels and the number of their features."""
    return len(self.values), self.dim

  @property
  def dtype(self) -> np.dtype:
    """The dtype of returned labels: float32."""
    return np.dtype(np.float32)

  @property
  def has_classes(self) -> bool:
    """Whether the labels are class indices rather than vectors."""
    return self.values.ndim == 1

  def __getitem__(self, rows: Any) -> Float32[np.ndarray, '*rows dim']:
    """Returns a new array with the labels of one or several images.

    Args:
      rows: An index, a slice or an array of indices.
    """
    if self.has_classes:
      return one_hot(self.values[rows], self.dim)
    return np.array(self.values[rows])

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
    del copy  # There is no array to share, so the result is always new.
    return self[:].astype(dtype or np.float32)

  def take(self, rows: Int64[np.ndarray, ' m']) -> 'Labels':
    """Returns the labels of some images, with the same classes."""
    return dataclasses.replace(self, values=self.values[rows])

  def class_counts(self) -> Int64[np.ndarray, ' dim'] | None:
    """Returns the number of images of each class; None for vectors."""
    if not self.has_classes:
      return None
    return np.bincount(self.values, minlength=self.dim).astype(np.int64)


def one_hot(classes: Any, dim: int) -> Float32[np.ndarray, '*n dim']:
  """Returns vectors that are 1 at a class's index and 0 elsewhere.

  Args:
    classes: Indices from 0 to `dim - 1`: an integer, or an array of any shape.
    dim: The number of classes.
  """
  indices = np.asarray(classes)
  vectors = np.zeros([*indices.shape, dim], np.float32)
  np.put_along_axis(vectors, indices[..., None], 1, axis=-1)
  return vectors


def none(n: int) -> Labels:
  """Returns empty labels for n images."""
  return Labels(np.zeros([n, 0], np.float32), 0)


def from_folders(names: Sequence[str], where: str) -> Labels:
  """Returns labels with one class for each subfolder.

  Classes are the folders inside the deepest folder that contains all images, so
  `set.zip` may contain `set/cat/1.png`. They are sorted by name, or by value if
  all names are numbers.

  Args:
    names: The names of the images.
    where: The folder or zip file, for messages.

  Raises:
    ValueError: If an image is not in such a folder, or if the folders only
      divide a large set.
  """
  folders = _class_folders(names)
  if None in folders:
    shown = report.printable(names[folders.index(None)])
    raise ValueError(
      f'{where} has no labels: there is no {FILE} in its root, and {shown} is '
      'not in a subfolder for its class; add the file or the subfolders, or '
      'set data.cond to False'
    )
  classes = class_order(filter(None, folders))
  if all(_SHARD.fullmatch(name) for name in classes):
    raise ValueError(
      f'{where} has no labels: there is no {FILE} in its root, and folders '
      f'named like {classes[0]} only divide a large set; add the file, rename '
      'the folders if they are classes, or set data.cond to False'
    )
  index = {name: i for i, name in enumerate(classes)}
  values = np.array([index[f] for f in folders if f is not None], np.int64)
  return Labels(values, len(classes), classes)


def _class_folders(names: Sequence[str]) -> list[str | None]:
  """Returns the folder for the class of each image, or None without one."""
  folders = [pathlib.PurePosixPath(name).parts[:-1] for name in names]
  levels = zip(*folders, strict=False)
  depth = len(list(itertools.takewhile(lambda x: len(set(x)) == 1, levels)))
  return [f[depth] if len(f) > depth else None for f in folders]


def class_order(names: Iterable[str]) -> tuple[str, ...]:
  """Returns the distinct names, sorted by value if all are numbers."""
  different = set(names)
  if all(name.isascii() and name.isdecimal() for name in different):
    # int() does not accept numbers with thousands of digits.
    return tuple(
      sorted(different, key=lambda n: (len(n.lstrip('0')), n.lstrip('0'), n))
    )
  return tuple(sorted(different))


def describe_unused(
  text: bytes | None, where: str, names: Sequence[str]
) -> str:
  """Describes labels that exist but are not requested.

  Args:
    text: The contents of dataset.json; None without such a file.
    where: The folder or zip file, or the name of dataset.json.
    names: The names of the images.

  Returns:
    A phrase, empty without labels.

  Raises:
    ValueError: If dataset.json is invalid.
  """
  if text is not None:
    return f'{where} contains labels' if _parse(text, where)[0] else ''
  try:
    classes = from_folders(names, where).dim
  except ValueError:
    return ''
  return f'{where} has {classes} subfolders, which may be classes'


def read(text: bytes, where: str, names: Sequence[str]) -> Labels:
  """Returns the labels in dataset.json, in the order of the images.

  Args:
    text: The contents of the file.
    where: The name of the file, for messages.
    names: The names of the images.

  Raises:
    ValueError: If the file does not contain a label of one kind for each image.
  """
  listed, class_names = _parse(text, where)
  if listed is None:
    raise ValueError(
      f'{where} contains no labels: add them, or set data.cond to False'
    )
  labels = _entries(listed, where)
  keys = [_key(name) for name in names]
  _check_names(labels, where, names, keys)
  values = [labels[key][1] for key in keys]
  sizes = [len(v) if isinstance(v, list) else 0 for v in values]
  for name, size in zip(names, sizes, strict=True):
    if size != sizes[0]:
      raise ValueError(
        f'labels in {where} must be of one kind, got {_describe(size)} for '
        f'{report.printable(name)}, but {_describe(sizes[0])} for '
        f'{report.printable(names[0])}'
      )
  if sizes[0]:
    return Labels(np.array(values, np.float32), sizes[0])
  indices = np.array(values, np.int64)
  largest = int(indices.max())
  if class_names is None:
    return Labels(indices, largest + 1)
  if largest >= len(class_names):
    raise ValueError(
      f'{where} must have a name in "class_names" for each class, got '
      f'{len(class_names)} names and class {largest}: add the names, or remove '
      'all of them'
    )
  return Labels(indices, len(class_names), class_names)


def read_partial(
  text: bytes, where: str, names: Sequence[str]
) -> tuple[list[Any], tuple[str, ...] | None] | None:
  """Returns the labels in dataset.json of those images that have one.

  Args:
    text: The contents of the file.
    where: The name of the file, for messages.
    names: The names of the images.

  Returns:
    A class number, a list of floats or None for each image, and the names of
    the classes or None; or None if the file contains no labels.

  Raises:
    ValueError: If the file is not valid, or if no image has a label.
  """
  listed, class_names = _parse(text, where)
  if not listed:
    return None
  labels = _entries(listed, where)
  found = [labels.get(_key(name), ('', None))[1] for name in names]
  if all(label is None for label in found):
    raise ValueError(
      f'{where} has no label for any of the images: write their names relative '
      f'to the root, such as {report.printable(names[0])}'
    )
  return found, class_names


def _entries(listed: list[Any], where: str) -> _Entries:
  """Returns the entries of dataset.json by the key of their name."""
  labels: _Entries = {}
  for entry in listed:
    name, label = _parse_entry(entry, where)
    key = _key(name)
    if key in labels:
      raise ValueError(
        f'{where} lists {report.printable(name)} more than once: remove all '
        'but one of the entries'
      )
    labels[key] = (name, label)
  return labels


def _key(name: str) -> str:
  """Returns the key of a name for comparisons: the suffix in lower case."""
  stem, dot, suffix = archives.normalize(name).rpartition('.')
  return f'{stem}{dot}{suffix.lower()}'


def _check_names(
  labels: _Entries, where: str, names: Sequence[str], keys: Sequence[str]
) -> None:
  found: dict[str, str] = {}
  for name, key in zip(names, keys, strict=True):
    if key in found:
      raise ValueError(
        f'{report.printable(found[key])} and {report.printable(name)} differ '
        f'only in the case of their suffix, which {where} cannot distinguish: '
        'rename one of them'
      )
    found[key] = name
  unlabelled = [name for key, name in found.items() if key not in labels]
  unknown = sorted(
    name for key, (name, _) in labels.items() if key not in found
  )
  for odd, problem in (
    (unlabelled, 'has no label for'),
    (unknown, 'has a label for an image that does not exist,'),
  ):
    if odd:
      more = f' (and {len(odd) - 1} more)' if odd[1:] else ''
      raise ValueError(
        f'{where} {problem} {report.printable(odd[0])}{more}: list every image '
        'once, with its path from the root'
      )


def _parse(
  text: bytes, where: str
) -> tuple[list[Any] | None, tuple[str, ...] | None]:
  """Returns `labels`, unchecked, and `class_names` of dataset.json."""
  try:
    contents = json.loads(
      text, object_pairs_hook=functools.partial(_object, where)
    )
  except RecursionError:
    reason = 'it is nested too deeply'
  except _RepeatedError:
    raise
  except ValueError as error:
    reason = str(error)
  else:
    listed = contents.get('labels', ()) if isinstance(contents, dict) else ()
    if isinstance(listed, list | None):
      return listed, _class_names(contents, where)
    raise ValueError(
      f'{where} has the wrong structure: it must be '
      '{"labels": [[NAME, LABEL], ...]} or {"labels": null}'
    )
  raise ValueError(f'{where} is not valid JSON ({reason}): write it again')


def _class_names(
  contents: dict[str, Any], where: str
) -> tuple[str, ...] | None:
  """Returns the optional names of the classes, in order."""
  names = contents.get('class_names')
  if names is None:
    return None
  if (
    not isinstance(names, list)
    or not names
    or not all(isinstance(name, str) for name in names)
    or len(set(names)) < len(names)
  ):
    raise ValueError(
      f'"class_names" in {where} must be a list of different strings, got '
      f'{_shown(names)}'
    )
  return tuple(names)


class _RepeatedError(ValueError):
  """A JSON object contains a key more than once."""


def _object(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  counts = collections.Counter(key for key, _ in pairs)
  for key, count in counts.items():
    if count > 1:
      raise _RepeatedError(
        f'{where} has the key {report.printable(key[:80])!r} {count} times in '
        'one object: remove all but one'
      )
  return dict(pairs)


def _parse_entry(entry: Any, where: str) -> tuple[str, int | Sequence[float]]:
  """Returns the name and label of one entry in the list of labels."""
  match entry:
    case [str(), bool()]:
      pass
    case [str(name), int(label)] if not 0 <= label < _MAX_CLASSES:
      raise ValueError(
        f'class numbers in {where} must be from 0 to {_MAX_CLASSES - 1}, got '
        f'{_shown(label)} for {report.printable(name)}: count classes from 0'
      )
    case [str(name), int(label)]:
      return name, label
    case [str(name), [_, *_] as label] if all(map(_is_finite, label)):
      return name, label
  raise ValueError(
    f'{where} has the entry {_shown(entry)}: it must be [NAME, LABEL] with a '
    'class number from 0 or a list of finite numbers'
  )


def _shown(entry: Any) -> str:
  try:
    return report.printable(str(entry)[:80])
  except (RecursionError, ValueError):  # Nested too deeply, or too many digits.
    return f'a {type(entry).__name__} that cannot be shown'


def _is_finite(value: Any) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and abs(value) <= _MAX_FLOAT  # Also false for NaN.


def _describe(size: int) -> str:
  return f'a vector of {size} numbers' if size else 'a class number'
