"""Resamples images and feature maps with one radial low-pass filter.

The reference of a comparison is resampled at positions between its samples, and
what it is compared with is filtered at its own samples, by the same continuous
kernel h(|x|). Its response H(|f|) is radial, so low-pass filtering commutes
with rotations and translations: whatever H does to the band does not count as
an error. Only replicas of the spectrum, which sampling puts at integer
frequencies f + m (cycles per sample, m != 0), differ after resampling. With the
power spectrum S, the error of one side has the mean square

  sum over m != 0 of the integral of S(f) |H(|f + m|)|^2 df,

over the square |f_x|, |f_y| <= 1/2, so that |f + m| >= 1/2 always: the filter's
stopband. The kernel is a jinc with a Kaiser window of 10 samples, from which
its value at the end is subtracted. Without that step the response would fall so
slowly that the replicas of low frequencies, which have most of the power of
photographs, dominate. It is at -58 dB for |f| = 1/2 and at -106 dB for |f| = 1;
it keeps all but 0.2 dB of frequencies up to 0.3, and halves amplitudes at 0.39.
docs/equivariance.md has the resulting ceilings.

Scaling moves frequencies. A `stretch` k <= 1 of an axis narrows the band of
that axis to k times its width, so that both grids can represent it: then |f| is
the length of (f_x / k_x, f_y / k_y), and the kernel reaches 1 / k times as far.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Float

from sg3jax.types import AnyArray, Array, Images

# Reach of the kernel, in samples.
REACH = 10
# Parameter of its Kaiser window, and the half width of the transition band that
# such a window needs, times the reach. They were chosen for images whose
# amplitude falls as 1 / |f|.
_BETA = 7.5
_TRANSITION = 1.1
# Entries of the kernel's table per unit of squared distance. Between them, it
# is interpolated with an error below 2e-6 of its maximum.
_DENSITY = 256


def resample(
  x: Images,
  inverse: Float[AnyArray, '3 3'],
  *,
  rates: tuple[float, float] | None = None,
  reach: int = REACH,
  stretch: Float[AnyArray, '2'] | None = None,
  min_stretch: float = 1.0,
) -> tuple[Float[Array, 'n h w c'], Float[Array, 'h w 1']]:
  """Filters images, and samples them at transformed positions.

  Args:
    x: Images or feature maps.
    inverse: Maps an output position to an input position, both relative to the
      centre and in units of the canvas: (x, y, 1) with x to the right and y
      down. It may be traced.
    rates: Rows and columns of samples per side of the canvas; by default the
      canvas is the whole image.
    reach: Reach of the kernel for a stretch of 1, in samples.
    stretch: Width of the band along x and y, relative to the unscaled filter;
      by default 1.
    min_stretch: Lower bound on `stretch`, which is static.

  Returns:
    The resampled images of the same size, float32, and the mask of those pixels
    that read no sample outside of the image.
  """
  height, width = x.shape[1:3]
  y, x_positions = _positions(inverse, (height, width), rates or x.shape[1:3])
  k = jnp.ones(2) if stretch is None else jnp.asarray(stretch, jnp.float32)
  out = _interpolate(
    jnp.asarray(x, jnp.float32),
    y,
    x_positions,
    k,
    reach=reach,
    neighbours=math.ceil(reach / min_stretch),
  )
  mask = _inside(y, height, reach / k[1])
  mask &= _inside(x_positions, width, reach / k[0])
  return out, mask[:, :, None].astype(jnp.float32)


def low_pass(
  x: Images,
  *,
  reach: int = REACH,
  stretch: Float[AnyArray, '2'] | None = None,
  min_stretch: float = 1.0,
) -> tuple[Float[Array, 'n h w c'], Float[Array, 'h w 1']]:
  """Filters images at their own samples: `resample` without a transform.

  This is a convolution, which is much faster.

  Args:
    x: See `resample` for all arguments.
    reach: Reach of the kernel.
    stretch: Width of the band.
    min_stretch: Lower bound on `stretch`.

  Returns:
    See `resample`.
  """
  height, width = x.shape[1:3]
  k = jnp.ones(2) if stretch is None else jnp.asarray(stretch, jnp.float32)
  neighbours = math.ceil(reach / min_stretch) - 1
  steps = jnp.arange(-neighbours, neighbours + 1, dtype=jnp.float32)
  square = jnp.square(k[1] * steps)[:, None] + jnp.square(k[0] * steps)
  kernel = _look_up(jnp.asarray(kernel_table(reach), jnp.float32), square)
  planes = jnp.moveaxis(jnp.asarray(x, jnp.float32), 3, 1)
  out = jax.lax.conv_general_dilated(
    planes.reshape(-1, height, width, 1),
    (kernel / kernel.sum())[:, :, None, None],
    window_strides=(1, 1),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )
  mask = _inside(jnp.arange(height), height, reach / k[1])[:, None]
  mask &= _inside(jnp.arange(width), width, reach / k[0])
  out = jnp.moveaxis(out.reshape(planes.shape), 1, 3)
  return out, mask[:, :, None].astype(jnp.float32)


def canvas_mask(
  inverse: Float[AnyArray, '3 3'],
  size: tuple[int, ...],
  rates: tuple[float, float],
) -> Float[Array, 'h w 1']:
  """Returns the mask of samples that lie on the canvas before and after.

  Feature maps have margins around the canvas, in which what lies beyond the
  margin has an influence.

  Args:
    inverse: See `resample`.
    size: Rows and columns, margins included.
    rates: See `resample`.
  """
  mask = jnp.ones(size, bool)
  for matrix in (np.eye(3, dtype=np.float32), inverse):
    for position, n, rate in zip(
      _positions(matrix, size, rates), size, rates, strict=True
    ):
      mask &= jnp.abs(position - (n - 1) / 2) < rate / 2
  return mask[:, :, None].astype(jnp.float32)


@functools.cache
def kernel_table(reach: int) -> Float[np.ndarray, ' t']:
  """Returns the kernel by squared distance, float64, `_DENSITY` per unit.

  Args:
    reach: Distance from which the kernel is zero, in samples; at least 4.
  """
  cutoff = 0.5 - _TRANSITION / reach
  distance = np.sqrt(np.arange(reach**2 * _DENSITY + 1) / _DENSITY)
  u = np.maximum(2 * np.pi * cutoff * distance, 1e-9)
  jinc = 2 * scipy.special.j1(u) / u
  window = np.i0(_BETA * np.sqrt(np.maximum(1 - (distance / reach) ** 2, 0)))
  table = jinc * (window - 1)
  return table / table[0]


def _positions(
  inverse: Float[AnyArray, '3 3'],
  size: tuple[int, ...],
  rates: tuple[float, ...],
) -> tuple[Float[Array, 'h w'], Float[Array, 'h w']]:
  """Returns the input's rows and columns that the output's pixels read."""
  rows, columns = (
    (jnp.arange(n, dtype=jnp.float32) - (n - 1) / 2) / rate
    for n, rate in zip(size, rates, strict=True)
  )
  m = jnp.asarray(inverse, jnp.float32)
  x = m[0, 0] * columns + m[0, 1] * rows[:, None] + m[0, 2]
  y = m[1, 0] * columns + m[1, 1] * rows[:, None] + m[1, 2]
  return y * rates[0] + (size[0] - 1) / 2, x * rates[1] + (size[1] - 1) / 2


def _interpolate(
  images: Float[Array, 'n h w c'],
  y: Float[Array, 'h w'],
  x: Float[Array, 'h w'],
  stretch: Float[Array, '2'],
  *,
  reach: int,
  neighbours: int,
) -> Float[Array, 'n h w c']:
  """Returns the weighted means of all samples that the kernel reaches.

  One neighbour at a time, so that the memory is that of a few images.
  """
  n, height, width, channels = images.shape
  table = jnp.asarray(kernel_table(reach), jnp.float32)
  # Read all images at once: their pixels share positions and weights.
  pixels = jnp.moveaxis(images, 0, 2).reshape(height, width, n * channels)
  top, left = jnp.floor(y), jnp.floor(x)
  side = 2 * neighbours

  def step(i: Array | int) -> tuple[Array, Array]:
    row = top + (i // side - neighbours + 1)
    column = left + (i % side - neighbours + 1)
    square = jnp.square(stretch[1] * (y - row))
    square += jnp.square(stretch[0] * (x - column))
    weight = _look_up(table, square)[:, :, None]
    row = jnp.clip(row, 0, height - 1).astype(jnp.int32)
    column = jnp.clip(column, 0, width - 1).astype(jnp.int32)
    return weight * pixels[row, column], weight

  # The first step gives the sums their types, also in `jax.shard_map`.
  total, weights = jax.lax.fori_loop(
    1,
    side**2,
    lambda i, sums: jax.tree.map(jnp.add, sums, step(i)),
    step(0),
  )
  out = (total / weights).reshape(height, width, n, channels)
  return jnp.moveaxis(out, 2, 0)


def _look_up(table: Float[Array, ' t'], square: Array) -> Array:
  """Returns the kernel at squared distances; zero beyond its reach."""
  last = len(table) - 1
  index = jnp.minimum(square * _DENSITY, last)
  below = jnp.minimum(jnp.floor(index), last - 1)
  fraction = index - below
  below = below.astype(jnp.int32)
  return table[below] * (1 - fraction) + table[below + 1] * fraction


def _inside(position: Array, size: int, reach: Array | float) -> Array:
  """Returns which positions have all samples within `reach` in the image."""
  return (position >= reach - 1) & (position <= size - reach)
