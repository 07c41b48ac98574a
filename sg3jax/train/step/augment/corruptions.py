"""Band filter, noise and cutout, which are off by default."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.train.step.augment.samples import Samples
from sg3jax.types import Array, Images

NAMES = frozenset(['imgfilter', 'noise', 'cutout'])

# The low-pass filter of the symlet with 2 vanishing moments, the same as
# Daubechies' with 4 taps: I. Daubechies, Ten Lectures on Wavelets (1992), 6.1.
SYM2 = np.array(
  [1 + np.sqrt(3), 3 + np.sqrt(3), 3 - np.sqrt(3), 1 - np.sqrt(3)]
) / (4 * np.sqrt(2))

# Distribution of the power of natural images over the bands, from low to high.
_BAND_POWER = np.array([10, 1, 1, 1]) / 13
_CUTOUT_SIZE = 0.5  # Fraction of the image's height and width.


def transform(images: Images, samples: Samples) -> Float[Array, 'n h w c']:
  """Corrupts images, and returns those that no operator affects unchanged.

  Args:
    images: Images with any number of channels.
    samples: Values returned by `samples.sample`.
  """
  x = jnp.asarray(images)
  if 'imgfilter' in samples:
    x = _filter_bands(x, samples['imgfilter'])
  if 'noise' in samples:
    x = x + samples['noise']
  if 'cutout' in samples:
    x = _cut_out(x, samples['cutout'])
  return x


def _filter_bands(
  x: Float[Array, 'n h w c'], gains: Float[Array, 'n 4']
) -> Float[Array, 'n h w c']:
  """Amplifies frequency bands, along rows and columns alike."""
  # Normalize so that a natural image keeps its power for any gains.
  powers = 1 + _BAND_POWER * (jnp.square(gains) - 1)
  normalized = gains * jax.lax.rsqrt(jnp.prod(powers, 1, keepdims=True))
  y = x
  for axis in 'hw':
    bands = band_matrices(x.shape['nhwc'.index(axis)])
    y = jnp.einsum(
      f'nb,bo{axis},nhwc->n{"hwc".replace(axis, "o")}',
      normalized,
      jnp.asarray(bands, x.dtype),
      y,
      optimize=[(0, 1), (0, 1)],  # Contract the matrices first.
      precision=jax.lax.Precision.HIGHEST,
    )
  same = jnp.all(gains == 1, axis=1)
  return jnp.where(same[:, None, None, None], x, y)


@functools.cache
def band_matrices(size: int) -> Float[np.ndarray, 'b o i']:
  """Returns the matrices that split a row, reflected at its ends, into bands.

  Each is the convolution with one of the `band_filters`; their sum is the
  identity.

  Args:
    size: Number of samples in a row.
  """
  filters = band_filters()
  reach = filters.shape[1] // 2
  rows = np.pad(np.eye(size), ((reach, reach), (0, 0)), mode='reflect')
  windows = np.lib.stride_tricks.sliding_window_view(rows, size, axis=0)
  return np.einsum('bt,tio->boi', filters, windows)


def band_filters() -> Float[np.ndarray, 'b t']:
  """Returns four symmetric filters that sum to one: octaves and the rest.

  The autocorrelation L of a wavelet's low-pass filter is symmetric, and L(z)
  and L(-z) sum to one. Splitting the lower half again at each of three levels
  gives the bands up to 1/8, 1/4, 1/2 and 1 times the Nyquist frequency.
  """
  low = np.convolve(SYM2, SYM2[::-1]) / 2
  high = low * (-1.0) ** (np.arange(len(low)) - len(low) // 2)
  filters, below = [], np.ones(1)
  for level in range(3):
    filters.append(np.convolve(below, _stretch(high, 2**level)))
    below = np.convolve(below, _stretch(low, 2**level))
  filters.append(below)
  return np.stack(
    [np.pad(f, (len(below) - len(f)) // 2) for f in reversed(filters)]
  )


def _stretch(f: np.ndarray, factor: int) -> np.ndarray:
  """Returns f(z^factor)."""
  stretched = np.zeros((len(f) - 1) * factor + 1)
  stretched[::factor] = f
  return stretched


def _cut_out(
  x: Float[Array, 'n h w c'], centre: Float[Array, 'n 2']
) -> Float[Array, 'n h w c']:
  """Blanks a rectangle of half the height and width about a centre."""
  columns, rows = (
    jnp.abs((jnp.arange(size) + 0.5) / size - centre[:, i : i + 1])
    < _CUTOUT_SIZE / 2
    for i, size in ((0, x.shape[2]), (1, x.shape[1]))
  )
  cut = rows[:, :, None] & columns[:, None, :]
  return jnp.where(cut[:, :, :, None], 0.0, x)
