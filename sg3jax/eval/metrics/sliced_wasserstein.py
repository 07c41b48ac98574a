"""Sliced Wasserstein distance between two sets of images, by scale.

Karras et al. 2018 (Progressive growing of GANs, arXiv 1710.10196), section 5:
patches of 7x7 pixels are taken from each level of a Laplacian pyramid, and the
two clouds of patches are compared through their one-dimensional projections.
Coarse levels measure large structures; the finest one measures pixel texture.

The metric needs no pretrained network, and hence no download. It measures local
statistics, not the content of an image.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from sg3jax.eval.metrics import base
from sg3jax.types import AnyArray, Array, Images, ImagesU8

_PATCH = 7
_MIN_SIZE = 16
_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16
_DIRECTIONS_AT_ONCE = 16
# A channel that varies less than this, an eighth of a grey level, counts as
# flat, so that its rounding errors are not scaled to unit variance.
_MIN_STD = 1e-3
_SCALE = 1e3


class SlicedWasserstein:
  """Measures sets of images against a reference set, whose patches are kept.

  Patches have the same random positions in every image, so the distance does
  not depend on the order of the images. Each set is normalized by the mean and
  standard deviation of each of its channels at each level, so the distance
  ignores overall brightness, contrast and tint.

  Attributes:
    num_images: Number of images in the reference set and in any other set.
    levels: Shorter side of the images at each level of the pyramid, in pixels.
  """

  def __init__(
    self,
    reals: Images | ImagesU8,
    *,
    seed: int = 0,
    patches_per_image: int = 128,
    num_projections: int = 512,
    batch_size: int = 64,
  ):
    """Extracts the reference set's patches.

    Args:
      reals: Images in [-1, 1] or uint8, with any number of channels.
      seed: Random seed for positions and directions.
      patches_per_image: Number of patches per image at each level, limited by
        the number of positions.
      num_projections: Number of random directions.
      batch_size: Number of images that are decomposed at a time.

    Raises:
      ValueError: If a number is not positive or the images are too small.
    """
    numbers = (patches_per_image, num_projections, batch_size, len(reals))
    if min(numbers) < 1:
      raise ValueError(
        'the sliced Wasserstein distance needs at least one image, patch, '
        f'direction and image per batch, got {numbers[-1]}, {numbers[0]}, '
        f'{numbers[1]} and {numbers[2]}'
      )
    if min(reals.shape[1:3]) < _PATCH:
      raise ValueError(
        'the sliced Wasserstein distance takes patches of '
        f'{_PATCH}x{_PATCH} pixels: images of {reals.shape[1]}x'
        f'{reals.shape[2]} are too small'
      )
    self.num_images = len(reals)
    self._image_shape = reals.shape[1:]
    self._batch_size = batch_size
    sizes = _level_sizes(*reals.shape[1:3])
    self.levels = tuple(min(size) for size in sizes)
    self._places, self._directions = zip(
      *(
        _sample(
          seed, i, size, reals.shape[3], patches_per_image, num_projections
        )
        for i, size in enumerate(sizes)
      ),
      strict=True,
    )
    self._reals = self._patches(reals)

  def __call__(self, fakes: Images | ImagesU8) -> dict[str, float]:
    """Returns the distance times 1000 at each level, and their mean.

    Args:
      fakes: Images of the same number and shape as in the reference set.

    Returns:
      Values by name: `swd_64` for the level of 64 pixels, and so on; `swd` is
      the mean.

    Raises:
      ValueError: If the number or the shape of the images differs.
    """
    if fakes.shape != (self.num_images, *self._image_shape):
      raise ValueError(
        'the sliced Wasserstein distance compares equal numbers of images of '
        f'one shape: images must be {(self.num_images, *self._image_shape)}, '
        f'got {fakes.shape}'
      )
    distances = {
      f'swd_{level}': _SCALE * float(_distance(real, fake, directions))
      for level, real, fake, directions in zip(
        self.levels,
        self._reals,
        self._patches(fakes),
        self._directions,
        strict=True,
      )
    }
    return distances | {'swd': float(np.mean(list(distances.values())))}

  def _patches(self, images: Images | ImagesU8) -> list[Float[Array, 'm d']]:
    """Returns the normalized patches of each level, one per row."""
    batches = [
      _extract(images[i : i + self._batch_size], self._places)
      for i in range(0, len(images), self._batch_size)
    ]
    channels = self._image_shape[2]
    return [
      _normalize(jnp.concatenate(level), channels)
      for level in zip(*batches, strict=True)
    ]


def sliced_wasserstein(
  reals: Images | ImagesU8, fakes: Images | ImagesU8, **options: int
) -> dict[str, float]:
  """Returns the distance between two sets; see `SlicedWasserstein`."""
  return SlicedWasserstein(reals, **options)(fakes)


def laplacian_pyramid(
  x: Float[AnyArray, 'n h w c'],
) -> list[Float[Array, 'n _ _ c']]:
  """Splits images into bands, from fine details to the coarse remainder.

  Each level is half as large as the previous one, and the last is the smallest
  with at least 16 pixels. Upsampling and adding them restores the images.
  """
  levels = []
  x = jnp.asarray(x)
  for _ in _level_sizes(*x.shape[1:3])[1:]:
    smaller = _blur(x)[:, ::2, ::2]
    levels.append(x - _upsample(smaller, x.shape[1], x.shape[2]))
    x = smaller
  return [*levels, x]


def _level_sizes(height: int, width: int) -> list[tuple[int, int]]:
  sizes = [(height, width)]
  while min(height, width) >= 2 * _MIN_SIZE:
    height, width = -(-height // 2), -(-width // 2)
    sizes.append((height, width))
  return sizes


def _blur(x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
  """Applies the binomial low-pass along both axes, with reflected edges."""
  for axis in (1, 2):
    padding = [(0, 0)] * 4
    padding[axis] = (2, 2)
    padded = jnp.pad(x, padding, mode='reflect')
    x = functools.reduce(
      jnp.add,
      (
        tap * jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
        for i, tap in enumerate(_BINOMIAL)
      ),
    )
  return x


def _upsample(
  x: Float[Array, 'n h w c'], height: int, width: int
) -> Float[Array, 'n h2 w2 c']:
  """Doubles the size, without the last row or column for an odd size."""
  along = (0, 1, 1)
  x = jax.lax.pad(x, 0.0, [(0, 0, 0), along, along, (0, 0, 0)])
  # Three of four samples are zero, so the gain is four.
  return 4 * _blur(x[:, :height, :width])


def _sample(
  seed: int,
  level: int,
  size: tuple[int, int],
  channels: int,
  patches: int,
  projections: int,
) -> tuple[Int[np.ndarray, 'p 2'], Float[np.ndarray, 'k d']]:
  """Samples distinct top-left corners, and unit directions."""
  rng = np.random.default_rng([seed, level])
  rows, columns = (side - _PATCH + 1 for side in size)
  places = rng.choice(
    rows * columns, min(patches, rows * columns), replace=False
  )
  places = np.stack(np.divmod(places, columns), axis=1).astype(np.int32)
  directions = rng.normal(size=(projections, _PATCH * _PATCH * channels))
  directions /= np.linalg.norm(directions, axis=1, keepdims=True)
  return places, directions.astype(np.float32)


@jax.jit
def _extract(
  x: Float[AnyArray, 'n h w c'] | UInt8[AnyArray, 'n h w c'],
  places: tuple[Int[AnyArray, 'p 2'], ...],
) -> list[Float[Array, 'm d']]:
  """Returns the patches of each level, with each image's next to each other."""
  if x.dtype == jnp.uint8:
    x = x.astype(jnp.float32) / 127.5 - 1
  offsets = np.arange(_PATCH)
  levels = []
  for level, place in zip(
    laplacian_pyramid(x.astype(jnp.float32)), places, strict=True
  ):
    rows, columns = (place[:, i, None] + offsets for i in range(2))
    patches = level[:, rows[:, :, None], columns[:, None, :]]
    levels.append(patches.reshape(-1, _PATCH * _PATCH * x.shape[3]))
  return levels


