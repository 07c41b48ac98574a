"""Reads an image of any common kind as 8-bit grey, RGB or RGBA, upright.

Conversions are stated by notes, whose phrases are in `NOTES`.
"""

import io
import re
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sg3jax.data import decoding
from sg3jax.data.prepare import options as options_lib

# Pillow would run other programs for some formats.
_FORMATS = (
  'PNG', 'JPEG', 'WEBP', 'BMP', 'DIB', 'GIF', 'TIFF', 'PPM', 'TGA',
)  # fmt: skip

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
_CHANNELS = {mode: channels for channels, mode in MODES.items()}

# Phrases for changes of images; each follows a number of images.
NOTES = {
  'turned': 'turned upright as their orientation tag says',
  'animated': 'animated or with several pages, reduced to the first image',
  'palette': 'converted from a palette',
  'print': 'converted to RGB from CMYK or YCbCr',
  'bilevel': 'converted to grey from black and white',
  'reduced': 'reduced to 8 bits per channel',
  'profile': 'with a colour profile, which is not applied',
  'to_grey': 'converted to grey (ITU-R 601 luma)',
  'to_rgb': 'converted from grey to RGB',
  'to_rgba': 'given an opaque alpha channel',
  'flattened': 'with transparent pixels, placed on the background',
  'alpha_dropped': 'stripped of an opaque alpha channel',
  'stretched': 'stretched, because their proportions differ from the result',
  'enlarged': 'smaller than the resolution, and enlarged',
}


class UnusableError(ValueError):
  """An image cannot be decoded or converted; the message is the reason."""


def load(
  contents: Any, options: options_lib.Options
) -> tuple[Image.Image, tuple[str, ...]]:
  """Decodes an image and converts it.

  Args:
    contents: The bytes of an image file, or pixels, uint8 [h, w] or [h, w, c].
    options: The channels, the background, and the policy for 16 bits.

  Returns:
    An image in mode L, RGB or RGBA, and keys of `NOTES`.

  Raises:
    UnusableError: If the image is damaged or of an unsupported kind.
  """
  if isinstance(contents, np.ndarray):
    image, notes = Image.fromarray(contents), []
  else:
    image, notes = _decode(contents, options)
  if options.channels is not None:
    image = _convert(image, options, notes)
  return image, tuple(notes)


def _decode(
  data: bytes, options: options_lib.Options
) -> tuple[Image.Image, list[str]]:
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      notes = _properties(image)
      bits = decoding.max_bits(image, data)
      image.load()
      upright = ImageOps.exif_transpose(image)
      return _simplify(upright, bits, options, notes), notes
  except UnusableError:
    raise
  except MemoryError:
    raise
  except UnidentifiedImageError as error:
    raise UnusableError(
      'it is not an image of a known format, or its beginning is damaged'
    ) from error
  except Exception as error:  # Decoders raise almost anything.
    raise UnusableError(f'it cannot be decoded ({reason(error)})') from error


def reason(error: Exception) -> str:
  """Returns an error's message on one line, the same in every process.

  Messages may contain the address of an object. They are stored, and what is
  stored must not depend on the process.
  """
  text = re.sub(r'<[^<>]* at 0x[0-9a-fA-F]+>', 'an object', str(error))
  return ' '.join(text.split()) or type(error).__name__


def _properties(image: Image.Image) -> list[str]:
  """Returns the notes that an image needs before it is decoded."""
  notes = []
  if decoding.orientation(image) > 1:
    notes.append('turned')
  if getattr(image, 'is_animated', False):
    notes.append('animated')
  if image.info.get('icc_profile'):
    notes.append('profile')
  return notes


def _simplify(
  image: Image.Image,
  bits: int,
  options: options_lib.Options,
  notes: list[str],
) -> Image.Image:
  """Returns an image in mode L, RGB or RGBA, without loss but for 16 bits."""
  if bits > 8 or image.mode.startswith(('I', 'F')):
    if options.depth16 == 'refuse' or image.mode.startswith('F'):
      raise UnusableError(
        'it must have at most 8 bits per channel, got more: convert it, or '
        'set depth16 to reduce'
        if not image.mode.startswith('F')
        else 'it must have integer pixels, got floats: convert it to 8 bits'
      )
    notes.append('reduced')
    image = _reduce(image)
  mode = image.mode
  if mode in _CHANNELS and 'transparency' not in image.info:
    return image
  if mode == '1':
    notes.append('bilevel')
    return image.convert('L')
  if mode in ('P', 'PA'):
    notes.append('palette')
    clear = mode == 'PA' or 'transparency' in image.info
    return image.convert('RGBA' if clear else 'RGB')
  if mode in ('LA', 'La', 'RGBa', *_CHANNELS):
    return image.convert('RGBA')
  if mode in ('CMYK', 'YCbCr'):
    notes.append('print')
    return image.convert('RGB')
  raise UnusableError(f'it has the unsupported mode {mode}: convert it to RGB')


def _reduce(image: Image.Image) -> Image.Image:
  """Returns the 8 highest bits of 16; Pillow has done so for colours."""
  if not image.mode.startswith('I'):
    return image
  values = np.asarray(image).astype(np.int64)
  if values.min() < 0 or values.max() > 0xFFFF:
    raise UnusableError(
      'it must have at most 16 bits per channel, got more: convert it to 8 '
      'bits, with a scaling of your choice'
    )
  return Image.fromarray((values >> 8).astype(np.uint8))


def _convert(
  image: Image.Image, options: options_lib.Options, notes: list[str]
) -> Image.Image:
  """Returns an image with the requested channels."""
  assert options.channels is not None
  target = MODES[options.channels]
  if image.mode == target:
    return image
  if image.mode == 'RGBA':
    opaque = image.getchannel('A').getextrema() == (255, 255)
    notes.append('alpha_dropped' if opaque else 'flattened')
    colour = (options.background,) * 3 + (255,)
    behind = Image.new('RGBA', image.size, colour)
    image = Image.alpha_composite(behind, image).convert('RGB')
    if target == 'RGB':
      return image
  notes.append({'L': 'to_grey', 'RGB': 'to_rgb', 'RGBA': 'to_rgba'}[target])
  return image.convert(target)


def encode(image: Image.Image) -> bytes:
  """Returns an uncompressed PNG file, as the official tools write it.

  Without compression, the bytes do not depend on the version of zlib, and
  reading is fastest.
  """
  buffer = io.BytesIO()
  # Neither tags nor a profile: pixels are all that is kept.
  clean = Image.frombytes(image.mode, image.size, image.tobytes())
  clean.save(buffer, format='png', compress_level=0, optimize=False)
  return buffer.getvalue()
