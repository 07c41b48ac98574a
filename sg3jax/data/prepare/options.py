"""Options that decide the pixels of a prepared dataset."""

import dataclasses
import re
from typing import Any

TRANSFORMS = (
  'none',
  'center-crop',
  'crop-wide',
  'crop-tall',
  'center-crop-wide',
  'center-crop-tall',
  'random-crop',
  'pad',
)
FILTERS = ('lanczos', 'box', 'area')
DEPTHS = ('refuse', 'reduce')

_MAX_SIDE = 16384  # Larger images cannot be trained on, and hint at a typo.


@dataclasses.dataclass(frozen=True)
class Options:
  """Options that turn source images into training images.

  Attributes:
    width: Columns to which images are resized; None keeps their size.
    height: Rows to which images are resized; None together with `width`.
    transform: One of `TRANSFORMS`, see `transforms`.
    filter: One of `FILTERS`, see `transforms.resize`.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA); None for those of the first image,
      which all others must then have.
    depth16: Treatment of images with more than 8 bits per channel: `refuse`
      or `reduce`, which keeps the 8 highest bits.
    background: Grey level from 0 to 255 behind transparent pixels, if images
      with transparency become grey or RGB.
    crop: Side of a random crop as a fraction of the image's shorter side.
    seed: Seed of the random crops.
  """

  width: int | None = None
  height: int | None = None
  transform: str = 'none'
  filter: str = 'lanczos'
  channels: int | None = None
  depth16: str = 'refuse'
  background: int = 255
  crop: float = 0.8
  seed: int = 0

  @property
  def side(self) -> int | None:
    """Rows and columns of the training images; None if not resized."""
    if self.width is None or self.height is None:
      return None
    return max(self.width, self.height)

  def asdict(self) -> dict[str, Any]:
    """Returns the options as a dict that JSON can represent."""
    return dataclasses.asdict(self)


def parse_resolution(text: str | None) -> tuple[int | None, int | None]:
  """Returns the width and height of `256x256` or `256`; None for None.

  Raises:
    ValueError: If the text has another form.
  """
  if not text:
    return None, None
  match = re.fullmatch(r'(\d{1,9})(?:[xX](\d{1,9}))?', text.strip())
  if match is None:
    raise ValueError(
      f'resolution must be WIDTHxHEIGHT or SIDE, such as 256x256 or 256, got '
      f'{text!r}'
    )
  width = int(match[1])
  return width, int(match[2] or width)


def check(options: Options) -> None:
  """Checks options that contradict each other or are out of range.

  Raises:
    ValueError: If they do; the message names the option and the remedy.
  """
  for name, value, known in (
    ('transform', options.transform, TRANSFORMS),
    ('filter', options.filter, FILTERS),
    ('depth16', options.depth16, DEPTHS),
    ('channels', options.channels, (None, 1, 3, 4)),
  ):
    if value not in known:
      choice = ', '.join(str(k) for k in known if k is not None)
      raise ValueError(f'{name} must be one of {choice}, got {value}')
  if not 0 <= options.background <= 255:
    raise ValueError(
      f'background must be a grey level from 0 to 255, got {options.background}'
    )
  if not 0 < options.crop <= 1:
    raise ValueError(
      'crop must be a fraction of the shorter side, above 0 and at most 1, '
      f'got {options.crop}'
    )
  _check_resolution(options)


def _check_resolution(options: Options) -> None:
  width, height, transform = options.width, options.height, options.transform
  if width is None or height is None:
    if transform != 'none':
      raise ValueError(
        f'resolution must be given with transform {transform}, got none: pass '
        'WIDTHxHEIGHT'
      )
    return
  if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
    raise ValueError(
      f'resolution must be 1 to {_MAX_SIDE} pixels on each side, got '
      f'{width}x{height}'
    )
  if transform.endswith('-wide') and width >= height:
    return
  if transform.endswith('-tall') and height >= width:
    return
  if width != height:
    shape = 'wide' if width > height else 'tall'
    raise ValueError(
      f'images must be square, got the resolution {width}x{height} with '
      f'transform {transform}: pass a square one, or crop-{shape}, '
      'which adds black bars'
    )
