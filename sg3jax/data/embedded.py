"""Photographs that pip installs: a dataset without a download.

The wheels of scikit-image and scikit-learn contain a few freely usable colour
photographs. Random upright crops of them are a small dataset of natural
texture, sufficient to try a training run end to end. Neither package is
imported, which would take seconds: the files are opened by their paths.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from sg3jax.data import labels as labels_lib
from sg3jax.data import packaged

# Crops are 1 to 4 times as large as the output, because the scale of objects
# varies in real datasets too.
_MAX_ZOOM = 4.0
# Crops whose luma has a smaller standard deviation than this (of 255) show sky,
# walls or blur.
_MIN_STDDEV = 18.0


@dataclasses.dataclass(frozen=True)
class Photograph:
  """One photograph inside an installed package.

  Attributes:
    package: Import name of the package, which is also the name of its folder.
    file: Path inside that folder.
    title: Title or subject.
    author: Author to credit.
    licence: Terms of use as stated by the package.
    url: Page from which the photograph was taken.
  """

  package: str
  file: str
  title: str
  author: str
  licence: str
  url: str


PHOTOGRAPHS = (
  Photograph(
    'skimage',
    'data/astronaut.png',
    'Eileen Collins, astronaut',
    'NASA',
    'Public domain',
    'https://flic.kr/p/r9qvLn',
  ),
  Photograph(
    'skimage',
    'data/chelsea.png',
    'Chelsea the cat',
    'Stefan van der Walt',
    'CC0',
    'https://scikit-image.org/docs/stable/api/skimage.data.html',
  ),
  Photograph(
    'skimage',
    'data/coffee.png',
    'Coffee cup, courtesy of Pikolo Espresso Bar',
    'Rachel Michetti',
    'CC0',
    'https://scikit-image.org/docs/stable/api/skimage.data.html',
  ),
  Photograph(
    'skimage',
    'data/rocket.jpg',
    'Falcon 9 carrying DSCOVR',
    'SpaceX',
    'Public domain',
    'https://www.flickr.com/photos/spacexphotos/16511594820/',
  ),
  Photograph(
    'sklearn',
    'datasets/images/china.jpg',
    'Pavilion in the Summer Palace, Beijing',
    'danielbuechele',
    'CC BY 2.0',
    'https://www.flickr.com/photos/danielbuechele/6061409035/',
  ),
  # The note in the package names the author of china.jpg here too, but its
  # links lead to this author.
  Photograph(
    'sklearn',
    'datasets/images/flower.jpg',
    'Dahlia',
    'vultilion',
    'CC BY 2.0',
    'https://www.flickr.com/photos/vultilion/6056698931/',
  ),
)


class EmbeddedPhotographs:
  """Random square crops of the photographs, an image source without labels.

  A photograph is chosen with a probability proportional to its area. The side
  of a crop is log-uniform between `resolution` and four times that (or the
  shorter side of the photograph), and its position is uniform. Nearly flat
  crops are sampled again. The crops depend only on `resolution` and `seed`;
  those of a smaller `count` are the first of those of a larger one.

  Args:
    count: Number of crops.
    resolution: Side of the images in pixels, at most the shorter side of the
      smallest photograph (300).
    seed: Seed of the boxes of the crops.

  Raises:
    ImportError: If a package or one of its photographs is not installed.
    ValueError: If `count` or `resolution` is out of range.
  """

  channels = 3
  label_dim = 0

  def __init__(self, *, count: int = 4000, resolution: int, seed: int = 0):
    if count < 1:
      raise ValueError(f'count must be at least 1, got {count}')
    self._paths = tuple(locate(photograph) for photograph in PHOTOGRAPHS)
    photographs = [_decode(path) for path in self._paths]
    limit = min(min(photograph.shape[:2]) for photograph in photographs)
    if not 1 <= resolution <= limit:
      raise ValueError(
        f'the resolution of embedded photographs must be 1 to {limit} pixels, '
        f'got {resolution}'
      )
    self.name = f'embedded-{count}'
    self.resolution = resolution
    self._boxes = _sample_boxes(photographs, count, resolution, seed)

  def __len__(self) -> int:
    return len(self._boxes)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Returns `{'image': uint8 [h, w, 3], 'label': float32 [0]}`."""
    photograph, top, left, side = self._boxes[index]
    pixels = _decode(self._paths[photograph])
    crop = Image.fromarray(pixels[top : top + side, left : left + side])
    # Pillow scales the kernel with the reduction, which prevents aliasing.
    size = (self.resolution, self.resolution)
    image = crop.resize(size, Image.Resampling.LANCZOS)
    return {'image': np.array(image), 'label': np.zeros([0], np.float32)}

  def labels(self) -> labels_lib.Labels:
    """Returns the empty labels."""
    return labels_lib.none(len(self))

  def fingerprint(self) -> str:
    """Returns a hash of the boxes, which determine the images."""
    return hashlib.sha256(self._boxes.tobytes()).hexdigest()


