"""Sets of images to train on: one interface, and how a set is named."""

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from sg3jax.data import files, report
from sg3jax.data import labels as labels_lib

_FORMS = (
  'a folder of images, a .zip file, embedded[:COUNT] or '
  'tfds:NAME[:SPLIT][@DATA_DIR]'
)

# The embedded crops, where nobody asks for others.
_EMBEDDED_RESOLUTION, _EMBEDDED_COUNT = 64, 4000
# Classes that a line of the log names.
_MOST_CLASSES = 20


@runtime_checkable  # For the type checks of the tests.
class ImageSource(Protocol):
  """Random access to equally large images, from any thread and picklable.

  A source may also have the attributes
    `class_names`, the names of its classes: see `class_names`;
    `unused_labels`, a phrase on labels that are there but were not asked for;
    `notes`, sentences on files skipped and contents left unread;
    `changes`, sentences on what is read otherwise than before runs recorded
      their data;
  and a method
    `fingerprint()`, a hash of what the images are: see `fingerprint`.
  """

  @property
  def name(self) -> str:
    """A short name for logs and folders."""
    ...

  @property
  def resolution(self) -> int:
    """Rows and columns of every image."""
    ...

  @property
  def channels(self) -> int:
    """1 (grey), 3 (RGB) or 4 (RGBA)."""
    ...

  @property
  def label_dim(self) -> int:
    """Features of a label; 0 if there are none."""
    ...

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `image`, uint8 [h, w, c], and `label`, float32 [label_dim]."""
    ...

  def labels(self) -> labels_lib.Labels:
    """Returns all labels, without decoding images."""
    ...


class Subset:
  """Some images of a source, in the source's order.

  Attributes:
    name: The name of the source; the properties that follow are its own too.
    resolution: Rows and columns of every image.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    label_dim: Features of a label; 0 if there are none.
  """

  def __init__(self, source: ImageSource, indices: Int[np.ndarray, ' n']):
    self._source = source
    self._indices = indices
    self.name = source.name
    self.resolution = source.resolution
    self.channels = source.channels
    self.label_dim = source.label_dim
    self.class_names = class_names(source)
    self.unused_labels = unused_labels(source)
    self.notes = notes(source)
    self.changes = changes(source)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `image`, uint8 [h, w, c], and `label`, float32 [label_dim]."""
    return self._source[int(self._indices[index])]

  def labels(self) -> labels_lib.Labels:
    """Returns all labels, without decoding images."""
    return self._source.labels().take(self._indices)

  def fingerprint(self) -> str:
    """Returns a hash of what the source is and which images were taken."""
    chosen = self._indices.astype(np.int64).tobytes()
    whole = (fingerprint(self._source) or '').encode()
    return hashlib.sha256(whole + chosen).hexdigest()


def class_names(source: ImageSource) -> tuple[str, ...] | None:
  """Returns the names of a source's classes in order, None without names."""
  return getattr(source, 'class_names', None)


def unused_labels(source: ImageSource) -> str:
  """Returns which labels a source leaves unread, a phrase; empty for none."""
  return getattr(source, 'unused_labels', '')


def changes(source: ImageSource) -> tuple[str, ...]:
  """Returns sentences on what is read otherwise than by earlier versions."""
  return getattr(source, 'changes', ())


def fingerprint(source: ImageSource) -> str | None:
  """Returns a hash of what a source's images are, such as of their names.

  It is cheap, as no image is read: other pixels under the same names have the
  same hash. None if the source has none.
  """
  return source.fingerprint() if hasattr(source, 'fingerprint') else None  # pyright: ignore[reportAttributeAccessIssue]


def notes(source: ImageSource) -> tuple[str, ...]:
  """Returns sentences on files skipped and contents left unread."""
  return getattr(source, 'notes', ())


def describe(source: ImageSource) -> list[str]:
  """Returns lines for a log: classes, notes and warnings."""
  lines = []
  counts = source.labels().class_counts() if source.label_dim else None
  names = class_names(source)
  if counts is not None:
    shown = [
      f'{i} {report.printable(names[i])} ({n:,})' if names else f'{i} ({n:,})'
      for i, n in enumerate(counts[:_MOST_CLASSES].tolist())
    ]
    rest = len(counts) - len(shown)
    more = f', and {rest:,} more' if rest else ''
    lines.append(f'{"Classes:":15} {", ".join(shown)}{more}')
    empty = np.flatnonzero(counts == 0)
    if len(empty):
      shown = [f'{i} {names[i]}' if names else str(i) for i in empty]
      lines.append(
        f'Warning: no images of {report.count(len(empty), "class")} of '
        f'{len(counts):,}: {report.examples(shown, _MOST_CLASSES)}. The '
        'networks have these classes, but will not learn them'
      )
  lines += [f'{"Data note:":15} {note}' for note in notes(source)]
  if unused := unused_labels(source):
    lines.append(
      f'Warning: {unused}, unused: set data.cond to True to train on them'
    )
  return lines


