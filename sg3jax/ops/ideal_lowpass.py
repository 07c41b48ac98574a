"""A nonlinearity between ideal low-pass filters, with Fourier transforms.

A popular interpretation of the paper replaces its windowed filters by a brick
wall in the Fourier domain. It is provided for comparison: its impulse response
rings across the whole image, and its borders are periodic.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.ops.bias_act import bias_act
from sg3jax.ops.dtypes import widen
from sg3jax.types import AnyArray, Array


def ideal_filtered_lrelu(
  x: Float[AnyArray, 'n h w c'],
  b: Float[AnyArray, ' c'],
  *,
  up: int,
  down: int,
  up_cutoff: float,
  down_cutoff: float,
  size: int,
  gain: float,
  slope: float,
  clamp: float | None = None,
) -> Float[Array, 'n size size c']:
  """Adds a bias, upsamples, applies the leaky ReLU and downsamples.

  Args:
    x: Activations of any float dtype; computed in float32 or wider.
    b: Bias, one value for each channel.
    up: Upsampling factor, at least 1.
    down: Downsampling factor, at least 1.
    up_cutoff: Frequency from which the upsampled signal is zero, in cycles per
      sample of the upsampled signal.
    down_cutoff: Frequency from which the signal is zero before it is
      downsampled, in cycles per sample of the upsampled signal.
    size: Samples per side of the result, which is cropped about its centre.
    gain: Factor on the output of the leaky ReLU.
    slope: Slope of the leaky ReLU for negative values.
    clamp: Bound on the magnitude between the filters, or None.

  Returns:
    The activations [n, size, size, c], in the dtype of x.

  Raises:
    ValueError: If the result is smaller than `size`, or differs from it by an
      odd number of samples and cannot be cropped about its centre.
  """
  x = jnp.asarray(x)
  y = bias_act(x.astype(widen(x.dtype)), b)
  y = ideal_resample(y, up=up, cutoff=up_cutoff)
  y = bias_act(y, activation='lrelu', gain=gain, slope=slope, clamp=clamp)
  y = ideal_resample(y, down=down, cutoff=down_cutoff)
  border, odd = divmod(y.shape[1] - size, 2)
  if border < 0 or odd:
    raise ValueError(
      f'size must be at most {y.shape[1]}, and differ from it by an even '
      f'number, got {size}.'
    )
  y = y[:, border : border + size, border : border + size]
  return y.astype(x.dtype)


def ideal_resample(
  x: Float[Array, 'n h w c'], *, up: int = 1, down: int = 1, cutoff: float
) -> Float[Array, 'n h2 w2 c']:
  """Resamples with a brick-wall filter, which keeps the centre in place.

  Borders are periodic.

  Args:
    x: Activations, float32 or wider.
    up: Upsampling factor.
    down: Downsampling factor, a divisor of the upsampled size.
    cutoff: Frequency from which the spectrum is zero, in cycles per sample of
      the upsampled signal, at most 1/2.

  Returns:
    The activations, with h2 = h up / down and w2 = w up / down.
  """
  for axis in (1, 2):
    x = _resample(x, axis, up, down, cutoff)
  return x


def _resample(x: Array, axis: int, up: int, down: int, cutoff: float) -> Array:
  x = jnp.moveaxis(x, axis, -1)
  size = x.shape[-1] * up
  zeros = jnp.zeros((*x.shape, up - 1), x.dtype)
  x = jnp.concatenate([x[..., None], zeros], -1).reshape(*x.shape[:-1], size)
  frequencies = np.fft.rfftfreq(size)
  # Zeros follow each sample, and the first of every `down` samples is kept.
  # Shift by half of both, so that the centre stays in place.
  shift = (up - 1) / 2 - (down - 1) / 2
  response = (
    up * (frequencies < cutoff) * np.exp(-2j * np.pi * frequencies * shift)
  )
  spectrum = jnp.fft.rfft(x)
  spectrum = spectrum * jnp.asarray(response, spectrum.dtype)[None, None, None]
  x = jnp.fft.irfft(spectrum, size)[..., ::down]
  return jnp.moveaxis(x, -1, axis)