@functools.partial(jax.jit, static_argnums=1)
def _normalize(
  patches: Float[Array, 'm d'], channels: int
) -> Float[Array, 'm d']:
  """Gives every channel zero mean and unit variance over all patches."""
  x = patches.reshape(-1, channels)
  x = x - x.mean(0)
  std = jnp.sqrt(jnp.square(x).mean(0))
  return (x / jnp.maximum(std, _MIN_STD)).reshape(patches.shape)


@jax.jit
def _distance(
  a: Float[Array, 'm d'],
  b: Float[Array, 'm d'],
  directions: Float[AnyArray, 'k d'],
) -> Float[Array, '']:
  """Returns the mean of the one-dimensional Wasserstein-1 distances."""

  def along(direction: Float[Array, ' d']) -> Float[Array, '']:
    a_sorted, b_sorted = (
      _sort(jnp.matmul(x, direction, precision=jax.lax.Precision.HIGHEST))
      for x in (a, b)
    )
    return jnp.abs(a_sorted - b_sorted).mean()

  return jax.lax.map(
    along, jnp.asarray(directions), batch_size=_DIRECTIONS_AT_ONCE
  ).mean()


def _sort(x: Float[Array, ' m']) -> Float[Array, ' m']:
  """Sorts finite numbers by their bits, which is 5 times faster on CPUs.

  On CPUs XLA calls a comparison function to sort floats, but not for integers.
  """

  def swap(bits: Int[Array, ' m']) -> Int[Array, ' m']:
    # The bits of negative floats are in reverse order.
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

  bits = jax.lax.bitcast_convert_type(x, jnp.int32)
  return jax.lax.bitcast_convert_type(swap(jnp.sort(swap(bits))), jnp.float32)


@base.register(
  'swd',
  title='Sliced Wasserstein distance',
  unit='1000 x sliced Wasserstein distance',
  higher_is_better=False,
  needs=(base.REALS,),
  panel='Distance to real images',
  labels={'swd': 'mean', r'swd_(\d+)': r'level of \1 pixels'},
)
def measure(context: base.Context) -> base.Measurement:
  """Compares at most as many generated images as there are reals."""
  reference = context.kept(_make_reference)
  fakes = context.fakes(reference.num_images)
  return base.Measurement(reference(fakes), reference.num_images)


def _make_reference(context: base.Context) -> SlicedWasserstein:
  count = min(context.num_fakes, len(context.source))
  return SlicedWasserstein(
    context.reals(count), seed=context.seed, num_projections=128
  )
