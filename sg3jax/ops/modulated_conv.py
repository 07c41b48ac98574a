"""Modulated convolution: every sample convolves with its own scaled kernel.

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
  """A modulated convolution as a plain one between two scalings.

  Attributes:
    kernel: [k, k, i, o].
    input_scale: Factors on the input's channels, [n, i].
    output_scale: Factors on the output's channels, [n, o], or None for 1.
  """

  kernel: Array
  input_scale: Array
  output_scale: Array | None

  def padded(self, inputs: int, outputs: int) -> 'Modulation':
    """Returns it for more channels; the added ones read and write zeros.

    Args:
      inputs: Channels of the input, at least as many as there are.
      outputs: Channels of the output, likewise.
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
  """Returns what `modulated_conv` with these arguments scales and convolves by.

  For those who can scale in passing: the kernel in front of the convolution, or
  behind it. In float32, or wider if an operand is wider.
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
    # The epsilon is that of kernels of unit RMS, whose power is fan-in times
    # this one: with the fan-in divided out, convolutions stay at the magnitude
    # of their inputs, within the range of float16.
    fan_in = w.shape[0] * w.shape[1] * w.shape[2]
    demodulation = lax.rsqrt(power + 1e-8 / fan_in)
  if input_gain is not None:
    # In front of the convolution, where it brings `x` to unit magnitude.
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
  d[n,o] = 1 / sqrt(sum_kki (w s)^2 + 1e-8). Paper: section 2 of the StyleGAN2
  paper for the operation, appendix D.1 of the StyleGAN3 paper for its use.

  Args:
    x: Activations of any float dtype; the convolution runs in it.
    w: Kernel, square, normally float32.
    styles: One scale per sample and input channel.
    demodulate: Whether to demodulate. Without it, `w` and `styles` are used as
      they are given.
    padding: Zeros on every side; k - 1 gives the full convolution, k // 2 keeps
      the size of an odd kernel's input.
    input_gain: A scalar that scales the input, invisible to the demodulation:
      the reciprocal RMS of `x` as tracked by a moving average.
    up: Upsampling factor, as StyleGAN2's layers have it: see `resample_conv`,
      which pads by itself.
    up_filter: Its low-pass filter, needed if `up` is above 1.

  Returns:
    [n, h + 2 padding - k + 1, w + 2 padding - k + 1, o], or [n, h up, w up, o]
    if `up` is above 1, in the dtype of `x`. Scales are computed in float32 (or
    wider, if an operand is wider).

  Raises:
    ValueError: If padding is negative, or given beside `up`, or `up` without
      its filter.
  """
  if up > 1 and (padding or up_filter is None):
    raise ValueError(
      f'to upsample by {up} takes an up_filter and no padding: got '
      f'{"none" if up_filter is None else "one"} and padding {padding}.'
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
  """Appends zeros along an axis, up to so many channels."""
  edges = [(0, 0)] * x.ndim
  edges[axis] = (0, channels - x.shape[axis])
  return jnp.pad(x, edges)


def scale_channels(
  x: Float[Array, 'n h w c'], scale: Float[Array, 'n c'] | None
) -> Float[Array, 'n h w c']:
  """Scales channels per sample, in the dtype of x; None is 1.

  The product and the gradient of the scale are computed in float32 or wider.
  """
  if scale is None:
    return x
  wide = widen(x.dtype, scale.dtype)
  return (x.astype(wide) * scale.astype(wide)[:, None, None]).astype(x.dtype)
