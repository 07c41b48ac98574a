"""Upsample, filter, downsample: the linear resampling of StyleGAN2 and 3.

It is defined as one convolution of a zero-stuffed, padded input with a short
filter, and computed in one of two ways. A depthwise convolution suits TPUs.
XLA's CPU backend and cuDNN have no fast depthwise convolution, but XLA fuses a
sum of shifted slices into one loop: with the four taps of a discriminator, that
is 20-60 times faster on a CPU and 16-20 times on an H100 (docs/performance.md).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from sg3jax.ops.dtypes import widen
from sg3jax.types import AnyArray, Array

Padding = tuple[tuple[int, int], tuple[int, int]]

# A sum of shifted slices takes about 3 ms per tap to compile on a CPU.
_MAX_UNROLLED_TAPS = 256


def upfirdn(
  x: Float[AnyArray, 'n h w c'],
  f: Float[AnyArray, ' t'] | Float[AnyArray, 't t2'],
  *,
  up: int = 1,
  down: int = 1,
  padding: Padding = ((0, 0), (0, 0)),
  gain: float | int = 1.0,
  flip: bool = False,
) -> Float[Array, 'n h2 w2 c']:
  """Upsamples, pads, filters and downsamples every channel of `x`.

  It inserts up - 1 zeros after each sample, pads with zeros, convolves with `f`
  at fully overlapping positions and keeps every down-th sample, beginning with
  the first. It consists of plain `lax` operations, and is differentiable to any
  order in both `x` and `f`.

  Args:
    x: Images or activations of any float dtype.
    f: Filter, 1-D if separable (applied along columns and along rows), or 2-D.
      It may be traced, for example for a blur that fades during training.
    up: Upsampling factor, at least 1.
    down: Downsampling factor, at least 1.
    padding: ((top, bottom), (left, right)), in samples after the upsampling.
      Negative padding crops.
    gain: Factor on the result; up**2 keeps the mean when upsampling.
    flip: Whether to correlate with `f` instead of convolving.

  Returns:
    [n, h2, w2, c] in the dtype of `x`, where
    h2 = (h * up + top + bottom - taps) // down + 1, and w2 likewise.

  Raises:
    ValueError: If a factor is not positive, or the filter is longer than the
      padded input.
  """
  if up < 1 or down < 1:
    raise ValueError(f'up and down must be at least 1, got {up} and {down}.')
  for axis in (0, 1):
    padded = x.shape[1 + axis] * up + sum(padding[axis])
    taps = f.shape[axis % f.ndim]
    if padded < taps:
      raise ValueError(
        f'a filter must have at most {padded} taps, got {taps}: '
        f'{x.shape[1 + axis]} samples, upsampled by {up} and padded by '
        f'{padding[axis]}, are too few. Increase the padding.'
      )

  x = jnp.asarray(x)
  # A NumPy filter stays NumPy, so that its taps are compiled as constants.
  xp = jnp if isinstance(f, jax.Array) else np
  f = xp.asarray(f, widen(x.dtype))
  if not flip:
    f = xp.flip(f)
  # A Python float does not change the dtype; a NumPy scalar does.
  gain = float(gain)
  if f.ndim == 2:
    return _resample(x, f * gain, (up, up), (down, down), padding)
  x = _resample(x, f[:, None] * gain, (up, 1), (down, 1), (padding[0], (0, 0)))
  return _resample(x, f[None, :], (1, up), (1, down), ((0, 0), padding[1]))


def _resample(
  x: jax.Array,
  f: AnyArray,
  up: tuple[int, int],
  down: tuple[int, int],
  padding: Padding,
) -> jax.Array:
  """Correlates with a 2-D filter, in the best form for the platform."""
  options = {'f': f, 'up': up, 'down': down, 'padding': padding}
  depthwise = functools.partial(_depthwise, **options)
  if f.size > _MAX_UNROLLED_TAPS:
    folded = functools.partial(_folded, **options)
    return lax.platform_dependent(x, cpu=folded, default=depthwise)
  shifted = functools.partial(_shifted_adds, **options)
  return lax.platform_dependent(x, tpu=depthwise, default=shifted)


def _depthwise(
  x: jax.Array,
  *,
  f: AnyArray,
  up: tuple[int, int],
  down: tuple[int, int],
  padding: Padding,
) -> jax.Array:
  """Filters by a convolution with one group per channel."""
  channels = x.shape[-1]
  kernel = jnp.asarray(f, x.dtype)[:, :, None, None]
  return lax.conv_general_dilated(
    x,
    jnp.broadcast_to(kernel, (*f.shape, 1, channels)),
    window_strides=down,
    padding=[(lo, hi + u - 1) for (lo, hi), u in zip(padding, up, strict=True)],
    lhs_dilation=up,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=channels,
    # There are few multiplications: a lower precision on the MXU saves nothing.
    precision=lax.Precision.HIGHEST,
  )


def _shifted_adds(
  x: jax.Array,
  *,
  f: AnyArray,
  up: tuple[int, int],
  down: tuple[int, int],
  padding: Padding,
) -> jax.Array:
  """Filters by a sum of scaled, strided slices of the padded input."""
  edges = [
    (lo, hi + u - 1, u - 1) for (lo, hi), u in zip(padding, up, strict=True)
  ]
  padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
  n, height, width, channels = padded.shape
  # One past the last sample that the first tap is applied to.
  stop_h = (height - f.shape[0]) // down[0] * down[0] + 1
  stop_w = (width - f.shape[1]) // down[1] * down[1] + 1
  total = 0.0
  for i in range(f.shape[0]):
    for j in range(f.shape[1]):
      window = lax.slice(
        padded,
        (0, i, j, 0),
        (n, i + stop_h, j + stop_w, channels),
        (1, *down, 1),
      )
      # Sum in the dtype of the filter, float32 or wider, and round once at the
      # end.
      total = total + window.astype(f.dtype) * f[i, j]
  return jnp.asarray(total, x.dtype)


def _folded(x: jax.Array, **options) -> jax.Array:
  """Filters by a convolution of single-channel images.

  This is for filters that are too long to unroll on a CPU, where Eigen has only
  an ungrouped convolution.
  """
  n, height, width, channels = x.shape
  x = jnp.moveaxis(x, 3, 1).reshape(n * channels, height, width, 1)
  y = _depthwise(x, **options)
  return jnp.moveaxis(y.reshape(n, channels, *y.shape[1:3]), 1, 3)
