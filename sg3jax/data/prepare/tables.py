"""Images in Parquet files and in TensorFlow datasets."""

import bisect
import functools
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from sg3jax.data import report, sources
from sg3jax.data import tfds as tfds_lib
from sg3jax.data.prepare import raw_sources


def _import_parquet() -> Any:
  try:
    import pyarrow.parquet as parquet
  except ImportError as error:
    raise ImportError(
      "Parquet files need pyarrow: pip install 'sg3jax[parquet]'"
    ) from error
  return parquet


class Parquet:
  """The images in a column of Parquet files, as `datasets` writes them.

  The column is `image`, or else the only one of image files: a struct with the
  fields `bytes` and `path`, or binary. Labels are the column `label`, or else
  `labels` or `fine_label`; the names of its classes are read from the
  metadata.

  Args:
    paths: The files, in order.

  Raises:
    ImportError: If pyarrow is not installed.
    ValueError: If a file is damaged, or without a column of images.
  """

  def __init__(self, paths: Sequence[pathlib.Path]):
    self._paths = tuple(paths)
    self._groups: list[tuple[int, int]] = []  # A file, and a row group in it.
    self._starts: list[int] = []
    rows = 0
    for i, path in enumerate(self._paths):
      metadata = _open_parquet(path).metadata
      for group in range(metadata.num_row_groups):
        self._groups.append((i, group))
        self._starts.append(rows)
        rows += metadata.row_group(group).num_rows
    schema = _open_parquet(self._paths[0]).schema_arrow
    self._image = _image_column(schema, self._paths[0])
    known = ('label', 'labels', 'fine_label')
    self._label = next((n for n in known if n in schema.names), None)
    self.names: Sequence[str] = [f'{i:08d}.png' for i in range(rows)]
    self.class_names = _class_names(schema, self._label)
    unread = [n for n in schema.names if n not in (self._image, self._label)]
    self.notes: tuple[str, ...] = ()
    if unread:
      self.notes = (
        f'{report.count(len(unread), "column")} not read: '
        f'{report.examples(unread)}',
      )

  def read(self, index: int) -> bytes:
    """Returns the bytes of an image file."""
    position = bisect.bisect_right(self._starts, index) - 1
    file, group = self._groups[position]
    column = _read_group(self._paths[file], group, self._image)
    value = column[index - self._starts[position]].as_py()
    data = value['bytes'] if isinstance(value, dict) else value
    if not data:
      raise ValueError('the row has no bytes of an image')
    return data

  def labels(self) -> list[raw_sources.Label | None] | None:
    """Returns the column of labels."""
    if self._label is None:
      return None
    columns = (
      _open_parquet(path).read(columns=[self._label])[self._label].to_pylist()
      for path in self._paths
    )
    return list(itertools.chain.from_iterable(columns))


@functools.lru_cache(maxsize=16)
def _open_parquet(path: pathlib.Path) -> Any:
  parquet = _import_parquet()
  try:
    return parquet.ParquetFile(path)
  except OSError as error:
    if error.errno is not None:
      raise
    raise ValueError(f'{path} is damaged ({error}): copy it again') from error
  except ValueError as error:
    raise ValueError(
      f'{path} is not a Parquet file, or is damaged ({error}): copy it again'
    ) from error


@functools.lru_cache(maxsize=1)  # Images are read in order, mostly.
def _read_group(path: pathlib.Path, group: int, column: str) -> Any:
  return _open_parquet(path).read_row_group(group, columns=[column])[column]


def _image_column(schema: Any, path: pathlib.Path) -> str:
  import pyarrow as pa

  def is_image(kind: Any) -> bool:
    if pa.types.is_struct(kind):
      return any(field.name == 'bytes' for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

  found = [field.name for field in schema if is_image(field.type)]
  if 'image' in found:
    return 'image'
  if len(found) != 1:
    raise ValueError(
      f'{path} must have a column image, or only one of image files (a struct '
      f'with the field bytes, or binary), got {len(found)} among the columns '
      f'{", ".join(schema.names)}'
    )
  return found[0]


def _class_names(schema: Any, label: str | None) -> tuple[str, ...] | None:
  """Returns the names of classes in the metadata that `datasets` writes."""
  try:
    about = json.loads((schema.metadata or {})[b'huggingface'])
    names = about['info']['features'][label]['names']
  except (KeyError, TypeError, ValueError):
    return None
  return tuple(map(str, names)) if isinstance(names, list) else None


class Tfds:
  """The images of a prepared TensorFlow dataset, still encoded.

  Args:
    argument: `NAME[:SPLIT][@DATA_DIR]`.

  Raises:
    ImportError: If `tensorflow_datasets` is not installed.
    ValueError: If the dataset is unknown, empty or not prepared for random
      access.
  """

  notes: tuple[str, ...] = ()

  def __init__(self, argument: str):
    name, split, data_dir = sources.parse_tfds(argument)
    tfds = tfds_lib.import_tfds()
    builder = tfds_lib.prepared_builder(tfds, name, data_dir)
    features = dict(builder.info.features)
    self._image = tfds_lib.image_key(tfds, name, features)
    self._label = 'label' if 'label' in features else None
    kind = features.get('label')
    is_class = isinstance(kind, tfds.features.ClassLabel)
    self.class_names = tfds_lib.class_names(kind) if is_class else None
    self._examples = tfds_lib.open_encoded(tfds, builder, split)
    count = len(self._examples)
    self.names: Sequence[str] = [f'{i:08d}.png' for i in range(count)]

  def read(self, index: int) -> bytes:
    """Returns the bytes of an image file."""
    return self._examples[index][self._image]

  def labels(self) -> list[raw_sources.Label | None] | None:
    """Returns the feature `label` of each example; reads all of them."""
    if self._label is None:
      return None
    values = (self._examples[i][self._label] for i in range(len(self.names)))
    return [
      v.tolist() if hasattr(v, 'tolist') else v  # NumPy's numbers and arrays.
      for v in values
    ]
