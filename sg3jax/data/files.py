"""Images in a folder or in a zip file, with labels in dataset.json."""

import collections
import io
import os
import pathlib
import struct
import threading
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from sg3jax.data import labels as labels_lib

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')

# A header takes about 0.2 ms to check on a local disk: a second in all. Larger
# sets are sampled; every image is checked again when it is decoded.
_MAX_HEADERS = 4096

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_PNG_BIT_DEPTH = 24  # Offset of that byte in the file.

_CHANNELS = {'L': 1, 'RGB': 3, 'RGBA': 4}

# Modes that are read as another one without loss.
_LOSSLESS = {'1': 'L', 'LA': 'RGBA', 'PA': 'RGBA'} | {m: m for m in _CHANNELS}


class ImageFiles:
  """The PNG, JPEG and WebP files of a folder or a zip file, sorted by name.

  Subfolders are included. Files that are hidden (`.x`, or in `__MACOSX`) are
  left out. A zip file is never extracted: names in it are only names.

  Images must be square, of one size, and all grey (1 channel), all RGB (3) or
  all RGBA (4), with 8 bits. Palettes become RGB, or RGBA if they have a
  transparent colour; grey with alpha becomes RGBA, black and white becomes
  grey. Nothing else is converted, and an orientation tag is not obeyed.

  Labels come from `dataset.json` in the root, `{"labels": [[name, label],
  ...]}`, where a label is a class number, made one-hot with as many features
  as the largest number plus one, or a list of numbers, taken as it is. Without
  that file, every subfolder is a class, in sorted order.

  Attributes:
    name: The name of the folder or file, without suffix.
    resolution: Rows and columns of every image.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    label_dim: Features of a label; 0 if there are none.
    unused_labels: What labels there are that were not asked for, a phrase.
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
      ValueError: If images or labels are not usable. The message names the
        file and the remedy.
    """
    path = pathlib.Path(path)
    self._archive = _open_archive(path)
    self.name = path.resolve().stem if path.is_file() else path.resolve().name
    everything = self._archive.names()
    self._names = [n for n in everything if _is_image(n)]
    if not self._names:
      raise ValueError(
        f'{path} holds no images: found {_summary(everything)}; needed are '
        f'files that end in {", ".join(_SUFFIXES)}'
      )
    listed, where = None, str(path)
    if labels_lib.FILE in everything:
      listed = self._read(labels_lib.FILE)
      where = self._where(labels_lib.FILE)
      self._labels = labels_lib.read(
        listed, where, self._names, use_labels=use_labels
      )
    else:
      misplaced = [n for n in everything if n.endswith('/' + labels_lib.FILE)]
      if misplaced and use_labels:
        raise ValueError(
          f'{path} holds {misplaced[0]}, but labels are read from '
          f'{labels_lib.FILE} in its root: move it there, with the names of '
          'the images counted from the root too'
        )
      self._labels = labels_lib.from_folders(
        self._names, where, use_labels=use_labels
      )
    self.unused_labels = (
      ''
      if use_labels
      else labels_lib.describe_unused(listed, where, self._names)
    )
    self.label_dim = labels_lib.dim(self._labels)
    self._check_headers(resolution)

  def __len__(self) -> int:
    return len(self._names)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `image`, uint8 [h, w, c], and `label`, float32 [label_dim].

    Raises:
      ValueError: If the file is damaged, or its shape differs from that of
        the other images.
    """
    name = self._names[index]
    data = self._read(name)
    try:
      with Image.open(io.BytesIO(data)) as opened:
        shape, mode = _inspect(opened, data, self._where(name))
        opened.load()
        image = np.asarray(opened.convert(mode))
    except _UnusableError:
      raise
    except Exception as error:  # Decoders raise almost anything.
      raise self._damaged(name, error) from error
    self._check_shape(name, shape)
    return {
      'image': image.reshape(shape),
      'label': labels_lib.encode(self._labels[index], self.label_dim),
    }

  def labels(self) -> Float[np.ndarray, 'n label_dim']:
    """Returns all labels, float32, without decoding images."""
    return labels_lib.encode(self._labels, self.label_dim)

  def _read(self, name: str) -> bytes:
    try:
      with self._archive.open(name) as file:
        return file.read()
    except Exception as error:
      raise self._damaged(name, error) from error

  def _where(self, name: str) -> str:
    return f'{name} in {self._archive.path}'

  def _damaged(self, name: str, error: Exception) -> ValueError:
    return ValueError(
      f'{self._where(name)} cannot be read ({error}): replace or remove it'
    )

  def _header(self, name: str) -> tuple[int, int, int]:
    try:
      with self._archive.open(name) as file:
        head = file.read(_PNG_BIT_DEPTH + 1)
        file.seek(0)
        with Image.open(file) as opened:
          return _inspect(opened, head, self._where(name))[0]
    except _UnusableError:
      raise
    except Exception as error:
      raise self._damaged(name, error) from error

  def _check_headers(self, resolution: int | None) -> None:
    """Takes the shape from the first image and checks that others have it."""
    first, *rest = self._names
    height, width, self.channels = self._header(first)
    where = self._where(first)
    if height != width:
      raise ValueError(
        f'{where} is {height} rows by {width} columns: images must be square; '
        'crop or resize them'
      )
    self.resolution = height
    if resolution not in (None, height):
      raise ValueError(
        f'{where} is {height}x{width}, but the model has {resolution} pixels: '
        f'pass --config.model.resolution={height}, or resize the images'
      )
    stride = -(-len(rest) // _MAX_HEADERS) or 1
    for name in rest[::stride]:
      self._check_shape(name, self._header(name))

  def _check_shape(self, name: str, shape: tuple[int, int, int]) -> None:
    expected = (self.resolution, self.resolution, self.channels)
    if shape != expected:
      raise ValueError(
        f'{self._where(name)} has {_describe(shape)}, but {self._names[0]} has '
        f'{_describe(expected)}: convert or remove one of them'
      )


class _UnusableError(ValueError):
  """An image that is sound, but of a kind that training cannot take."""


def _inspect(
  image: Image.Image, head: bytes, where: str
) -> tuple[tuple[int, int, int], str]:
  """Returns an image's shape (h, w, c) and the mode to read it in.

  Args:
    image: The image, opened and possibly not loaded.
    head: The first bytes of its file.
    where: Its name in error messages.

  Raises:
    _UnusableError: If the mode cannot be read without loss.
  """
  # Pillow opens 16-bit colour as 8-bit RGB without a word.
  sixteen_bits = head.startswith(_PNG_SIGNATURE) and head[_PNG_BIT_DEPTH] == 16
  if sixteen_bits or image.mode.startswith(('I', 'F')):
    raise _UnusableError(
      f'{where} has more than 8 bits a channel: convert the images to 8 bits, '
      'with a scaling of your choice'
    )
  if image.mode == 'P':
    mode = 'RGBA' if 'transparency' in image.info else 'RGB'
  elif image.mode in _LOSSLESS:
    mode = _LOSSLESS[image.mode]
  else:
    raise _UnusableError(
      f'{where} is a {image.mode} image: convert it to grey, RGB or RGBA'
    )
  return (image.height, image.width, _CHANNELS[mode]), mode


def _describe(shape: Sequence[int]) -> str:
  height, width, channels = shape
  colours = {1: 'grey', 3: 'RGB', 4: 'RGBA'}[channels]
  return f'{height}x{width} pixels, {channels} channels ({colours})'


def _is_image(name: str) -> bool:
  parts = name.split('/')
  hidden = any(p.startswith('.') and p not in ('.', '..') for p in parts)
  if hidden or '__MACOSX' in parts:
    return False
  return name.lower().endswith(_SUFFIXES)


def _summary(names: Sequence[str]) -> str:
  """Returns what kinds of files there are, the most frequent first."""
  kinds = collections.Counter(
    pathlib.PurePosixPath(n).suffix.lower() or 'no suffix' for n in names
  )
  found = [f'{count} of {kind}' for kind, count in kinds.most_common(5)]
  return ', '.join(found) or 'no files'


def _open_archive(path: pathlib.Path) -> '_Folder | _Zip':
  if path.is_dir():
    return _Folder(path)
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist: check the path')
  try:
    archive = _Zip(path)
    archive.names()
  except (zipfile.BadZipFile, EOFError, struct.error) as error:
    with path.open('rb') as file:
      truncated = file.read(2) == b'PK'
    raise ValueError(
      f'{path} is a truncated or damaged zip file ({error}): copy or download '
      'it again'
      if truncated
      else f'{path} is no zip file: pass a folder of images or a zip file'
    ) from error
  return archive


class _Folder:
  """The files below a folder; links are followed."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def names(self) -> list[str]:
    """Returns the names of all files, sorted, with `/` between folders."""
    return sorted(self._walk())

  def _walk(self) -> Iterator[str]:
    for folder, _, names in os.walk(self.path, followlinks=True):
      relative = pathlib.Path(folder).relative_to(self.path)
      for name in names:
        yield (relative / name).as_posix()

  def open(self, name: str) -> Any:
    """Opens a file to read: binary, seekable, of no common type."""
    return (self.path / name).open('rb')


class _Zip:
  """The files in a zip file, readable from any thread and process."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._local = threading.local()

  def __reduce__(self):
    return _Zip, (self.path,)  # Handles stay behind; the copy opens its own.

  def names(self) -> list[str]:
    """Returns the names of all files, sorted, with `/` between folders."""
    infos = self._handle().infolist()
    return sorted({info.filename for info in infos if not info.is_dir()})

  def open(self, name: str) -> Any:
    """Opens a file to read: binary, seekable, of no common type."""
    return self._handle().open(name)

  def _handle(self) -> zipfile.ZipFile:
    # One a thread, so that none waits for another; one a process, because
    # after a fork both would move the same file position.
    if getattr(self._local, 'pid', None) != os.getpid():
      self._local.file = zipfile.ZipFile(self.path)
      self._local.pid = os.getpid()
    return self._local.file
