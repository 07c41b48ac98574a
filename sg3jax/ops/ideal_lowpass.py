"""A nonlinearity between ideal low-pass filters, by Fourier transforms.

A popular reading of the paper replaces its windowed filters by a brick wall in
the Fourier domain. It is here for comparison: the impulse response rings over
the whole image, and the borders are periodic.
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
    x: Activations of any float dtype; it computes in float32 or wider.
    b: Bias, one value for each channel.
    up: Upsampling factor, at least 1.
    down: Downsampling factor, at least 1.
    up_cutoff: Frequency above which the upsampled signal is zero, in cycles per
      sample of that signal.
    down_cutoff: Frequency above which the signal is cut off before it is
      downsampled, in cycles per sample of that signal.
    size: Samples a side of the result, cropped about the centre.
    gain: Factor on the leaky ReLU.
    slope: Slope of its negative part.
    clamp: Bound of the result's magnitude between the filters, or None.

  Returns:
    The activations [n, size, size, c], in the dtype of x.

  Raises:
    ValueError: If the result would be smaller than `size`, or cannot be cropped
      about its centre.
  """
  x = jnp.asarray(x)
  y = bias_act(x.astype(widen(x.dtype)), b)
  y = ideal_resample(y, up=up, cutoff=up_cutoff)
  y = bias_act(y, activation='lrelu', gain=gain, slope=slope, clamp=clamp)
  y = ideal_resample(y, down=down, cutoff=down_cutoff)
  border, odd = divmod(y.shape[1] - size, 2)
  if border < 0 or odd:
    raise ValueError(
      f'a map of {y.shape[1]} samples a side cannot be cropped to {size}'
    )
  y = y[:, border : border + size, border : border + size]
  return y.astype(x.dtype)


def ideal_resample(
  x: Float[Array, 'n h w c'], *, up: int = 1, down: int = 1, cutoff: float
) -> Float[Array, 'n h2 w2 c']:
  """Resamples by a brick wall, with periodic borders and the centre kept.

  Args:
    x: Activations, float32 or wider.
    up: Upsampling factor.
    down: Downsampling factor, which divides the upsampled size.
    cutoff: Frequency from which on nothing is left, cycles a sample of the
      upsampled signal, at most half a cycle.

  Returns:
    h2 = h up / down, and w2 likewise.
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
  # The zeros stand behind each sample, and the first of `down` is kept: shift
  # by half of either, so that the centre stays where it is.
  shift = (up - 1) / 2 - (down - 1) / 2
  response = (
    up * (frequencies < cutoff) * np.exp(-2j * np.pi * frequencies * shift)
  )
  spectrum = jnp.fft.rfft(x)
  spectrum = spectrum * jnp.asarray(response, spectrum.dtype)[None, None, None]
  x = jnp.fft.irfft(spectrum, size)[..., ::down]
  return jnp.moveaxis(x, -1, axis)
