"""Crops images and resizes them, identically with every version of Pillow.

Transforms, for a target of W columns and H rows:

  none              the whole image, stretched to W x H
  center-crop       the central square of the shorter side
  crop-wide         all columns and the central rows with the proportions of
                    W x H, between black bars that make the result square
  crop-tall         the same with rows and columns exchanged
  center-crop-wide  like crop-wide, but with W h / w rows of an image of w
                    columns and h rows: exactly the official tool, which
                    thereby stretches most images
  center-crop-tall  the same with rows and columns exchanged
  random-crop       an upright square at a random place near the centre
                    (Appendix B.1 of the paper, for unaligned datasets)
  pad               the unscaled image in the middle of a black square
"""

import dataclasses
import hashlib
import statistics
from typing import Any

import numpy as np
from PIL import Image

from sg3jax.data.prepare import options as options_lib

# Standard deviation of a random crop's centre, as a fraction of the crop's
# side, along each axis (Appendix B.1).
_JITTER = 0.2

# Ratio of the scales of two axes above which an image counts as stretched.
_VISIBLE_STRETCH = 1.02

_PILLOW = {
  'lanczos': Image.Resampling.LANCZOS,
  'box': Image.Resampling.BOX,
}


class UnfitError(ValueError):
  """An image is intact, but too small or not square."""


@dataclasses.dataclass(frozen=True)
class Box:
  """A rectangle of pixels: the first column and row, and its size."""

  left: int
  top: int
  width: int
  height: int


def apply(
  image: Image.Image, options: options_lib.Options, name: str
) -> tuple[Image.Image, tuple[str, ...]]:
  """Crops, resizes and pads an image.

  Args:
    image: An image in mode L, RGB or RGBA.
    options: The transform, the target size and the filter.
    name: The name of the image, which seeds its random crop.

  Returns:
    A square image, and keys of `conversion.NOTES`.

  Raises:
    UnfitError: If the image is too small for the transform, or if it is not
      square and is not resized.
  """
  width, height, side = options.width, options.height, options.side
  if width is None or height is None or side is None:
    if image.width != image.height:
      raise UnfitError(
        f'it must be square, got {image.width}x{image.height} pixels: pass a '
        'resolution, and a transform such as center-crop'
      )
    return image, ()
  if options.transform == 'pad':
    if max(image.size) > side:
      raise UnfitError(
        f'it must have at most {side}x{side} pixels for transform pad, got '
        f'{image.width}x{image.height}'
      )
    return _centred(image, side), ()
  box = crop_box(image.width, image.height, options, name)
  corner = (box.left + box.width, box.top + box.height)
  part = image.crop((box.left, box.top, *corner))
  notes = []
  if box.width < width or box.height < height:
    notes.append('enlarged')
  stretch = box.width * height / (box.height * width)
  if max(stretch, 1 / stretch) > _VISIBLE_STRETCH:
    notes.append('stretched')
  part = resize(part, width, height, options.filter)
  return _centred(part, side), tuple(notes)


def crop_box(
  width: int, height: int, options: options_lib.Options, name: str
) -> Box:
  """Returns the part of an image that is kept.

  Args:
    width: Columns of the image.
    height: Rows of the image.
    options: The transform and its target size.
    name: The name of the image, which seeds its random crop.

  Raises:
    UnfitError: If the image is too small for a wide or tall crop.
  """
  if options.transform == 'center-crop':
    side = min(width, height)
    return _middle(width, height, side, side)
  if options.transform == 'random-crop':
    side = max(1, round(options.crop * min(width, height)))
    u, v = _uniforms(options.seed, name)
    left, top = _jittered(width, side, u), _jittered(height, side, v)
    return Box(left, top, side, side)
  target = (options.width or 0, options.height or 0)
  if options.transform.endswith('-wide'):
    rows = _across((width, height), target, options.transform)
    return _middle(width, height, width, rows)
  if options.transform.endswith('-tall'):
    columns = _across(
      (height, width), (target[1], target[0]), options.transform
    )
    return _middle(width, height, columns, height)
  return Box(0, 0, width, height)


