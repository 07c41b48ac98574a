"""Writes the image files of a run: single images and grids.

Images are NHWC with 1 (grey), 3 (RGB) or 4 (RGBA) channels: float in [-1, 1],
or uint8 in [0, 255]. Every file is written completely or not at all, and
replaces an existing one, so callers choose names that may be overwritten. The
suffix of a path selects the format.
"""

import io
import os
import pathlib
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Num, UInt8
from PIL import Image

from sg3jax import files
from sg3jax.types import AnyArray

Path = str | os.PathLike[str]

_CHANNELS = (1, 3, 4)


def to_uint8(images: Num[AnyArray, '*shape']) -> UInt8[np.ndarray, '*shape']:
  """Converts float images in [-1, 1] to uint8; returns uint8 unchanged.

  The value is `x * 127.5 + 128`, clipped to [0, 255] and truncated, as in other
  StyleGAN tools. NaNs become mid-grey, and a warning counts them.
  """
  x = np.asarray(images)
  if x.dtype == np.uint8:
    return x
  x = x.astype(np.float32)
  missing = np.isnan(x)
  if missing.any():
    logging.warning(
      '%d of %d pixel values are NaN; shown in grey', missing.sum(), x.size
    )
    x = np.where(missing, np.float32(0), x)
  return np.clip(x * 127.5 + 128, 0, 255).astype(np.uint8)


def grid_size(
  height: int, width: int, *, cap: tuple[int, int] = (32, 32)
) -> tuple[int, int]:
  """Returns the size of a grid: (columns, rows).

  It fills 7680x4320 pixels, but has at least 7x4 images (released code).

  Args:
    height: Rows of an image, in pixels.
    width: Columns of an image, in pixels.
    cap: The maximum (columns, rows), which may be below 7x4, for small grids of
      a small run.
  """
  columns, rows = max(7680 // width, 7), max(4320 // height, 4)
  return min(columns, cap[0]), min(rows, cap[1])


def grid_indices(
  labels: Num[np.ndarray, 'n *classes'], size: tuple[int, int], seed: int
) -> np.ndarray:
  """Chooses the images of a data set that a grid shows.

  Args:
    labels: The labels of the n images: class indices [n], or one-hot or other
      vectors [n, classes], where `classes` is 0 for data without labels.
    size: The grid's (columns, rows).
    seed: Random seed of the choice.

  Returns:
    Indices, int64 [columns * rows], in row-major order. With labels, every row
    shows one class. The classes are in order; more classes than rows are
    sampled randomly, and fewer start again from the first. No image appears
    twice before all images of its class are shown. Labels that are mostly
    unique (continuous vectors) are ignored.

  Raises:
    ValueError: If there are no images.
  """
  n, (columns, rows) = len(labels), size
  if n == 0:
    raise ValueError('a grid needs at least one image to choose from, got 0')
  rng = np.random.RandomState(seed)
  of_class = np.zeros(n, np.int64)
  if labels.size:
    values, of_class = np.unique(labels, axis=0, return_inverse=True)
    of_class = of_class.reshape(n)
    if labels.ndim > 1:
      # One-hot vectors sort backwards: (0, 1) comes before (1, 0).
      of_class = len(values) - 1 - of_class
    if len(values) > n // 2:
      of_class = np.zeros(n, np.int64)
  members = [
    rng.permutation(np.flatnonzero(of_class == k))
    for k in range(of_class.max() + 1)
  ]
  if len(members) > rows:
    chosen = np.sort(rng.permutation(len(members))[:rows])
    members = [members[k] for k in chosen]
  shown = np.zeros(len(members), np.int64)
  picks = []
  for row in range(rows):
    k = row % len(members)
    picks.append(members[k].take(shown[k] + np.arange(columns), mode='wrap'))
    shown[k] += columns
  return np.concatenate(picks)


def tile(
  images: Num[AnyArray, 'n h w c'], size: tuple[int, int]
) -> UInt8[np.ndarray, 'height width c']:
  """Returns one image made of `columns * rows` images, without gaps.

  Args:
    images: One image per cell, row by row.
    size: The grid's (columns, rows).

  Raises:
    ValueError: If the number of images does not fill the grid.
  """
  columns, rows = size
  n, h, w, c = images.shape
  if n != columns * rows:
    raise ValueError(
      f'the images of a grid of {columns} columns and {rows} rows must be '
      f'{columns * rows}, got {n}'
    )
  x = to_uint8(images).reshape(rows, columns, h, w, c)
  return x.transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, c)


