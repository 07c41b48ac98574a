"""Reads one image file: its shape, mode and pixels.

Images must have 8 bits and be grey, RGB or RGBA. Palettes become RGB, or RGBA
if they have a transparent colour; grey with alpha becomes RGBA; black and white
becomes grey. Nothing else is converted.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from sg3jax import text

# Formats that Pillow reads correctly, at their full bit depth.
SUFFIXES = (
  '.png', '.apng', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.bmp', '.dib',
  '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm', '.tga',
)  # fmt: skip

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_PNG_BIT_DEPTH = 24  # Offset of the bit depth in the file.

_CHANNELS = {'L': 1, 'RGB': 3, 'RGBA': 4}

# Modes, and the modes as which they are read without loss.
_LOSSLESS = {'1': 'L', 'LA': 'RGBA', 'PA': 'RGBA'} | {m: m for m in _CHANNELS}

_BITS_PER_SAMPLE = 258  # A tag of TIFF files.

# Contents of a file that are not read, as phrases for notes.
UNREAD = {
  'animated': (
    'animated or with several pages, of which only the first image is read'
  ),
  'transparent': (
    'grey or RGB with one transparent colour, which is read as opaque; convert '
    'them to RGBA to keep it'
  ),
  'turned': (
    'with an orientation tag, which is ignored; rotate their pixels and remove '
    'the tag to show them upright'
  ),
  'turned_tiff': 'TIFF with an orientation tag, and rotated accordingly',
}


class UnusableError(ValueError):
  """An image is intact, but of a kind that training does not support."""


@dataclasses.dataclass(frozen=True)
class Header:
  """Properties of an image that are known before it is decoded.

  Attributes:
    shape: Rows, columns and channels.
    mode: Pillow mode in which to read the image.
    unread: Keys of `UNREAD`, for contents that the pixels do not include.
  """

  shape: tuple[int, int, int]
  mode: str
  unread: tuple[str, ...]


def unreadable(where: str, error: Exception) -> Exception:
  """Returns the error to raise for an image file that cannot be read.

  Args:
    where: Name of the file in error messages.
    error: The error of the system or of Pillow.
  """
  # Errors of the operating system have a number; Pillow's have none.
  if isinstance(error, OSError) and error.errno is not None:
    return OSError(
      f'{where} cannot be read ({error.strerror}): the file may be intact; '
      'check its permissions, the disk and the network'
    )
  reason = str(error)
  if isinstance(error, UnidentifiedImageError):  # Its text names an object.
    reason = 'it is not an image of a known format, or its beginning is damaged'
  return ValueError(f'{where} cannot be read ({reason}): replace or remove it')


def read_header(file: Any, where: str) -> Header:
  """Returns the header of an image, without decoding it.

  Args:
    file: A binary, seekable file, at its beginning.
    where: Name of the file in error messages.

  Raises:
    UnusableError: If the mode cannot be read without loss.
    Exception: If the file is damaged; Pillow raises almost any type.
  """
  head = file.read(_PNG_BIT_DEPTH + 1)
  file.seek(0)
  with Image.open(file) as image:
    return _inspect(image, head, where)


def _inspect(image: Image.Image, head: bytes, where: str) -> Header:
  """Returns the header of an image.

  Args:
    image: The image, opened but not loaded.
    head: The first bytes of the file.
    where: Name of the file in error messages.

  Raises:
    UnusableError: If the mode cannot be read without loss.
  """
  if image.mode.startswith(('I', 'F')) or max_bits(image, head) > 8:
    raise UnusableError(
      f'images must have at most 8 bits per channel, got {where} with more: '
      'convert the images to 8 bits, with a scaling of your choice'
    )
  if image.mode == 'P':
    mode = 'RGBA' if 'transparency' in image.info else 'RGB'
  elif image.mode in _LOSSLESS:
    mode = _LOSSLESS[image.mode]
  else:
    raise UnusableError(
      f'images must be grey, RGB or RGBA, got {where} in mode {image.mode}: '
      'convert it to one of these'
    )
  unread = []
  if getattr(image, 'is_animated', False):
    unread.append('animated')
  if 'transparency' in image.info and mode != 'RGBA':
    unread.append('transparent')
  if orientation(image) > 1:
    unread.append('turned_tiff' if image.format == 'TIFF' else 'turned')
  shape = (image.height, image.width, _CHANNELS[mode])
  return Header(shape, mode, tuple(unread))


def decode(
  data: bytes, where: str
) -> tuple[UInt8[np.ndarray, 'h w c'], Header]:
  """Returns the pixels and the header of an image file.

  Args:
    data: The whole file.
    where: Name of the file in error messages.

  Raises:
    UnusableError: If the mode cannot be read without loss.
    Exception: If the file is damaged; Pillow raises almost any type.
  """
  with Image.open(io.BytesIO(data)) as image:
    header = _inspect(image, data, where)
    image.load()
    pixels = np.asarray(image.convert(header.mode))
  return pixels.reshape(header.shape), header


def describe(shape: Sequence[int]) -> str:
  """Returns a description of a shape."""
  height, width, channels = shape
  colours = {1: 'grey', 3: 'RGB', 4: 'RGBA'}[channels]
  counted = text.counted(channels, 'channel')
  return f'{height}x{width} pixels, {counted} ({colours})'


def max_bits(image: Image.Image, head: bytes) -> int:
  """Returns the bits per channel; Pillow silently truncates 16 to 8."""
  if head.startswith(_PNG_SIGNATURE):
    return head[_PNG_BIT_DEPTH]
  if image.format == 'TIFF':
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # pyright: ignore[reportAttributeAccessIssue]
  if image.format == 'PPM':
    # The arguments of the decoder are a mode and the largest value.
    arguments = image.tile[0].args  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(arguments, tuple) and isinstance(arguments[1], int):
      return arguments[1].bit_length()
  return 8


def orientation(image: Image.Image) -> int:
  """Returns the orientation tag; 1 for an upright image or without a tag."""
  try:
    # The method of PNG files would decode the image first.
    tags = Image.Image.getexif(image)
  except Exception:  # The tags are damaged, but the image may be intact.
    return 1
  value = tags.get(ExifTags.Base.Orientation, 1)
  return value if isinstance(value, int) else 1
