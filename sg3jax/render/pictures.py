"""Writes pictures and sheets of pictures, and records their command in them."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, PngImagePlugin

from sg3jax import version
from sg3jax.eval.plots import grids
from sg3jax.nets import spec as spec_lib
from sg3jax.types import AnyArray

# Behind a transparent image: an 8x8 checkerboard, or a grey level.
BACKGROUNDS: dict[str, int | None] = {
  'checkerboard': None,
  'white': 255,
  'black': 0,
}

FORMATS = ('png', 'webp', 'jpg')

# Tags of Exif: the program, and a description.
_SOFTWARE, _DESCRIPTION = 0x0131, 0x010E


def over_background(
  image: UInt8[np.ndarray, 'h w 4'], background: str
) -> UInt8[np.ndarray, 'h w 3']:
  """Composites an RGBA image over a background, one of `BACKGROUNDS`.

  Raises:
    ValueError: If the background is unknown.
  """
  spec_lib.check_choice('background', background, BACKGROUNDS)
  level = BACKGROUNDS[background]
  if level is None:
    return grids.to_rgb(image)
  alpha = image[..., 3:].astype(np.float32) / 255
  blend = image[..., :3] * alpha + np.float32(level) * (1 - alpha)
  return np.round(blend).astype(np.uint8)


def to_rgb(
  image: Num[AnyArray, 'h w c'], background: str = 'checkerboard'
) -> UInt8[np.ndarray, 'h w 3']:
  """Returns an image in RGB: grey is repeated, RGBA put over a background.

  Args:
    image: Float in [-1, 1] or uint8, with 1, 3 or 4 channels.
    background: One of `BACKGROUNDS`.
  """
  pixels = grids.to_uint8(image)
  if pixels.shape[-1] == 4:
    return over_background(pixels, background)
  return grids.to_rgb(pixels)


def sheet(
  images: Num[AnyArray, 'n h w c'],
  size: tuple[int, int],
  background: str | None = None,
) -> UInt8[np.ndarray, 'height width channels']:
  """Returns one picture made of `columns * rows` images, row by row.

  Args:
    images: One image per cell: float in [-1, 1] or uint8.
    size: The sheet's (columns, rows).
    background: Put RGBA images over it; None to keep them transparent.

  Raises:
    ValueError: If the number of images does not fill the sheet.
  """
  pixels = grids.to_uint8(images)
  if pixels.shape[-1] == 4 and background is not None:
    pixels = np.stack([over_background(image, background) for image in pixels])
  return grids.tile(pixels, size)


def save(
  image: Num[AnyArray, 'h w c'],
  path: str | pathlib.Path,
  *,
  command: str = '',
  background: str | None = None,
) -> None:
  """Writes a picture, with the command that made it in its metadata.

  PNG files have it as text under `Command`, WebP and JPEG files as the Exif
  description of the image.

  Args:
    image: Float in [-1, 1] or uint8, with 1, 3 or 4 channels.
    path: The file; its suffix selects the format. Folders are created, and an
      existing file is replaced.
    command: The command; nothing is recorded if it is empty.
    background: Put an RGBA image over it; None to keep it transparent.

  Raises:
    ValueError: If the format is unknown, or cannot hold the channels.
    OSError: If the file cannot be written.
  """
  pixels = grids.to_uint8(image)
  if pixels.shape[-1] == 4 and background is not None:
    pixels = over_background(pixels, background)
  suffix = pathlib.Path(path).suffix.lower()
  if suffix in ('.jpg', '.jpeg') and pixels.shape[-1] == 4:
    raise ValueError(
      f'{path} must be a PNG or WebP file, because JPEG has no transparency: '
      'choose another format, or a background'
    )
  options: dict[str, Any] = {} if suffix == '.png' else {'quality': 95}
  if command:
    options |= _metadata(suffix, command)
  grids.save_pillow(path, grids.to_pillow(pixels), **options)


def _metadata(suffix: str, command: str) -> dict[str, Any]:
  software = f'sg3jax {version.__version__}'
  if suffix == '.png':
    info = PngImagePlugin.PngInfo()
    info.add_text('Software', software)
    info.add_text('Command', command)
    return {'pnginfo': info}
  exif = Image.Exif()
  exif[_SOFTWARE], exif[_DESCRIPTION] = software, command
  return {'exif': exif}