def over_checkerboard(
  image: UInt8[np.ndarray, 'h w 4'], *, cell: int = 8
) -> UInt8[np.ndarray, 'h w 3']:
  """Composites an RGBA image over a grey checkerboard.

  Args:
    image: Colours that are not premultiplied, and opacity.
    cell: Side of the squares, in pixels.
  """
  y, x = np.indices(image.shape[:2]) // cell
  board = np.where((x + y) % 2, np.float32(192), np.float32(128))[..., None]
  alpha = image[..., 3:].astype(np.float32) / 255
  blend = image[..., :3] * alpha + board * (1 - alpha)
  return np.round(blend).astype(np.uint8)


def to_rgb(image: Num[AnyArray, 'h w c']) -> UInt8[np.ndarray, 'h w 3']:
  """Returns an image as RGB; grey is repeated, RGBA shown over a checkerboard.

  Args:
    image: Float in [-1, 1] or uint8, with 1, 3 or 4 channels.
  """
  pixels = to_uint8(image)
  if pixels.shape[-1] == 1:
    return np.repeat(pixels, 3, axis=-1)
  if pixels.shape[-1] == 4:
    # About eight squares across an image, of integer pixels.
    return over_checkerboard(pixels, cell=max(pixels.shape[1] // 8, 1))
  return pixels


def save_image(image: Num[AnyArray, 'h w c'], path: Path) -> None:
  """Writes one image; an RGBA image keeps its alpha channel.

  Args:
    image: Float in [-1, 1] or uint8, with 1, 3 or 4 channels.
    path: The file; its suffix selects the format. Folders are created.

  Raises:
    ValueError: If the number of channels differs, or the suffix does not belong
      to a known format.
  """
  save_pillow(path, to_pillow(to_uint8(image)))


def save_grid(
  images: Num[AnyArray, 'n h w c'], path: Path, size: tuple[int, int]
) -> None:
  """Writes a grid of images; RGBA is shown over a checkerboard.

  Args:
    images: `columns * rows` images, row by row; see `tile`.
    path: The file; its suffix selects the format. Folders are created.
    size: The grid's (columns, rows).

  Raises:
    ValueError: If the number of images does not fill the grid, or as in
      `save_image`.
  """
  grid = tile(images, size)
  if grid.shape[-1] == 4:
    # About eight squares across an image, of integer pixels.
    grid = over_checkerboard(grid, cell=max(images.shape[2] // 8, 1))
  save_pillow(path, to_pillow(grid))


def to_pillow(image: UInt8[np.ndarray, 'h w c']) -> Image.Image:
  """Converts an image to a Pillow image.

  Raises:
    ValueError: If the number of channels is not 1, 3 or 4.
  """
  channels = image.shape[-1]
  if channels not in _CHANNELS:
    raise ValueError(
      'the channels of an image must be 1 (grey), 3 (RGB) or 4 (RGBA), got '
      f'{channels}'
    )
  return Image.fromarray(image[..., 0] if channels == 1 else image)


def save_pillow(path: Path, image: Image.Image, **options: Any) -> None:
  """Writes an image or a clip in the format given by the file's suffix.

  Args:
    path: The file. Folders are created.
    image: The image, or the first frame.
    **options: Options of the format, as for `Image.Image.save`.

  Raises:
    ValueError: If the suffix does not belong to a known format.
    OSError: If the file cannot be written.
  """
  path = pathlib.Path(path)
  formats = Image.registered_extensions()
  if path.suffix.lower() not in formats:
    raise ValueError(
      f'the suffix must be that of an image format, got {str(path)!r}: use '
      'for example .png or .webp'
    )
  buffer = io.BytesIO()
  image.save(buffer, format=formats[path.suffix.lower()], **options)
  files.write_bytes(path, buffer.getvalue())
