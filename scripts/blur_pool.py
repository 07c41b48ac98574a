"""Implements anti-aliased pooling, for comparison with the alias-free layers.

See Zhang 2019, "Making Convolutional Networks Shift-Invariant Again".
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.ops.upfirdn import upfirdn
from sg3jax.types import AnyArray, Array


def binomial(taps: int) -> Float[np.ndarray, ' t']:
  """Returns the binomial filter with the given number of taps and sum 1.

  Raises:
    ValueError: If `taps` is below 1.
  """
  if taps < 1:
    raise ValueError(f'taps must be at least 1, got {taps}')
  f = np.ones(1)
  for _ in range(taps - 1):
    f = np.convolve(f, [0.5, 0.5])
  return f


def blur_pool(
  x: Float[AnyArray, 'n h w c'], *, taps: int = 3, stride: int = 2
) -> Float[Array, 'n h2 w2 c']:
  """Blurs and subsamples with periodic borders.

  Args:
    x: Activations [n, h, w, c].
    taps: Length of the binomial filter; 1 subsamples without blur.
    stride: Subsampling factor, which must divide h and w.

  Returns:
    Activations [n, h / stride, w / stride, c] in the dtype of x.

  Raises:
    ValueError: If `taps` is below 1, or the stride does not divide h and w.
  """
  x = jnp.asarray(x)
  f = binomial(taps)
  if x.shape[1] % stride or x.shape[2] % stride:
    raise ValueError(
      f'stride must divide {x.shape[1]} rows and {x.shape[2]} columns, got '
      f'{stride}'
    )
  low = (taps - 1) // 2
  border = (low, taps - 1 - low)
  x = jnp.pad(x, ((0, 0), border, border, (0, 0)), mode='wrap')
  return upfirdn(x, f, down=stride)