def _middle(width: int, height: int, columns: int, rows: int) -> Box:
  return Box((width - columns) // 2, (height - rows) // 2, columns, rows)


def _across(size: tuple[int, int], target: tuple[int, int], name: str) -> int:
  """Returns how many pixels of the axis that is cropped are kept.

  Args:
    size: Pixels of the image along the axis that is kept and the other one.
    target: The same for the result.
    name: The transform.

  Raises:
    UnfitError: If the image has fewer pixels than that, or than the result.
  """
  if name.startswith('center-'):  # As the official tool does.
    across = round(target[0] * size[1] / size[0])
  else:
    across = round(size[0] * target[1] / target[0])
  if across > size[1] or across < 1:
    raise UnfitError(
      f'its sides must be at least {size[0]} and {across} pixels for {name}, '
      f'got {size[0]} and {size[1]}'
    )
  if size[0] < target[0] or across < target[1]:
    raise UnfitError(
      f'the part kept by {name} must have at least {target[0]} by {target[1]} '
      f'pixels, got {size[0]} by {across}'
    )
  return across


def _uniforms(seed: int, name: str) -> tuple[float, float]:
  """Returns two numbers in (0, 1) that depend only on the seed and the name.

  A hash rather than a generator: the order of the images, the number of
  workers and the version of NumPy have no influence.
  """
  text = f'{seed}:{name}'.encode(errors='surrogatepass')
  digest = hashlib.sha256(text).digest()
  words = (int.from_bytes(digest[i : i + 6], 'big') for i in (0, 8))
  u, v = ((word + 0.5) / 2**48 for word in words)
  return u, v


def _jittered(length: int, side: int, u: float) -> int:
  """Returns the first pixel of a crop along one axis.

  The centre is normally distributed around the middle of the image, given that
  the crop is inside the image: the same distribution as sampling again until
  it is. No pixels outside of the image are made up.
  """
  room = (length - side) / 2
  normal = statistics.NormalDist(sigma=_JITTER * side)
  low, high = normal.cdf(-room), normal.cdf(room)
  if high <= low:  # There is no room.
    return (length - side) // 2
  offset = normal.inv_cdf(low + u * (high - low))
  return min(max(round(room + offset), 0), length - side)


def _centred(image: Image.Image, side: int) -> Image.Image:
  if image.size == (side, side):
    return image
  square = Image.new(image.mode, (side, side))
  square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
  return square


def resize(
  image: Image.Image, width: int, height: int, kind: str
) -> Image.Image:
  """Resizes an image, first all rows and then all columns.

  Pillow 13 chooses which axis to resize first, and earlier versions do not.
  Because the result of the first pass is rounded to 8 bits, the order changes
  pixels by one or two levels, so both passes are explicit here. Colours are
  weighted with their alpha.

  Args:
    image: An image in mode L, RGB or RGBA.
    width: Columns of the result.
    height: Rows of the result.
    kind: `lanczos` or `box`, Pillow's filters, which prevent aliasing; or
      `area`, the mean over the exact area of each pixel, rounded once.
  """
  if image.size == (width, height):
    return image
  mode = image.mode
  if mode == 'RGBA':
    image = image.convert('RGBa')
  if kind == 'area':
    image = _resize_area(image, width, height)
  else:
    method = _PILLOW[kind]
    image = image.resize((width, image.height), method)
    image = image.resize((width, height), method)
  return image.convert(mode) if image.mode != mode else image


def _resize_area(image: Image.Image, width: int, height: int) -> Image.Image:
  pixels = np.asarray(image)
  rows, columns = pixels.shape[:2]
  channels = pixels.size // (rows * columns)
  # Integers, so that the only rounding is the last step.
  total = pixels.reshape(rows, -1).astype(np.int64)
  total = _overlaps(rows, height) @ total
  total = total.reshape(height, columns, channels).swapaxes(0, 1)
  total = _overlaps(columns, width) @ total.reshape(columns, -1)
  total = total.reshape(width, height, channels).swapaxes(0, 1)
  area = rows * columns
  mean = ((2 * total + area) // (2 * area)).astype(np.uint8)
  return Image.frombytes(image.mode, (width, height), mean.tobytes())


def _overlaps(source: int, target: int) -> Any:
  """Returns how much of each source pixel each target pixel covers.

  The result is a sparse int64 matrix [target, source]. The unit is 1 / target
  of a source pixel, so that all numbers are integers; rows sum to `source`.
  """
  from scipy import sparse  # Most calls do not need it.

  # Both grids cut the axis into pieces that lie in one pixel of each.
  edges = np.union1d(
    np.arange(target + 1) * source, np.arange(source + 1) * target
  )
  place = (edges[:-1] // source, edges[:-1] // target)
  return sparse.csr_array((np.diff(edges), place), shape=(target, source))
