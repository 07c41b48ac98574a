"""CIFAR-10 and MNIST in the formats in which they are published."""

import functools
import gzip
import pathlib
import re
import struct
import tarfile
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

_CIFAR_BATCH = re.compile(r'(?:.*/)?data_batch_\d+\.bin')
_CIFAR_NAMES = 'batches.meta.txt'
_CIFAR_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2  # The class, then planes of colour.

_IDX_IMAGES = 0x00000803  # Bytes, three axes.
_IDX_LABELS = 0x00000801


def is_cifar(path: pathlib.Path) -> bool:
  """Returns whether a path is CIFAR-10: a folder, or the archive of one.

  Raises:
    ValueError: If it is the Python version.
  """
  if path.is_dir():
    names = [p.name for p in path.iterdir()]
    if 'data_batch_1' in names:
      raise ValueError(_python_version(path))
    return any(map(_CIFAR_BATCH.fullmatch, names))
  if path.name.startswith('cifar-10-python'):
    raise ValueError(_python_version(path))
  return path.name.startswith('cifar-10-binary.tar')


def _python_version(path: pathlib.Path) -> str:
  return (
    f'{path} is the Python version of CIFAR-10, whose pickle files could run '
    'any code and are not read: download the binary version, '
    'cifar-10-binary.tar.gz'
  )


class _Arrays:
  """Images that one array in memory holds, loaded once in each process."""

  class_names: tuple[str, ...] | None = None
  notes: tuple[str, ...] = ()

  def __init__(self, path: pathlib.Path, count: int):
    self._path = path
    self.names: Sequence[str] = [f'{i:08d}.png' for i in range(count)]


class Cifar10(_Arrays):
  """The training images of CIFAR-10's binary version, 32 x 32 RGB.

  Args:
    path: The folder, or `cifar-10-binary.tar.gz`.

  Raises:
    ValueError: If the files are incomplete.
  """

  def __init__(self, path: pathlib.Path):
    records, self.class_names = _load_cifar(path)
    super().__init__(path, len(records))
    self.notes = (f'only the training images of {path} are read',)

  def read(self, index: int) -> UInt8[np.ndarray, '32 32 3']:
    """Returns the pixels of an image."""
    planes = _load_cifar(self._path)[0][index, 1:]
    planes = planes.reshape(3, _CIFAR_SIDE, _CIFAR_SIDE)
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1))

  def labels(self) -> list[int]:
    """Returns the classes."""
    return _load_cifar(self._path)[0][:, 0].tolist()


@functools.lru_cache(maxsize=1)
def _load_cifar(
  path: pathlib.Path,
) -> tuple[UInt8[np.ndarray, 'n bytes'], tuple[str, ...] | None]:
  contents = _cifar_files(path)
  batches = []
  for name in sorted(n for n in contents if _CIFAR_BATCH.fullmatch(n)):
    if not contents[name] or len(contents[name]) % _CIFAR_RECORD:
      raise ValueError(
        f'{name} in {path} must consist of records of {_CIFAR_RECORD} bytes, '
        f'got {len(contents[name])} bytes: download it again'
      )
    data = np.frombuffer(contents[name], np.uint8)
    batches.append(data.reshape(-1, _CIFAR_RECORD))
  if not batches:
    raise ValueError(
      f'{path} must contain data_batch_1.bin and so on, got none: download '
      'cifar-10-binary.tar.gz again'
    )
  records = np.concatenate(batches)
  text = next((c for n, c in contents.items() if n.endswith(_CIFAR_NAMES)), b'')
  class_names = tuple(text.decode().split())
  if len(class_names) <= records[:, 0].max():
    return records, None
  return records, class_names


def _cifar_files(path: pathlib.Path) -> dict[str, bytes]:
  if path.is_dir():
    return {
      p.name: p.read_bytes()
      for p in path.iterdir()
      if _CIFAR_BATCH.fullmatch(p.name) or p.name == _CIFAR_NAMES
    }
  contents = {}
  try:
    with tarfile.open(path) as tar:
      for member in tar:
        wanted = _CIFAR_BATCH.fullmatch(member.name)
        if wanted or member.name.endswith(_CIFAR_NAMES):
          file = tar.extractfile(member)
          if file is not None:
            contents[member.name] = file.read()
  except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
    raise ValueError(
      f'{path} is damaged ({error}): download it again'
    ) from error
  return contents


def is_idx(path: pathlib.Path) -> bool:
  """Returns whether a path is a file of images in MNIST's format."""
  return path.is_file() and re.search(r'idx3-ubyte(\.gz)?$', path.name) is not (
    None
  )


class Idx(_Arrays):
  """Grey images of an `idx3-ubyte` file, with labels in the file beside it.

  Args:
    path: A file such as `train-images-idx3-ubyte.gz`. Labels are read from
      `train-labels-idx1-ubyte`, with or without `.gz`.

  Raises:
    ValueError: If the file is damaged.
  """

  def __init__(self, path: pathlib.Path):
    super().__init__(path, len(_load_idx(path, _IDX_IMAGES)))

  def read(self, index: int) -> UInt8[np.ndarray, 'h w']:
    """Returns the pixels of an image."""
    return _load_idx(self._path, _IDX_IMAGES)[index]

  def labels(self) -> list[int] | None:
    """Returns the classes, or None without a file of labels.

    Raises:
      ValueError: If there are fewer or more labels than images.
    """
    name = self._path.name.removesuffix('.gz')
    name = name.replace('images', 'labels').replace('idx3', 'idx1')
    for candidate in (name, f'{name}.gz'):
      path = self._path.with_name(candidate)
      if path.exists():
        labels = _load_idx(path, _IDX_LABELS)
        if len(labels) != len(self.names):
          raise ValueError(
            f'{path} must have {len(self.names)} labels, got {len(labels)}: '
            'download it again'
          )
        return labels.tolist()
    return None


@functools.lru_cache(maxsize=2)
def _load_idx(path: pathlib.Path, magic: int) -> UInt8[np.ndarray, '...']:
  try:
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == '.gz' else data
    found, *shape = struct.unpack_from(f'>{1 + magic % 256}I', data)
  except (gzip.BadGzipFile, EOFError, struct.error) as error:
    raise ValueError(
      f'{path} is damaged ({error}): download it again'
    ) from error
  values = np.frombuffer(data, np.uint8, offset=4 * (1 + len(shape)))
  if found != magic or values.size != np.prod(shape, dtype=np.int64):
    raise ValueError(
      f'{path} must be a complete idx file of bytes, got the number '
      f'{found:#010x} and {values.size} values: download it again'
    )
  return values.reshape(shape)
