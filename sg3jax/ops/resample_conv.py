"""Convolution combined with filtered up- or downsampling (StyleGAN2)."""

import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.ops import conv, upfirdn
from sg3jax.types import AnyArray, Array


def resample_conv(
  x: Float[AnyArray, 'n h w i'],
  w: Float[AnyArray, 'k k i o'],
  f: Float[AnyArray, ' t'],
  *,
  down: int = 1,
  up: int = 1,
) -> Float[Array, 'n h2 w2 o']:
  """Convolves with "same" padding, and low-pass filters where the rate changes.

  Downsampling filters first, then convolves at every down-th position.
  Upsampling is the adjoint, scaled by up**2 to keep the mean: a transposed
  convolution, which spreads every input over the kernel `w` (the kernel is
  convolved with the zero-stuffed input, not correlated), then the filter. Both
  treat the input as surrounded by zeros and crop nothing in between, so filter
  and kernel act as one long kernel, centred on the areas of the pixels.
  Differentiable to any order in reverse mode.

  Args:
    x: Activations of any float dtype, which is that of all computations.
    w: Square kernel of odd side, cast to the dtype of `x`.
    f: Separable low-pass filter, sum 1; unused if both factors are 1.
    down: Downsampling factor.
    up: Upsampling factor; it or `down` must be 1.

  Returns:
    [n, h * up / down, w * up / down, o], rounded up, in the dtype of `x`.

  Raises:
    ValueError: If the kernel's side is even, or both factors are above 1.
  """
  k = w.shape[0]
  if k % 2 == 0:
    raise ValueError(f'the side of the kernel must be odd, got {k}.')
  if up > 1 and down > 1:
    raise ValueError(f'up or down must be 1, got {up} and {down}.')
  x = jnp.asarray(x)
  w = jnp.asarray(w, x.dtype)
  taps = f.shape[0]
  half = k // 2

  if up > 1:
    # The full convolution exceeds the upsampled input by k // 2 samples at the
    # front and by k // 2 - (up - 1) at the back.
    x = conv.conv2d(x, w[::-1, ::-1], padding=k - 1, dilation=up)
    low = (taps + up - 1) // 2 - half
    high = (taps - up) // 2 - half + up - 1
    edges = ((low, high), (low, high))
    return upfirdn.upfirdn(x, f, padding=edges, gain=up**2)

  if down > 1:
    low, high = (taps - down + 1) // 2, (taps - down) // 2
    if k == 1:
      # The filter commutes with a 1 x 1 kernel: decimate before convolving.
      edges = ((low, high), (low, high))
      return conv.conv2d(upfirdn.upfirdn(x, f, down=down, padding=edges), w)
    edges = ((low + half, high + half), (low + half, high + half))
    return conv.conv2d(upfirdn.upfirdn(x, f, padding=edges), w, stride=down)

  return conv.conv2d(x, w, padding=half)
