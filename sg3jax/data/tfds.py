"""TensorFlow Datasets as image sources, read without TensorFlow.

Datasets prepared in the ArrayRecord format have random access, and
`tensorflow_datasets` parses their examples without TensorFlow.
"""

import hashlib
import io
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sg3jax.data import labels as labels_lib

# Modes in Pillow, by number of channels.
_MODES = {1: 'L', 3: 'RGB'}


class TfdsSource:
  """An image source from one split of a prepared dataset.

  Images are the feature `image`, or else the only Image feature. Labels, if
  requested, are the feature `label`, or else the only ClassLabel feature. Class
  indices become one-hot vectors; vectors of floats are used unchanged. Classes
  have their names in the dataset.

  Args:
    name: The dataset, as for `tfds.builder`: `NAME[/CONFIG][:VERSION]`.
    split: A split, or a slice of one such as `train[:50%]`.
    data_dir: The folder that contains `NAME/[CONFIG/]VERSION`; None for the
      default of `tensorflow_datasets`, `~/tensorflow_datasets`.
    use_labels: Whether to read labels. If not, `label_dim` is 0, and
      `unused_labels` describes labels that exist.
    resolution: The side in pixels that images must have; None for that of the
      first image.

  Raises:
    ImportError: If `tensorflow_datasets` or `array_record` is not installed.
    ValueError: If the dataset is unknown, not prepared for random access or
      empty; if it has no such split, or no unique image or label feature; or if
      its first image is not a square of `resolution` with 1 or 3 channels.
  """

  def __init__(
    self,
    name: str,
    *,
    split: str = 'train',
    data_dir: str | os.PathLike[str] | None = None,
    use_labels: bool = False,
    resolution: int | None = None,
  ):
    tfds = import_tfds()
    builder = prepared_builder(tfds, name, data_dir)
    features = dict(builder.info.features)
    self.name = builder.name
    self.label_dim = 0
    self.class_names: tuple[str, ...] | None = None
    self.unused_labels = ''
    self._labels: labels_lib.Labels | None = None
    self._image_key = image_key(tfds, name, features)
    if use_labels:
      self._label_key = _label_key(tfds, name, features)
      feature = features[self._label_key]
      self._is_class = isinstance(feature, tfds.features.ClassLabel)
      self.label_dim = _label_dim(tfds, name, self._label_key, features)
      if self._is_class:
        self.class_names = class_names(feature)
    elif 'label' in features:
      self.unused_labels = f'dataset {name} has the feature label'
    if not builder.info.splits[split].num_examples:
      raise ValueError(f'split {split!r} of dataset {name} is empty')
    # Images stay encoded. Reading labels then decodes no image, and the pixels
    # do not depend on whether tfds finds OpenCV.
    self._examples = open_encoded(tfds, builder, split)
    self._identity = f'{builder.info.full_name}:{split}:{len(self._examples)}'
    self.channels = features[self._image_key].shape[-1]
    if self.channels not in _MODES:
      raise ValueError(
        f'images of dataset {name} must have 1 (grey) or 3 (RGB) channels, got '
        f'{self.channels}'
      )
    first = self._decode(0, self._examples[0])
    self.resolution = first.shape[0] if resolution is None else resolution
    self._check_size(0, first)

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `{'image': uint8 [h, w, c], 'label': float32 [label_dim]}`.

    Raises:
      ValueError: If the image is damaged, differs in size from the others, or
        lacks a label.
    """
    index = range(len(self))[index]
    example = self._examples[index]
    image = self._decode(index, example)
    self._check_size(index, image)
    label = np.zeros([0], np.float32)
    if self.label_dim:
      label = self._label(index, example)
      if self._is_class:
        label = labels_lib.one_hot(label, self.label_dim)
    return {'image': image, 'label': np.asarray(label, np.float32)}

  def labels(self) -> labels_lib.Labels:
    """Returns all labels; the first call reads all images, without decoding.

    Raises:
      ValueError: If an image has no label.
    """
    if self._labels is None:
      self._labels = self._read_labels()
    return self._labels

  def fingerprint(self) -> str:
    """Returns a hash of the dataset's name and version, split and length."""
    return hashlib.sha256(self._identity.encode()).hexdigest()

  def _read_labels(self) -> labels_lib.Labels:
    n = len(self)
    if not self.label_dim:
      return labels_lib.none(n)
    values = (
      np.zeros([n], np.int64)
      if self._is_class
      else np.zeros([n, self.label_dim], np.float32)
    )
    for index in range(n):
      values[index] = self._label(index, self._examples[index])
    return labels_lib.Labels(values, self.label_dim, self.class_names)

  def _decode(
    self, index: int, example: dict[str, Any]
  ) -> UInt8[np.ndarray, 'h w c']:
    try:
      with Image.open(io.BytesIO(example[self._image_key])) as image:
        pixels = np.array(image.convert(_MODES[self.channels]))
    except OSError as error:
      raise ValueError(
        f'image {index} of dataset {self.name} cannot be decoded: {error}'
      ) from error
    return pixels.reshape(*pixels.shape[:2], self.channels)

  def _check_size(self, index: int, image: UInt8[np.ndarray, 'h w c']):
    height, width = image.shape[:2]
    if not height == width == self.resolution:
      raise ValueError(
        f'image {index} of dataset {self.name} must be {self.resolution} x '
        f'{self.resolution} pixels, got {width} x {height}: crop and resize '
        'all images to one square size'
      )

  def _label(self, index: int, example: dict[str, Any]) -> Any:
    """Returns the class index or the vector of an example."""
    label = example[self._label_key]
    # Test splits often replace hidden labels by -1.
    if self._is_class and not 0 <= label < self.label_dim:
      raise ValueError(
        f'the label of image {index} of dataset {self.name} must be from 0 to '
        f'{self.label_dim - 1}, got {label}: choose a labelled split, or set '
        'data.cond to False'
      )
    return label


