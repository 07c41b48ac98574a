"""Image files of a run: single images and grids.

Images are NHWC with 1 (grey), 3 (RGB) or 4 (RGBA) channels: float in [-1, 1],
or uint8 in [0, 255]. Every file is written whole or not at all, and replaces
one of the same name: callers choose names that are free to be written. The
suffix of a path chooses the format.
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
  """Returns float images in [-1, 1] as uint8, and uint8 images as they are.

  The value is `x * 127.5 + 128`, clipped to [0, 255], its fraction cut off, as
  in other StyleGAN tools. Values that are not numbers become mid-grey, and a
  warning counts them.
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
  """Returns how many images a grid holds: (columns, rows).

  As many as fill 7680x4320 pixels, but at least 7x4 (paper, released code).

  Args:
    height: Rows of an image, in pixels.
    width: Columns of an image, in pixels.
    cap: The most (columns, rows), even if that is less than 7x4: a small run
      has small grids.
  """
  columns, rows = max(7680 // width, 7), max(4320 // height, 4)
  return min(columns, cap[0]), min(rows, cap[1])


def grid_indices(
  labels: Num[np.ndarray, 'n *classes'], size: tuple[int, int], seed: int
) -> np.ndarray:
  """Picks the images of a data set that a grid shows.

  Args:
    labels: The label of each of the n images: class numbers [n], or one-hot or
      other vectors [n, classes], with `classes` 0 for data without labels.
    size: The grid's (columns, rows).
    seed: Random seed of the choice.

  Returns:
    int64 [columns * rows] in row-major order. With labels, every row shows one
    class: the classes in order, a random selection of them where there are more
    classes than rows, and again from the first where there are fewer. No image
    appears twice before all of its class were shown. Labels of which most are
    unique (continuous vectors) are taken for none.

  Raises:
    ValueError: If there are no images.
  """
  n, (columns, rows) = len(labels), size
  if n == 0:
    raise ValueError('a grid needs at least one image to choose from')
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
    images: As many images as there are cells, row by row.
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
  """Returns an RGBA image laid over a grey checkerboard.

  Args:
    image: Colours, not premultiplied, and opacity.
    cell: Side of the squares, in pixels.
  """
  y, x = np.indices(image.shape[:2]) // cell
  board = np.where((x + y) % 2, np.float32(192), np.float32(128))[..., None]
  alpha = image[..., 3:].astype(np.float32) / 255
  blend = image[..., :3] * alpha + board * (1 - alpha)
  return np.round(blend).astype(np.uint8)


def save_image(image: Num[AnyArray, 'h w c'], path: Path) -> None:
  """Writes one image; RGBA keeps its alpha.

  Args:
    image: Float in [-1, 1] or uint8, with 1, 3 or 4 channels.
    path: The file; its suffix chooses the format. Folders are made.

  Raises:
    ValueError: If the number of channels is another, or the suffix is of no
      known format.
  """
  save_pillow(path, to_pillow(to_uint8(image)))


def save_grid(
  images: Num[AnyArray, 'n h w c'], path: Path, size: tuple[int, int]
) -> None:
  """Writes a grid of images; RGBA is shown over a checkerboard.

  Args:
    images: `columns * rows` images, row by row; see `tile`.
    path: The file; its suffix chooses the format. Folders are made.
    size: The grid's (columns, rows).

  Raises:
    ValueError: If the number of images does not fill the grid, or as
      `save_image`.
  """
  grid = tile(images, size)
  if grid.shape[-1] == 4:
    # Eight squares or so across an image, in whole pixels.
    grid = over_checkerboard(grid, cell=max(images.shape[2] // 8, 1))
  save_pillow(path, to_pillow(grid))


def to_pillow(image: UInt8[np.ndarray, 'h w c']) -> Image.Image:
  """Returns an image as Pillow holds it.

  Raises:
    ValueError: If it has another number of channels than 1, 3 or 4.
  """
  channels = image.shape[-1]
  if channels not in _CHANNELS:
    raise ValueError(
      'the channels of an image must be 1 (grey), 3 (RGB) or 4 (RGBA), got '
      f'{channels}'
    )
  return Image.fromarray(image[..., 0] if channels == 1 else image)


def save_pillow(path: Path, image: Image.Image, **options: Any) -> None:
  """Writes an image or a clip in the format of the file's suffix.

  Args:
    path: The file. Folders are made.
    image: The image, or the first frame.
    **options: Options of the format, as for `Image.Image.save`.

  Raises:
    ValueError: If the suffix is of no known format.
    OSError: If the file cannot be written.
  """
  path = pathlib.Path(path)
  formats = Image.registered_extensions()
  if path.suffix.lower() not in formats:
    raise ValueError(
      f'the suffix must be that of an image format, got {str(path)!r}: use '
      '.png or .webp, say'
    )
  buffer = io.BytesIO()
  image.save(buffer, format=formats[path.suffix.lower()], **options)
  files.write_bytes(path, buffer.getvalue())
