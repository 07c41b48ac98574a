"""Flips, shifts, scales and rotates each image in one resampling.

The image is reflected at its edges, upsampled by two with a wavelet's low-pass
filter, sampled bilinearly at positions given by an affine map, and downsampled
with the same filter. The filter is orthogonal to its even shifts, so the
identity and integer shifts are exact up to rounding. It is not symmetric: a
flip or a quarter turn adds slight blur and ripples.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.train.step.augment.samples import OPS, Samples
from sg3jax.types import Array, Images

NAMES = frozenset(
  ['xflip', 'rotate90', 'xint', 'scale', 'rotate', 'aniso', 'xfrac']
)

# The low-pass decomposition filter of the symlet with 6 vanishing moments, "the
# least asymmetric Daubechies wavelet" of I. Daubechies, Ten Lectures on
# Wavelets (1992), table 6.3: 12 taps with unit norm and the sum sqrt(2).
SYM6 = np.array([
  0.015404109327027373, 0.0034907120842174702, -0.11799011114819057,
  -0.048311742585633, 0.4910559419267466, 0.787641141030194,
  0.3379294217276218, -0.07263752278646252, -0.021060292512300564,
  0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
_LOWPASS = SYM6 / np.sqrt(2)
_TAPS = len(SYM6)


def transform(images: Images, samples: Samples) -> Float[Array, 'n h w c']:
  """Transforms images, and returns those that no operator affects unchanged.

  The result is linear in the images. Reflections continue the images without
  end, so no array shape depends on the size of a sampled shift.

  Args:
    images: Images with sides of at least 2 pixels.
    samples: Values returned by `samples.sample`.
  """
  n, height, width, _ = images.shape
  matrix = inverse_matrix(samples, n, (height, width))
  moved = _resample(jnp.asarray(images), matrix)
  same = jnp.all(matrix == jnp.eye(3), axis=(1, 2))
  return jnp.where(same[:, None, None, None], images, moved)


def inverse_matrix(
  samples: Samples, n: int, size: tuple[int, int]
) -> Float[Array, 'n 3 3']:
  """Returns the maps from positions in the result to positions in the image.

  Positions are (x, y, 1) in pixels from the centre, x to the right and y down.
  The last operator is undone first. The map is exactly the identity if all
  values are neutral.

  Args:
    samples: Values of the operators of `NAMES`; a missing one is neutral.
    n: Number of images.
    size: Height and width of the images.
  """

  def values(name: str) -> list[Array]:
    op = OPS[name]
    neutral = jnp.full((n, op.features), op.neutral)
    return list(jnp.moveaxis(samples.get(name, neutral), 1, 0))

  height, width = size
  (flip,), (quarters,) = values('xflip'), values('rotate90')
  xint, xfrac = values('xint'), values('xfrac')
  (scale,), (aniso,) = values('scale'), values('aniso')
  before, after = values('rotate')
  return functools.reduce(
    # Positions need full float32 precision: no bfloat16 or TF32 passes.
    functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST),
    [
      _scaling(1 - 2 * flip, jnp.ones(n)),
      _rotation(-jnp.pi / 2 * quarters, exact=True),
      _translation(
        -jnp.round(xint[0] * width), -jnp.round(xint[1] * height)
      ),
      _scaling(1 / scale, 1 / scale),
      _rotation(-before),
      _scaling(1 / aniso, aniso),
      _rotation(-after),
      _translation(-xfrac[0] * width, -xfrac[1] * height),
    ],
  )  # fmt: skip


def _resample(
  x: Float[Array, 'n h w c'], matrix: Float[Array, 'n 3 3']
) -> Float[Array, 'n h w c']:
  height, width = x.shape[1:3]
  for axis, size in (('h', height), ('w', width)):
    x = _multiply(upsampling_matrix(size), x, axis)
  # Positions of the samples that the downsampling filter needs. The filter has
  # no centre, but most of its weight is near the sixth of its twelve taps, so
  # sample 2i is placed on pixel i.
  columns, rows = (
    (jnp.arange(_TAPS + 2 * size - 2) - _TAPS // 2 + 2) / 2 - size / 2
    for size in (width, height)
  )
  m = matrix[:, :2, :, None, None]
  source_x, source_y = (
    m[:, i, 0] * columns + m[:, i, 1] * rows[:, None] + m[:, i, 2]
    for i in (0, 1)
  )
  x = jax.vmap(_read)(x, 2 * source_y + height - 1, 2 * source_x + width - 1)
  for axis, size in (('h', height), ('w', width)):
    x = _multiply(downsampling_matrix(size), x, axis)
  return x


@functools.cache
def upsampling_matrix(size: int) -> Float[np.ndarray, 'o i']:
  """Returns the matrix that reflects a row at its ends and doubles its rate.

  The reflected row, in which the end samples are not duplicated, repeats after
  2 * size - 2 samples. The result covers one period.

  Args:
    size: Number of samples i in the row, at least 2.

  Returns:
    A matrix [4 * size - 4, size], float64.
  """
  period = 2 * size - 2
  matrix = np.zeros((2 * period, size))
  for out in range(2 * period):
    for tap in range(_TAPS):
      stuffed = out + _TAPS // 2 - 1 - tap
      if stuffed % 2 == 0:
        i = stuffed // 2 % period
        matrix[out, min(i, period - i)] += np.sqrt(2) * SYM6[tap]
  return matrix


@functools.cache
def downsampling_matrix(size: int) -> Float[np.ndarray, 'o i']:
  """Returns the matrix that correlates with the filter and halves the rate.

  Args:
    size: Number of samples o in the result; the input has 2 * size + 10.
  """
  matrix = np.zeros((size, 2 * size + _TAPS - 2))
  for out in range(size):
    matrix[out, 2 * out : 2 * out + _TAPS] = SYM6 / np.sqrt(2)
  return matrix


def _multiply(
  matrix: np.ndarray, x: Float[Array, 'n h w c'], axis: str
) -> Float[Array, 'n h2 w2 c']:
  return jnp.einsum(
    f'o{axis},nhwc->{"nhwc".replace(axis, "o")}',
    jnp.asarray(matrix, x.dtype),
    x,
    precision=jax.lax.Precision.HIGHEST,
  )


def _read(
  image: Float[Array, 'h w c'],
  y: Float[Array, 'h2 w2'],
  x: Float[Array, 'h2 w2'],
) -> Float[Array, 'h2 w2 c']:
  """Interpolates a periodic image bilinearly."""
  top, left = jnp.floor(y), jnp.floor(x)
  total = 0.0
  for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
      indices = (
        position.astype(jnp.int32) % size
        for position, size in zip((row, column), image.shape, strict=False)
      )
      value = image.at[tuple(indices)].get(mode='promise_in_bounds')
      total = total + (weight_y * weight_x)[:, :, None] * value
  return jnp.asarray(total)


def _matrix(rows: list[list[Array | float]]) -> Float[Array, 'n 3 3']:
  entries = jnp.broadcast_arrays(*(jnp.asarray(x) for row in rows for x in row))
  upper = jnp.stack(entries, axis=-1).reshape(-1, 2, 3)
  last = jnp.broadcast_to(jnp.array([[0.0, 0.0, 1.0]]), (len(upper), 1, 3))
  return jnp.concatenate([upper, last], axis=1)


def _translation(x: Array, y: Array) -> Float[Array, 'n 3 3']:
  return _matrix([[1.0, 0.0, x], [0.0, 1.0, y]])


def _scaling(x: Array, y: Array) -> Float[Array, 'n 3 3']:
  return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0]])


def _rotation(angle: Array, *, exact: bool = False) -> Float[Array, 'n 3 3']:
  """Maps (1, 0) to (cos, -sin) for resampling; `exact` at quarter turns."""
  c, s = jnp.cos(angle), jnp.sin(angle)
  if exact:
    c, s = jnp.round(c), jnp.round(s)
  return _matrix([[c, s, 0.0], [-s, c, 0.0]])
