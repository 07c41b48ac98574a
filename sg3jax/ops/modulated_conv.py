"""Modulated convolution: every sample is convolved with its own scaled kernel.

The textbook form builds one kernel per sample, `w * s[n]`, and runs a grouped
convolution. Here the activations are scaled instead, before and after a single
plain convolution. The result is the same (a scale on an input or an output
channel commutes with the convolution), no kernel per sample is materialised,
and a batch sharded over devices needs no collective for the convolution.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from sg3jax.ops import conv, resample_conv
from sg3jax.ops.dtypes import widen
from sg3jax.types import AnyArray, Array


class Modulation(NamedTuple):
  """A modulated convolution, as a plain convolution between two scalings.

  Attributes:
    kernel: [k, k, i, o].
    input_scale: Factors on the input's channels, [n, i].
    output_scale: Factors on the output's channels, [n, o], or None for 1.
  """

  kernel: Array
  input_scale: Array
  output_scale: Array | None

  def padded(self, inputs: int, outputs: int) -> 'Modulation':
    """Returns the modulation with channels added that read and write zeros.

    Args:
      inputs: Input channels afterwards, at least the present number.
      outputs: Output channels afterwards, at least the present number.
    """
    scale = self.output_scale
    return Modulation(
      pad_channels(pad_channels(self.kernel, inputs, axis=-2), outputs),
      pad_channels(self.input_scale, inputs),
      None if scale is None else pad_channels(scale, outputs),
    )


def modulate(
  w: Float[AnyArray, 'k k i o'],
  styles: Float[AnyArray, 'n i'],
  *,
  demodulate: bool = True,
  input_gain: Float[AnyArray, ''] | float | None = None,
) -> Modulation:
  """Returns the kernel and the scales of `modulated_conv` with these arguments.

  For callers whose operators before and after the convolution can apply the
  scales without another pass over memory. The result is in float32, or wider if
  an operand is wider.
  """
  wide = widen(w.dtype, styles.dtype)
  w = jnp.asarray(w, wide)
  styles = jnp.asarray(styles, wide)

  demodulation = None
  if demodulate:
    w = w * lax.rsqrt(jnp.sum(jnp.square(w), (0, 1, 2), keepdims=True))
    styles = styles * lax.rsqrt(jnp.mean(jnp.square(styles)))
    power = jnp.einsum(
      'ni,io->no',
      jnp.square(styles),
      jnp.sum(jnp.square(w), axis=(0, 1)),
      precision=lax.Precision.HIGHEST,
    )
    # The epsilon is defined for kernels of unit RMS, whose power is fan-in
    # times this one. With the fan-in divided out, the result of a convolution
    # has the magnitude of its input, within the range of float16.
    fan_in = w.shape[0] * w.shape[1] * w.shape[2]
    demodulation = lax.rsqrt(power + 1e-8 / fan_in)
  if input_gain is not None:
    # Apply it before the convolution, where it brings `x` to unit magnitude.
    styles = styles * jnp.asarray(input_gain, wide)
  return Modulation(w, styles, demodulation)


def modulated_conv(
  x: Float[AnyArray, 'n h w i'],
  w: Float[AnyArray, 'k k i o'],
  styles: Float[AnyArray, 'n i'],
  *,
  demodulate: bool = True,
  padding: int = 0,
  input_gain: Float[AnyArray, ''] | float | None = None,
  up: int = 1,
  up_filter: Float[AnyArray, ' t'] | None = None,
) -> Float[Array, 'n h2 w2 o']:
  """Convolves `x` with kernels modulated by per-sample styles.

  With `demodulate`, the kernel is first divided by its norm per output channel
  and the styles by their RMS over the whole (global) batch; neither changes
  the result, up to the demodulation's epsilon, but both keep float16 in range.
  The output is then scaled to unit expected variance for unit-variance input:
  d[n,o] = 1 / sqrt(sum_kki (w s)^2 + 1e-8). Section 2 of the StyleGAN2 paper
  describes the operation, and appendix D.1 of the StyleGAN3 paper its use.

  Args:
    x: Activations of any float dtype; the convolution runs in that dtype.
    w: Kernel, square, normally float32.
    styles: One scale per sample and input channel.
    demodulate: Whether to demodulate. Without it, `w` and `styles` are used
      unchanged.
    padding: Zeros on every side; k - 1 gives the full convolution, k // 2 keeps
      the size of the input if k is odd.
    input_gain: A scalar on the input that demodulation ignores: the reciprocal
      RMS of `x`, tracked by a moving average.
    up: Upsampling factor, as in the layers of StyleGAN2: see `resample_conv`,
      which pads by itself.
    up_filter: Low-pass filter, required if `up` is above 1.

  Returns:
    [n, h + 2 padding - k + 1, w + 2 padding - k + 1, o], or [n, h up, w up, o]
    if `up` is above 1, in the dtype of `x`. Scales are computed in float32 (or
    wider, if an operand is wider).

  Raises:
    ValueError: If padding is negative, or if `up` is above 1 and padding is
      given or the filter is missing.
  """
  if up > 1 and (padding or up_filter is None):
    raise ValueError(
      f'upsampling by {up} must have an up_filter and no padding, got '
      f'{"no filter" if up_filter is None else "a filter"} and padding '
      f'{padding}.'
    )
  x = jnp.asarray(x)
  kernel, input_scale, output_scale = modulate(
    w, styles, demodulate=demodulate, input_gain=input_gain
  )
  x = scale_channels(x, input_scale)
  if up_filter is not None and up > 1:
    y = resample_conv.resample_conv(x, kernel, up_filter, up=up)
  else:
    y = conv.conv2d(x, kernel, padding=padding)
  return scale_channels(y, output_scale)


def pad_channels(x: Array, channels: int, axis: int = -1) -> Array:
  """Appends zeros along an axis up to a number of channels."""
  edges = [(0, 0)] * x.ndim
  edges[axis] = (0, channels - x.shape[axis])
  return jnp.pad(x, edges)


def scale_channels(
  x: Float[Array, 'n h w c'], scale: Float[Array, 'n c'] | None
) -> Float[Array, 'n h w c']:
  """Returns x with channels scaled per sample, in its dtype; None is 1.

  The product and the gradient of the scale are computed in float32 or wider.
  """
  if scale is None:
    return x
  wide = widen(x.dtype, scale.dtype)
  return (x.astype(wide) * scale.astype(wide)[:, None, None]).astype(x.dtype)