def import_tfds() -> Any:
  """Returns the module `tensorflow_datasets`.

  Raises:
    ImportError: If it or `array_record` is not installed.
  """
  try:
    import array_record  # noqa: F401  # tensorflow_datasets imports it late.
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ImportError(
      'tfds: sources need tensorflow-datasets and array_record: '
      "pip install 'sg3jax[tfds]'"
    ) from error
  return tfds


def prepared_builder(
  tfds: Any, name: str, data_dir: str | os.PathLike[str] | None
) -> Any:
  """Opens a dataset on disk, and never downloads one, which may be large."""
  # In its default folder, tfds assumes TFRecord unless the format is given. In
  # another folder, it detects the format of the files.
  arguments = {'file_format': 'array_record'}
  if data_dir is not None:
    arguments = {'data_dir': str(pathlib.Path(data_dir).expanduser())}
  try:
    builder = tfds.builder(name, **arguments)
  except (AssertionError, ValueError) as error:  # Unknown version or name.
    where = 'the default folder' if data_dir is None else data_dir
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'tensorflow_datasets has no dataset {name!r}, and none is prepared in '
      f'{where}: {reason}'
    ) from error
  formats = tfds.core.FileFormat.with_random_access()
  is_prepared = builder.is_prepared()
  if is_prepared and builder.info.available_file_formats() & formats:
    return builder
  fault = 'is not prepared'
  if is_prepared:
    fault = f'has no random access ({builder.info.file_format.value})'
  options = f"{name!r}, data_dir=..., file_format='array_record'"
  raise ValueError(
    f'dataset {name} in {builder.data_dir} {fault}: prepare it once, in a '
    f'separate folder, with tfds.builder({options}).download_and_prepare()'
  )


def open_encoded(tfds: Any, builder: Any, split: str) -> Any:
  """Opens a split whose images stay encoded."""
  encoded = {
    key: tfds.decode.SkipDecoding()
    for key, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image)
  }
  return builder.as_data_source(split=split, decoders=encoded)


def image_key(tfds: Any, name: str, features: dict[str, Any]) -> str:
  """Returns the name of the feature that holds the images.

  Raises:
    ValueError: If there is no such feature or several, or if it is not uint8.
  """
  images = {
    key: feature
    for key, feature in features.items()
    if isinstance(feature, tfds.features.Image)
  }
  key = _choose(name, 'image', images, features)
  if images[key].np_dtype != np.uint8:
    raise ValueError(
      f'images of dataset {name} must be uint8, got '
      f'{np.dtype(images[key].np_dtype)}'
    )
  return key


def _label_key(tfds: Any, name: str, features: dict[str, Any]) -> str:
  if 'label' in features:
    return 'label'
  classes = {
    key: feature
    for key, feature in features.items()
    if isinstance(feature, tfds.features.ClassLabel)
  }
  return _choose(name, 'label', classes, features)


def _choose(
  name: str,
  preferred: str,
  candidates: dict[str, Any],
  features: dict[str, Any],
) -> str:
  """Returns the preferred key if it is a candidate, else the only candidate."""
  if preferred in candidates:
    return preferred
  if len(candidates) == 1:
    return next(iter(candidates))
  # Sorted, because tfds does not restore the order of features.
  found = ', '.join(
    f'{key} ({type(features[key]).__name__})' for key in sorted(features)
  )
  raise ValueError(
    f'dataset {name} must have a feature {preferred!r} or only one that could '
    f'be it, got {len(candidates)} candidates among the features {found}'
  )


def class_names(feature: Any) -> tuple[str, ...] | None:
  """Returns the names of classes, or None if they are only numbers."""
  names = tuple(feature.names)
  return None if names == tuple(map(str, range(len(names)))) else names


def _label_dim(tfds: Any, name: str, key: str, features: dict[str, Any]) -> int:
  feature = features[key]
  if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
    return feature.num_classes
  shape = feature.shape
  if (
    isinstance(feature, tfds.features.Tensor)
    and len(shape) == 1
    and shape[0]
    and np.issubdtype(feature.np_dtype, np.floating)
  ):
    return shape[0]
  raise ValueError(
    f'feature {key!r} of dataset {name} must be a ClassLabel or a vector of '
    f'floats of known length to label images, got {type(feature).__name__}'
  )
