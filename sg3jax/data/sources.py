"""What images to train on: one interface, and the sets that implement it."""

import pathlib
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from sg3jax.data import files

_FORMS = (
  'a folder of images, a .zip file, embedded[:COUNT] or '
  'tfds:NAME[:SPLIT][@DATA_DIR]'
)

# Of the embedded crops where nobody asks for another one.
_EMBEDDED_RESOLUTION = 64


@runtime_checkable  # For the type checks of the tests.
class ImageSource(Protocol):
  """Random access to equally large images, from any thread and picklable.

  One may also have `unused_labels`, a phrase on the labels that are there but
  were not asked for: see `unused_labels`.
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

  def labels(self) -> Float[np.ndarray, 'n label_dim']:
    """Returns all labels, float32, without decoding images."""
    ...


class Subset:
  """Some images of a source, in the source's order.

  Attributes:
    name: That of the source, as are the properties that follow.
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
    self.unused_labels = unused_labels(source)

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `image`, uint8 [h, w, c], and `label`, float32 [label_dim]."""
    return self._source[int(self._indices[index])]

  def labels(self) -> Float[np.ndarray, 'n label_dim']:
    """Returns all labels, float32, without decoding images."""
    return self._source.labels()[self._indices]


def unused_labels(source: ImageSource) -> str:
  """Returns what labels a source leaves unread, a phrase; empty for none."""
  return getattr(source, 'unused_labels', '')


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
    seed: Of the choice of that subset.

  Raises:
    FileNotFoundError: If `spec` names nothing that exists.
    ImportError: If a package that the set needs is missing.
    ValueError: If the images or labels are not usable; the message names the
      file and the remedy.
  """
  if max_images is not None and max_images < 1:
    raise ValueError(
      f'config.data.max_images is {max_images}: use 1 or more, or leave it '
      'unset to take all images'
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
  path = pathlib.Path(spec).expanduser()
  if not path.exists():
    raise FileNotFoundError(
      f'the data {spec!r} do not exist: config.data.source takes {_FORMS}'
    )
  return files.ImageFiles(path, resolution=resolution, use_labels=use_labels)


def _open_embedded(
  count: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  # Imported late: the packages behind it are optional.
  from sg3jax.data import embedded

  if use_labels:
    raise ValueError(
      'the embedded photographs have no labels: leave out '
      '--config.data.cond=1, or use other data'
    )
  if count and not (count.isdecimal() and int(count)):
    raise ValueError(
      f'embedded:{count} is not understood: write embedded:COUNT with the '
      'number of crops, such as embedded:4000'
    )
  options = {'count': int(count)} if count else {}
  return embedded.EmbeddedPhotographs(
    resolution=_EMBEDDED_RESOLUTION if resolution is None else resolution,
    **options,
  )


def _open_tfds(
  argument: str, resolution: int | None, use_labels: bool
) -> ImageSource:
  # Imported late: the package is optional.
  from sg3jax.data import tfds

  argument, _, data_dir = argument.partition('@')
  name, _, split = argument.partition(':')  # `train[:50%]` has a colon too.
  if not name:
    raise ValueError(
      f'tfds:{argument} names no set: write tfds:NAME[:SPLIT][@DATA_DIR], '
      'such as tfds:cifar10:train'
    )
  return tfds.TfdsSource(
    name,
    split=split or 'train',
    data_dir=data_dir or None,
    resolution=resolution,
    use_labels=use_labels,
  )
