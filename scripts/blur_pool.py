"""Anti-aliased pooling, a relative of the alias-free layers, for comparison.

Zhang 2019, "Making Convolutional Networks Shift-Invariant Again".
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.ops.upfirdn import upfirdn
from sg3jax.types import AnyArray, Array


def binomial(taps: int) -> Float[np.ndarray, ' t']:
  """Returns the binomial filter of so many taps, sum 1.

  Raises:
    ValueError: If there are none.
  """
  if taps < 1:
    raise ValueError(f'taps must be at least 1, is {taps}')
  f = np.ones(1)
  for _ in range(taps - 1):
    f = np.convolve(f, [0.5, 0.5])
  return f


def blur_pool(
  x: Float[AnyArray, 'n h w c'], *, taps: int = 3, stride: int = 2
) -> Float[Array, 'n h2 w2 c']:
  """Blurs and subsamples, with periodic borders.

  Args:
    x: Activations.
    taps: Length of the binomial filter; 1 subsamples alone.
    stride: Every so many samples are kept; it divides h and w.

  Returns:
    h2 = h / stride, w2 = w / stride, in the dtype of x.

  Raises:
    ValueError: If there are no taps, or the stride does not divide the size.
  """
  x = jnp.asarray(x)
  f = binomial(taps)
  if x.shape[1] % stride or x.shape[2] % stride:
    raise ValueError(
      f'a stride of {stride} does not divide {x.shape[1]}x{x.shape[2]} samples'
    )
  low = (taps - 1) // 2
  border = (low, taps - 1 - low)
  x = jnp.pad(x, ((0, 0), border, border, (0, 0)), mode='wrap')
  return upfirdn(x, f, down=stride)
