"""Sources of images for training: their interface and their names."""

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from sg3jax.data import files, remote, report
from sg3jax.data import labels as labels_lib

# Messages list these forms of `data.source`.
FORMS = (
  'a folder of images or of .array_record files, a .zip file, '
  'embedded[:COUNT], emoji[:COUNT], gs://BUCKET/PATH of records or of a .zip '
  'file, or tfds:NAME[:SPLIT][@DATA_DIR]'
)

# Kinds of sources that packages contain, by name, with what they are called.
_PACKAGED = {'embedded': 'embedded photographs', 'emoji': 'emoji'}
# Their defaults.
_PACKAGED_RESOLUTION, _PACKAGED_COUNT = 64, 4000
# Largest number of classes that a line of the log names.
_MOST_CLASSES = 20


@runtime_checkable  # For the type checks of the tests.
class ImageSource(Protocol):
  """Random access to images of equal size, from any thread, and picklable.

  A source may also have the attributes
    `class_names`, the names of its classes: see `class_names`;
    `unused_labels`, a phrase about labels that exist but were not requested;
    `preparation`, how its images were made: see `preparation`;
    `notes`, sentences about skipped files and contents that are not read;
    `changes`, sentences about data that are read differently than before runs
      recorded their data;
  and a method
    `fingerprint()`, a hash that identifies the images: see `fingerprint`.
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
    """Features of a label; 0 without labels."""
    ...

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `image`, uint8 [h, w, c], and `label`, float32 [label_dim]."""
    ...

  def labels(self) -> labels_lib.Labels:
    """Returns all labels, without decoding images."""
    ...


class Subset:
  """Some images of a source, in the order of the source.

  All attributes are those of the source.

  Attributes:
    name: The name of the source.
    resolution: Rows and columns of every image.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    label_dim: Features of a label; 0 without labels.
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
    self.preparation = preparation(source)
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
    """Returns a hash of the source's fingerprint and the chosen images."""
    chosen = self._indices.astype(np.int64).tobytes()
    whole = (fingerprint(self._source) or '').encode()
    return hashlib.sha256(whole + chosen).hexdigest()


def class_names(source: ImageSource) -> tuple[str, ...] | None:
  """Returns the names of a source's classes in order, or None without names."""
  return getattr(source, 'class_names', None)


def unused_labels(source: ImageSource) -> str:
  """Returns a phrase about labels that a source does not read; may be empty."""
  return getattr(source, 'unused_labels', '')


def preparation(source: ImageSource) -> dict[str, Any] | None:
  """Returns how the images of a source were made, or None if unknown.

  It is what `sg3jax data prepare` recorded: the keys include `transform`,
  `filter` and `resize`. The filter changes FID, so metrics should print it.
  """
  return getattr(source, 'preparation', None)


def changes(source: ImageSource) -> tuple[str, ...]:
  """Returns sentences about data that earlier versions read differently."""
  return getattr(source, 'changes', ())


def fingerprint(source: ImageSource) -> str | None:
  """Returns a hash that identifies the images of a source, or None without one.

  It is cheap, because it reads no image: for example, a hash of names. Changed
  pixels under the same names have the same hash.
  """
  return source.fingerprint() if hasattr(source, 'fingerprint') else None  # pyright: ignore[reportAttributeAccessIssue]


def notes(source: ImageSource) -> tuple[str, ...]:
  """Returns sentences about skipped files and contents that are not read."""
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
        'networks will not learn these classes'
      )
  lines += [f'{"Data note:":15} {note}' for note in notes(source)]
  if unused := unused_labels(source):
    lines.append(
      f'Warning: {unused}, unused: set data.cond to True to train on them'
    )
  return lines


def absolute(spec: str) -> str:
  """Returns a name of the same images that is valid in any working directory.

  Paths become absolute, and optional parts are filled in. Links are not
  resolved (see `is_same`). Strings that `open_source` would reject are returned
  unchanged.
  """
  return _spelt_out(spec, os.path.abspath)


def is_same(a: str, b: str) -> bool:
  """Returns whether two strings name the same images, with links resolved."""
  return absolute(a) == absolute(b) or (
    _spelt_out(a, os.path.realpath) == _spelt_out(b, os.path.realpath)
  )