def locate(photograph: Photograph) -> pathlib.Path:
  """Returns the path of a photograph, without importing its package.

  Raises:
    ImportError: If the package or the file in it is missing.
  """
  return packaged.locate(
    photograph.package,
    photograph.file,
    'the embedded photographs are read from scikit-image and scikit-learn: '
    "pip install 'sg3jax[photos]'",
  )


# A cache outside of the class, so that a pickled source contains only its
# boxes.
@functools.cache
def _decode(path: pathlib.Path) -> UInt8[np.ndarray, 'h w 3']:
  with Image.open(path) as image:
    pixels = np.array(image.convert('RGB'))
  pixels.flags.writeable = False
  return pixels


def _sample_boxes(
  photographs: list[np.ndarray], count: int, resolution: int, seed: int
) -> Int[np.ndarray, 'count 4']:
  """Samples (photograph, top, left, side) until `count` crops are not flat."""
  sizes = np.array([photograph.shape[:2] for photograph in photographs])
  cumulative_area = np.cumsum(sizes.prod(axis=1))
  max_sides = np.minimum(sizes.min(axis=1), int(_MAX_ZOOM * resolution))
  moments = [_summed_moments(photograph) for photograph in photographs]
  # The stream of RandomState never changes between NumPy versions. Every four
  # consecutive numbers make a box, regardless of how many are sampled at once.
  random = np.random.RandomState(seed)
  boxes = []
  while len(boxes) < count:
    which, zoom, *place = random.random_sample([count, 4]).T
    index = np.searchsorted(
      cumulative_area, which * cumulative_area[-1], side='right'
    )
    zooms = (max_sides[index] / resolution) ** zoom
    side = np.rint(resolution * zooms).astype(np.int64)
    top, left = (np.stack(place) * (sizes[index].T - side + 1)).astype(np.int64)
    candidates = np.stack([index, top, left, side], axis=1).tolist()
    boxes += [
      box
      for box in candidates
      if _luma_stddev(moments[box[0]], *box[1:]) >= _MIN_STDDEV
    ]
  return np.array(boxes[:count])


def _summed_moments(
  photograph: UInt8[np.ndarray, 'h w 3'],
) -> Int[np.ndarray, 'h+1 w+1 2']:
  """Sums luma and its square over the rectangles from the top left corner."""
  luma = np.asarray(Image.fromarray(photograph).convert('L'), np.int64)
  moments = np.stack([luma, luma**2], axis=-1).cumsum(axis=0).cumsum(axis=1)
  return np.pad(moments, [(1, 0), (1, 0), (0, 0)])


def _luma_stddev(
  moments: Int[np.ndarray, 'h w 2'], top: int, left: int, side: int
) -> float:
  bottom, right = top + side, left + side
  total = moments[bottom, right] - moments[top, right]
  total += moments[top, left] - moments[bottom, left]
  luma, square = total.tolist()
  # Computed in integers, so that every machine samples the same boxes.
  return math.sqrt(side**2 * square - luma**2) / side**2
