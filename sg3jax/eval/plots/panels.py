"""Composes images into labelled panels, pixel by pixel.

Plotting libraries resample images. Here, a pixel of a small image becomes a
square of integer size, so that the panels show what the network generated.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from sg3jax.types import AnyArray

_GAP = 4  # Pixels between images.
_TEXT = 15  # Height of the letters, in pixels.
_INK = (68, 68, 68)
_UNDEFINED = 160  # The grey of values that are NaN.


def colour_map(
  values: Float[AnyArray, 'h w'],
  low: float | int,
  high: float | int,
  name: str = 'inferno',
) -> UInt8[np.ndarray, 'h w 3']:
  """Returns a picture of a field of values.

  Args:
    values: The values; NaN becomes grey.
    low: The value of the first colour.
    high: The value of the last colour.
    name: A colour map of matplotlib.
  """
  import matplotlib as mpl

  x = np.asarray(values, np.float64)
  colours = mpl.colormaps[name]((x - low) / (high - low))[..., :3]
  colours[np.isnan(x)] = _UNDEFINED / 255
  return np.round(colours * 255).astype(np.uint8)


def fit(
  image: UInt8[np.ndarray, 'h w 3'], width: int
) -> UInt8[np.ndarray, 'h2 w2 3']:
  """Scales an image to about a width, by an integer factor where it can.

  Args:
    image: The image.
    width: The desired width in pixels. A smaller image is enlarged by the
      largest integer factor that fits, without smoothing. A larger one is
      reduced by averaging.
  """
  if image.shape[1] <= width:
    factor = width // image.shape[1]
    return image.repeat(factor, axis=0).repeat(factor, axis=1)
  height = max(1, round(image.shape[0] * width / image.shape[1]))
  reduced = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
  return np.asarray(reduced)


def compose(
  rows: Sequence[Sequence[UInt8[np.ndarray, '_ _ 3']]],
  *,
  columns: Sequence[str] = (),
  labels: Sequence[str] = (),
) -> Image.Image:
  """Returns a panel of images with titles of columns and labels of rows.

  Args:
    rows: Rows of images, which may have different sizes. Columns are as wide
      as their widest image or title.
    columns: Titles of the columns, if any.
    labels: Labels of the rows, to their left, if any.

  Raises:
    ValueError: If the numbers of rows, columns and texts differ.
  """
  counts = {len(row) for row in rows} | ({len(columns)} if columns else set())
  if len(counts) != 1 or len(labels) not in (0, len(rows)):
    raise ValueError(
      'the rows of a panel must be equally long, with a title for each column '
      f'and a label for each row, got rows of {[len(row) for row in rows]}, '
      f'{len(columns)} titles and {len(labels)} labels'
    )
  font = ImageFont.load_default(size=_TEXT)

  def measure(text: str) -> int:
    return math.ceil(font.getlength(text))

  widths = [
    max(image.shape[1] for image in column)
    for column in zip(*rows, strict=True)
  ]
  if columns:
    widths = [
      max(width, measure(title))
      for width, title in zip(widths, columns, strict=True)
    ]
  heights = [max(image.shape[0] for image in row) for row in rows]
  left = max(map(measure, labels)) + 2 * _GAP if labels else 0
  top = _TEXT + 2 * _GAP if columns else 0
  size = (
    left + sum(widths) + _GAP * (len(widths) - 1),
    top + sum(heights) + _GAP * (len(heights) - 1),
  )
  canvas = Image.new('RGB', size, 'white')
  pen = ImageDraw.Draw(canvas)
  xs = left + np.cumsum([0, *(width + _GAP for width in widths)])
  ys = top + np.cumsum([0, *(height + _GAP for height in heights)])
  for x, title in zip(xs, columns, strict=False):
    pen.text((int(x), 0), title, fill=_INK, font=font)
  for y, label, height in zip(ys, labels, heights, strict=False):
    middle = int(y) + height // 2
    pen.text((0, middle), label, fill=_INK, font=font, anchor='lm')
  for y, row in zip(ys, rows, strict=False):
    for x, image in zip(xs, row, strict=False):
      canvas.paste(
        Image.fromarray(np.ascontiguousarray(image)), (int(x), int(y))
      )
  return canvas


def colour_scale(
  low: float | int,
  high: float | int,
  unit: str,
  *,
  width: int,
  name: str = 'inferno',
) -> UInt8[np.ndarray, 'h w 3']:
  """Returns a horizontal colour scale with its ends labelled.

  Args:
    low: The value of the first colour.
    high: The value of the last colour.
    unit: The unit of the values.
    width: Width in pixels.
    name: A colour map of matplotlib.
  """
  values = np.tile(np.linspace(low, high, width), (10, 1))
  canvas = Image.new('RGB', (width, 10 + _TEXT + 2 * _GAP), 'white')
  canvas.paste(Image.fromarray(colour_map(values, low, high, name)))
  pen = ImageDraw.Draw(canvas)
  font = ImageFont.load_default(size=_TEXT)
  y = 10 + _GAP
  pen.text((0, y), f'{low:g}', fill=_INK, font=font)
  pen.text((width, y), f'{high:g} {unit}', fill=_INK, font=font, anchor='ra')
  return np.asarray(canvas)


def to_png(image: Image.Image) -> bytes:
  """Returns the content of a PNG file of an image."""
  buffer = io.BytesIO()
  image.save(buffer, format='png', optimize=True)
  return buffer.getvalue()