def absolute(spec: str) -> str:
  """Returns a name of the same images that holds in any current folder.

  Paths become absolute, and optional parts are filled in. Links stay as they
  are: see `is_same`. So do strings that `open_source` would refuse.
  """
  return _spelt_out(spec, os.path.abspath)


def is_same(a: str, b: str) -> bool:
  """Returns whether two strings name the same images, through links too."""
  return absolute(a) == absolute(b) or (
    _spelt_out(a, os.path.realpath) == _spelt_out(b, os.path.realpath)
  )


def _spelt_out(spec: str, path_of: Callable[[str], str]) -> str:
  kind, _, argument = spec.partition(':')
  if kind == 'embedded':
    count = argument or str(_EMBEDDED_COUNT)
    return f'embedded:{int(count)}' if count.isdecimal() else spec
  if kind == 'tfds':
    name, split, data_dir = _parse_tfds(argument)
    place = f'@{path_of(os.path.expanduser(data_dir))}' if data_dir else ''
    return f'tfds:{name}:{split}{place}'
  return path_of(os.path.expanduser(spec))


def open_source(
  spec: str,
  *,
  resolution: int | None = None,
  use_labels: bool = False,
  max_images: int | None = None,
  seed: int = 0,
) -> ImageSource:
  """Opens the images that a string names, and checks them.

  Args:
    spec: One of
      `PATH`: a folder or a zip file, see `files.ImageFiles`; a folder that is
        really called `embedded` can be named `./embedded`.
      `embedded[:COUNT]`: crops of photographs that come with Python packages.
      `tfds:NAME[:SPLIT][@DATA_DIR]`: a prepared TensorFlow Datasets set, by
        default its split `train`.
    resolution: The rows and columns that the images must have. Images are
      never resized. None takes what is there.
    use_labels: Whether to read labels; if not, `label_dim` is 0.
    max_images: Keep a random subset of that many images, in order.
    seed: Seed of the choice of that subset.

  Raises:
    FileNotFoundError: If `spec` names nothing that exists.
    OSError: If the disk or the network fails to deliver a file.
    ImportError: If a package that the set needs is missing.
    ValueError: If the images or labels are not usable; the message names the
      file and the remedy.
  """
  if max_images is not None and max_images < 1:
    raise ValueError(
      f'data.max_images must be at least 1, got {max_images}: leave it unset '
      'to take all images'
    )
  source = _open_all(spec, resolution, use_labels)
  if max_images is None or max_images >= len(source):
    return source
  rng = np.random.default_rng(seed)
  indices = rng.choice(len(source), size=max_images, replace=False)
  return Subset(source, np.sort(indices))


def _open_all(
  spec: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  kind, _, argument = spec.partition(':')
  if kind == 'embedded':
    return _open_embedded(argument, resolution, use_labels)
  if kind == 'tfds':
    return _open_tfds(argument, resolution, use_labels)
  if '://' in spec:
    raise ValueError(
      f'data.source must be {_FORMS}, got the address {spec!r}: download the '
      'data first'
    )
  path = pathlib.Path(spec).expanduser()
  if not path.exists():
    raise FileNotFoundError(
      f'the data {spec!r} do not exist: data.source takes {_FORMS}'
    )
  return files.ImageFiles(path, resolution=resolution, use_labels=use_labels)


def _open_embedded(
  count: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  # Imported late: the packages behind it are optional.
  from sg3jax.data import embedded

  if use_labels:
    raise ValueError(
      'the embedded photographs have no labels: set data.cond to False, or use '
      'other data'
    )
  if count and not (count.isdecimal() and int(count)):
    raise ValueError(
      f'embedded:{count} is not understood: write embedded:COUNT with the '
      'number of crops, such as embedded:4000'
    )
  return embedded.EmbeddedPhotographs(
    resolution=_EMBEDDED_RESOLUTION if resolution is None else resolution,
    count=int(count or _EMBEDDED_COUNT),
  )


def _open_tfds(
  argument: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  # Imported late: the package is optional.
  from sg3jax.data import tfds

  name, split, data_dir = _parse_tfds(argument)
  if not name:
    raise ValueError(
      f'tfds:{argument} names no set: write tfds:NAME[:SPLIT][@DATA_DIR], '
      'such as tfds:cifar10:train'
    )
  return tfds.TfdsSource(
    name,
    split=split,
    data_dir=data_dir,
    resolution=resolution,
    use_labels=use_labels,
  )


def _parse_tfds(argument: str) -> tuple[str, str, str | None]:
  """Returns the name, split and folder of `NAME[:SPLIT][@DATA_DIR]`."""
  argument, _, data_dir = argument.partition('@')
  name, _, split = argument.partition(':')  # `train[:50%]` has a colon too.
  return name, split or 'train', data_dir or None
