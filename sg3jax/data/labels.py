"""Labels of image files: dataset.json, or one class a subfolder.

Class numbers stay numbers, int64 [n], until they are asked for: one-hot, they
would fill the memory where there are many images and classes. Vectors are
float32 [n, label_dim]; without labels, label_dim is 0.
"""

import itertools
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from absl import logging
from jaxtyping import Float, Float32, Int64

FILE = 'dataset.json'

# A larger class number is an identifier; one-hot, it would fill the memory.
_MAX_CLASSES = 2**20
# Folders into which tools spread large sets, in the order of the images.
_SHARD = re.compile(r'\d{5}')
_MAX_FLOAT = float(np.finfo(np.float32).max)

Stored: TypeAlias = Int64[np.ndarray, ' n'] | Float32[np.ndarray, 'n label_dim']


def dim(stored: Stored) -> int:
  """Returns the features of a label; of classes, the largest plus one."""
  return int(stored.max()) + 1 if stored.ndim == 1 else stored.shape[1]


def encode(
  stored: np.ndarray | np.integer, label_dim: int
) -> Float[np.ndarray, '*n label_dim']:
  """Returns one or all stored labels as float32, classes one-hot."""
  if np.issubdtype(stored.dtype, np.floating):
    return np.array(stored)
  classes = np.asarray(stored)[..., None] == np.arange(label_dim)
  return classes.astype(np.float32)


def from_folders(
  names: Sequence[str], where: str, *, use_labels: bool
) -> Stored:
  """Returns class numbers by subfolder.

  Classes are the folders inside the deepest folder that holds all images, in
  sorted order, so that `set.zip` may hold `set/cat/1.png`.

  Args:
    names: The names of the images.
    where: The folder or zip file, for messages.
    use_labels: If not, there are no labels.

  Raises:
    ValueError: If an image is in no such folder.
  """
  if not use_labels:
    return _none(names)
  folders = [pathlib.PurePosixPath(name).parts[:-1] for name in names]
  levels = zip(*folders, strict=False)
  depth = len(list(itertools.takewhile(lambda x: len(set(x)) == 1, levels)))
  for name, folder in zip(names, folders, strict=True):
    if len(folder) == depth:
      raise ValueError(
        f'{where} has no labels: there is no {FILE} in its root, and {name} is '
        'in no subfolder that tells its class from others; add one of them, or '
        'leave out --config.data.cond=1'
      )
  classes = sorted({folder[depth] for folder in folders})
  if all(_SHARD.fullmatch(name) for name in classes):
    raise ValueError(
      f'{where} has no labels: there is no {FILE} in its root, and folders '
      f'named {classes[0]} only part a large set; add the file, rename the '
      'folders if they are classes, or leave out --config.data.cond=1'
    )
  logging.info('Classes of %s, by subfolder: %s', where, ', '.join(classes))
  number = {name: i for i, name in enumerate(classes)}
  return np.array([number[folder[depth]] for folder in folders], np.int64)


def describe_unused(
  text: bytes | None, where: str, names: Sequence[str]
) -> str:
  """Returns what labels there are, if training does not ask for them.

  Args:
    text: The contents of dataset.json; None without such a file.
    where: The folder or zip file, or the name of dataset.json.
    names: The names of the images.

  Returns:
    A phrase, empty if there are none.
  """
  if text is not None:
    return f'{where} holds labels' if _parse(text, where) else ''
  try:
    classes = dim(from_folders(names, where, use_labels=True))
  except ValueError:
    return ''
  return f'{where} has {classes} subfolders, which may be classes'


def read(
  text: bytes, where: str, names: Sequence[str], *, use_labels: bool
) -> Stored:
  """Returns the labels in dataset.json, in the order of the images.

  Args:
    text: The contents of the file.
    where: Its name, for messages.
    names: The names of the images.
    use_labels: If not, there are no labels.

  Raises:
    ValueError: If the file does not give every image a label of one kind.
  """
  listed = _parse(text, where)
  if not use_labels:
    return _none(names)
  if listed is None:
    raise ValueError(
      f'{where} says that there are no labels: add them, or leave out '
      '--config.data.cond=1'
    )
  labels = {}
  for entry in listed:
    name, label = _parse_entry(entry, where)
    if name in labels:
      raise ValueError(f'{where} lists {name} twice: remove one of the entries')
    labels[name] = label
  _check_names(labels, where, names)
  sizes = {n: len(v) if isinstance(v, list) else 0 for n, v in labels.items()}
  first = names[0]
  for name in names:
    if sizes[name] != sizes[first]:
      raise ValueError(
        f'{where} gives {name} {_describe(sizes[name])}, but {first} '
        f'{_describe(sizes[first])}: use one kind of labels'
      )
  dtype = np.float32 if sizes[first] else np.int64
  return np.array([labels[name] for name in names], dtype)


def _none(names: Sequence[str]) -> Float32[np.ndarray, 'n 0']:
  return np.zeros([len(names), 0], np.float32)


def _check_names(
  labels: dict[str, Any], where: str, names: Sequence[str]
) -> None:
  unlabelled = [name for name in names if name not in labels]
  unknown = sorted(labels.keys() - set(names))
  for odd, problem in (
    (unlabelled, 'has no label for'),
    (unknown, 'has a label for an image that is not there,'),
  ):
    if odd:
      more = f' (and {len(odd) - 1} more)' if odd[1:] else ''
      raise ValueError(
        f'{where} {problem} {odd[0]}{more}: list every image once, with its '
        'path from the root'
      )


def _parse(text: bytes, where: str) -> list[Any] | None:
  """Returns the `labels` of dataset.json, unchecked."""
  try:
    contents = json.loads(text)
  except ValueError as error:
    raise ValueError(
      f'{where} is no valid JSON ({error}): write it again'
    ) from error
  listed = contents.get('labels', ()) if isinstance(contents, dict) else ()
  if not isinstance(listed, list | None):
    raise ValueError(
      f'{where} has the wrong structure: it must be '
      '{"labels": [[NAME, LABEL], ...]} or {"labels": null}'
    )
  return listed


def _parse_entry(entry: Any, where: str) -> tuple[str, int | Sequence[float]]:
  """Returns the name and label of one entry in the list of labels."""
  match entry:
    case [str(name), bool()]:
      pass
    case [str(name), int(label)] if not 0 <= label < _MAX_CLASSES:
      raise ValueError(
        f'{where} gives {name} the label {label}: count classes from 0'
      )
    case [str(name), int(label)]:
      return name.replace('\\', '/'), label
    case [str(name), [_, *_] as label] if all(map(_is_finite, label)):
      return name.replace('\\', '/'), label
  raise ValueError(
    f'{where} has the entry {str(entry)[:80]}: it must be [NAME, LABEL] with a '
    'class number from 0 or a list of finite numbers'
  )


def _is_finite(value: Any) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and abs(value) <= _MAX_FLOAT  # Also false for NaN.


def _describe(size: int) -> str:
  return f'a vector of {size} numbers' if size else 'a class number'
