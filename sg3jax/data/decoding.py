"""Reads one image file: its shape, its mode, its pixels.

Images have 8 bits and are grey, RGB or RGBA. Palettes become RGB, or RGBA if
they have a transparent colour; grey with alpha becomes RGBA, black and white
becomes grey. Nothing else is converted.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

# Formats that Pillow reads as they are meant, with the bits that they have.
SUFFIXES = (
  '.png', '.apng', '.jpg', '.jpeg', '.jpe', '.jfif', '.webp', '.bmp', '.dib',
  '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm', '.tga',
)  # fmt: skip

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_PNG_BIT_DEPTH = 24  # Offset of that byte in the file.

_CHANNELS = {'L': 1, 'RGB': 3, 'RGBA': 4}

# Modes that are read as another one without loss.
_LOSSLESS = {'1': 'L', 'LA': 'RGBA', 'PA': 'RGBA'} | {m: m for m in _CHANNELS}

_BITS_PER_SAMPLE = 258  # A tag of TIFF files.

# Contents of a file that are left unread, in the words of the notes.
UNREAD = {
  'animated': 'animated or of several pages, only the first picture is read',
  'transparent': (
    'grey or RGB with one transparent colour, which is read as opaque; convert '
    'them to RGBA to keep it'
  ),
  'turned': (
    'with a tag that says how to turn them, which is not obeyed; turn their '
    'pixels, and remove the tag, if they shall be seen upright'
  ),
  'turned_tiff': 'TIFF with a tag that says how to turn them, and turned so',
}


class UnusableError(ValueError):
  """An image that is sound, but of a kind that training cannot take."""


@dataclasses.dataclass(frozen=True)
class Header:
  """What is known of an image before it is decoded.

  Attributes:
    shape: Rows, columns and channels.
    mode: Pillow's mode to read it in.
    unread: Keys of `UNREAD`, for contents that are not in the pixels.
  """

  shape: tuple[int, int, int]
  mode: str
  unread: tuple[str, ...]


def read_header(file: Any, where: str) -> Header:
  """Returns what an image is, without decoding it.

  Args:
    file: The file at its beginning: binary and seekable.
    where: Its name in error messages.

  Raises:
    UnusableError: If the mode cannot be read without loss.
    Exception: Almost any other, from Pillow, if the file is damaged.
  """
  head = file.read(_PNG_BIT_DEPTH + 1)
  file.seek(0)
  with Image.open(file) as image:
    return _inspect(image, head, where)


def _inspect(image: Image.Image, head: bytes, where: str) -> Header:
  """Returns what an image is and how to read it.

  Args:
    image: The image, opened and not loaded.
    head: The first bytes of its file.
    where: Its name in error messages.

  Raises:
    UnusableError: If the mode cannot be read without loss.
  """
  if image.mode.startswith(('I', 'F')) or _max_bits(image, head) > 8:
    raise UnusableError(
      f'{where} has more than 8 bits a channel: convert the images to 8 bits, '
      'with a scaling of your choice'
    )
  if image.mode == 'P':
    mode = 'RGBA' if 'transparency' in image.info else 'RGB'
  elif image.mode in _LOSSLESS:
    mode = _LOSSLESS[image.mode]
  else:
    raise UnusableError(
      f'{where} is a {image.mode} image: convert it to grey, RGB or RGBA'
    )
  unread = []
  if getattr(image, 'is_animated', False):
    unread.append('animated')
  if 'transparency' in image.info and mode != 'RGBA':
    unread.append('transparent')
  if _orientation(image) > 1:
    unread.append('turned_tiff' if image.format == 'TIFF' else 'turned')
  shape = (image.height, image.width, _CHANNELS[mode])
  return Header(shape, mode, tuple(unread))


def decode(
  data: bytes, where: str
) -> tuple[UInt8[np.ndarray, 'h w c'], Header]:
  """Returns the pixels of an image file, and what it is.

  Args:
    data: The whole file.
    where: Its name in error messages.

  Raises:
    UnusableError: If the mode cannot be read without loss.
    Exception: Almost any other, from Pillow, if the file is damaged.
  """
  with Image.open(io.BytesIO(data)) as image:
    header = _inspect(image, data, where)
    image.load()
    pixels = np.asarray(image.convert(header.mode))
  return pixels.reshape(header.shape), header


def describe(shape: Sequence[int]) -> str:
  """Returns a shape in words."""
  height, width, channels = shape
  colours = {1: 'grey', 3: 'RGB', 4: 'RGBA'}[channels]
  return f'{height}x{width} pixels, {channels} channels ({colours})'


def _max_bits(image: Image.Image, head: bytes) -> int:
  """Returns the bits of a channel; Pillow cuts 16 to 8 without a word."""
  if head.startswith(_PNG_SIGNATURE):
    return head[_PNG_BIT_DEPTH]
  if image.format == 'TIFF':
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # pyright: ignore[reportAttributeAccessIssue]
  if image.format == 'PPM':
    # The decoder's: a mode and the largest value.
    arguments = image.tile[0].args  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(arguments, tuple) and isinstance(arguments[1], int):
      return arguments[1].bit_length()
  return 8


def _orientation(image: Image.Image) -> int:
  """Returns the orientation tag, 1 for upright or none."""
  try:
    # Not the method of PNG files, which decodes them first.
    tags = Image.Image.getexif(image)
  except Exception:  # Damaged tags, in what may be a sound image.
    return 1
  value = tags.get(ExifTags.Base.Orientation, 1)
  return value if isinstance(value, int) else 1
