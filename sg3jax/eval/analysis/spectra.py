"""Average power spectra of sets of images (paper Fig. 13).

An image is normalised with the mean and the standard deviation of a whole set,
multiplied by a Kaiser window of unit energy, padded with zeros and transformed.
The squared magnitudes are averaged over channels and images. The real images
and those of all models are normalised with the same two numbers, so that their
spectra can be compared.
"""

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Float, UInt8

from sg3jax.types import AnyArray, Array

BETA = 8.0  # Shape of the Kaiser window.
INTERP = 4  # Factor of the zero padding.
SMOOTH = 1.25  # Standard deviation of the smoothing, in cycles per image.

# Batches of any size.
Batches = Iterable[UInt8[np.ndarray, '_ h w c']]

_FLOOR = 1e-30  # Power of an empty bin, whose logarithm must be finite.


@dataclasses.dataclass(frozen=True)
class Statistics:
  """The mean and standard deviation over all pixels and channels of a set.

  Attributes:
    mean: In grey levels, 0 to 255.
    std: In grey levels; the population's, normalised by the number of values.
  """

  mean: float
  std: float


def measure_statistics(batches: Batches) -> Statistics:
  """Returns the mean and standard deviation of a set of images.

  Args:
    batches: Batches of images, uint8 [n, h, w, c].

  Raises:
    ValueError: If there are no images, or all values are equal.
  """
  # Integers are exact, so that the result does not depend on the batches.
  count = total = squares = 0
  for batch in batches:
    values = batch.astype(np.int64)
    count += values.size
    total += int(values.sum())
    squares += int(np.square(values).sum())
  variance = count * squares - total**2
  if not variance:
    raise ValueError(
      'the images of a spectrum must have at least two different values, got '
      f'{"one" if count else "no images"}'
    )
  return Statistics(total / count, variance**0.5 / count)


def average_spectrum(
  batches: Batches,
  statistics: Statistics,
  *,
  beta: float = BETA,
  interp: int = INTERP,
) -> Float[np.ndarray, 's s']:
  """Returns the average power spectrum of a set of square images.

  Args:
    batches: Batches of images, uint8 [n, h, h, c]. All but the last should have
      the same size, so that only few programs are compiled.
    statistics: The normalisation.
    beta: Shape of the Kaiser window.
    interp: Factor of the zero padding.

  Returns:
    Power, float64 [h * interp, h * interp], with the zero frequency first.
    White noise of unit variance has power 1 everywhere.

  Raises:
    ValueError: If there are no images.
  """
  total: np.ndarray | None = None
  count = 0
  for batch in batches:
    half = np.asarray(
      _half_spectrum(
        batch, statistics.mean, statistics.std, beta=beta, interp=interp
      ),
      np.float64,
    )
    total = half if total is None else total + half
    count += len(batch) * batch.shape[-1]
  if total is None:
    raise ValueError('a spectrum needs at least one image, got none')
  return _whole_spectrum(total / count)


@functools.partial(jax.jit, static_argnames=('beta', 'interp'))
def _half_spectrum(
  images: UInt8[AnyArray, 'n h w c'],
  mean: Float[AnyArray, ''] | float,
  std: Float[AnyArray, ''] | float,
  *,
  beta: float,
  interp: int,
) -> Float[Array, 's f']:
  """Returns the sum of the spectra, without negative horizontal frequencies."""
  size = images.shape[1]
  window = window_2d(size, beta).astype(np.float32)
  x = (jnp.asarray(images, jnp.float32) - mean) / std
  x = jnp.moveaxis(x, 3, 1).reshape(-1, size, size) * window
  # One image at a time: the padding takes `interp`² times the memory.
  padded = (size * interp, size * interp)
  power = jax.lax.map(
    lambda plane: jnp.square(jnp.abs(jnp.fft.rfft2(plane, s=padded))), x
  )
  return power.sum(0)


def _whole_spectrum(half: Float[np.ndarray, 's f']) -> np.ndarray:
  """Adds the negative horizontal frequencies, by the symmetry of real input."""
  size = len(half)
  mirrored = np.roll(half[::-1, 1 : size // 2][:, ::-1], 1, axis=0)
  return np.concatenate([half, mirrored], axis=1)


def window_2d(size: int, beta: float = BETA) -> Float[np.ndarray, 'h h']:
  """Returns a separable symmetric Kaiser window whose squares sum to 1."""
  window = np.kaiser(size, beta)
  window /= np.sqrt(np.square(window).sum())
  return np.outer(window, window)


def heatmap(
  spectrum: Float[AnyArray, 's s'], *, smooth: float | int = 0
) -> Float[np.ndarray, 'm m']:
  """Returns a spectrum in dB, with the zero frequency in the centre.

  Args:
    spectrum: The power spectrum, with the zero frequency first.
    smooth: Standard deviation of a Gaussian that smooths the decibels, in bins:
      `SMOOTH * INTERP` in the paper's plots.

  Returns:
    [s + 1, s + 1]: the lowest frequency is repeated as the highest one.
  """
  power = np.maximum(np.asarray(spectrum, np.float64), _FLOOR)
  decibels = np.pad(np.fft.fftshift(10 * np.log10(power)), (0, 1), mode='wrap')
  if not smooth:
    return decibels
  return scipy.ndimage.gaussian_filter(decibels, smooth, mode='nearest')


@dataclasses.dataclass(frozen=True)
class Slices:
  """A spectrum along two directions.

  Attributes:
    frequencies_0: Cycles per image along the horizontal axis, [m].
    decibels_0: Power along the horizontal axis, in dB [m].
    frequencies_45: Cycles per image along the diagonal, [m].
    decibels_45: Power along the diagonal, in dB [m].
  """

  frequencies_0: Float[np.ndarray, ' m']
  decibels_0: Float[np.ndarray, ' m']
  frequencies_45: Float[np.ndarray, ' m']
  decibels_45: Float[np.ndarray, ' m']


def take_slices(
  decibels: Float[AnyArray, 'm m'], *, interp: int = INTERP
) -> Slices:
  """Returns the slices of a heat map at 0 and at 45 degrees.

  Args:
    decibels: The result of `heatmap`.
    interp: The factor of the zero padding, which gives the unit of frequency.
  """
  x = np.asarray(decibels)
  center = len(x) // 2
  steps = np.arange(len(x) - center)
  frequencies = steps / interp
  return Slices(
    frequencies,
    x[center, center + steps],
    frequencies * np.sqrt(2),
    x[center + steps, center + steps],
  )