def _spelt_out(spec: str, path_of: Callable[[str], str]) -> str:
  kind, _, argument = spec.partition(':')
  if kind in _PACKAGED:
    count = argument or str(_PACKAGED_COUNT)
    return f'{kind}:{int(count)}' if count.isdecimal() else spec
  if kind == 'tfds':
    name, split, data_dir = parse_tfds(argument)
    place = f'@{path_of(os.path.expanduser(data_dir))}' if data_dir else ''
    return f'tfds:{name}:{split}{place}'
  if remote.is_remote(spec):
    return spec.rstrip('/')
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
      `PATH`: a folder or a zip file, see `files.ImageFiles`, or a folder of
        ArrayRecord files, see `array_records`; a folder called `embedded` can
        be named `./embedded`.
      `gs://BUCKET/PATH`: a zip file or a folder of ArrayRecord files, which are
        copied to this machine first; see `remote`.
      `embedded[:COUNT]`: crops of photographs that come with Python packages.
      `emoji[:COUNT]`: faces that come with a Python package.
      `tfds:NAME[:SPLIT][@DATA_DIR]`: a prepared TensorFlow dataset, by default
        its split `train`.
    resolution: The rows and columns that the images must have, which are never
      resized; None for any.
    use_labels: Whether to read labels; if not, `label_dim` is 0.
    max_images: Size of a random subset of the images, which keeps their order;
      None for all images.
    seed: Seed of the random subset.

  Raises:
    FileNotFoundError: If the path in `spec` does not exist.
    OSError: If the disk or the network fails to deliver a file.
    ImportError: If a package that the source needs is missing.
    ValueError: If the images or labels are not usable; the message names the
      file and the remedy.
  """
  if max_images is not None and max_images < 1:
    raise ValueError(
      f'data.max_images must be at least 1, got {max_images}: leave it unset '
      'to use all images'
    )
  source = _open_all(spec, resolution, use_labels)
  if max_images is None or max_images == len(source):
    return source
  if max_images > len(source):
    # A Subset would have another fingerprint than the runs so far.
    source.notes = (  # pyright: ignore[reportAttributeAccessIssue]
      *notes(source),
      f'data.max_images is {max_images:,}, but there are only {len(source):,} '
      'images: all of them are used',
    )
    return source
  rng = np.random.default_rng(seed)
  indices = rng.choice(len(source), size=max_images, replace=False)
  return Subset(source, np.sort(indices))


def _open_all(
  spec: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  kind, _, argument = spec.partition(':')
  if kind in _PACKAGED:
    return _open_packaged(kind, argument, resolution, use_labels)
  if kind == 'tfds':
    return _open_tfds(argument, resolution, use_labels)
  if remote.is_remote(spec):
    return files.ImageFiles(
      remote.fetch(spec), resolution=resolution, use_labels=use_labels
    )
  if '://' in spec:
    raise ValueError(
      f'data.source must be {FORMS}, got the address {spec!r}: download the '
      'data first'
    )
  path = pathlib.Path(spec).expanduser()
  if not path.exists():
    raise FileNotFoundError(
      f'data.source must be {FORMS}, got {spec!r}, which does not exist'
    )
  return files.ImageFiles(path, resolution=resolution, use_labels=use_labels)


def _open_packaged(
  kind: str, count: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  # Imported here because their packages are optional.
  from sg3jax.data import embedded, emoji

  if use_labels:
    raise ValueError(
      f'the {_PACKAGED[kind]} have no labels: set data.cond to False, or use '
      'other data'
    )
  if count and not (count.isdecimal() and int(count)):
    raise ValueError(
      f'{kind} must be followed by a positive number of images, as in '
      f'{kind}:4000, got {kind}:{count}'
    )
  opener = {'embedded': embedded.EmbeddedPhotographs, 'emoji': emoji.EmojiFaces}
  return opener[kind](
    resolution=_PACKAGED_RESOLUTION if resolution is None else resolution,
    count=int(count or _PACKAGED_COUNT),
  )


def _open_tfds(
  argument: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  # Imported here because the package is optional.
  from sg3jax.data import tfds

  name, split, data_dir = parse_tfds(argument)
  if not name:
    raise ValueError(
      'a TensorFlow dataset must be tfds:NAME[:SPLIT][@DATA_DIR], such as '
      f'tfds:cifar10:train, got tfds:{argument}'
    )
  return tfds.TfdsSource(
    name,
    split=split,
    data_dir=data_dir,
    resolution=resolution,
    use_labels=use_labels,
  )


def parse_tfds(argument: str) -> tuple[str, str, str | None]:
  """Returns the name, split and folder of `NAME[:SPLIT][@DATA_DIR]`."""
  argument, _, data_dir = argument.partition('@')
  name, _, split = argument.partition(':')  # `train[:50%]` contains one too.
  return name, split or 'train', data_dir or None
