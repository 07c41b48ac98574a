"""Scales and a bias that are applied to the operands and result of a chain.

The output of a modulated convolution has to be multiplied by a factor for each
sample and channel (the demodulation), and so has the input of the next one (the
style). A kernel that does both saves two passes over the feature maps.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from sg3jax.ops.dtypes import widen
from sg3jax.ops.modulated_conv import scale_channels
from sg3jax.types import Array


class Scaling(NamedTuple):
  """Scales and biases a chain's operands, and scales its result.

  Attributes:
    operands: Factors of the first and the second operand, float32 [n, c], or
      None for 1.
    bias: Bias added to the scaled first operand, [c], or None.
    result: Factors of the result, float32 [n, c], or None for 1.

  Shapes and dtypes can replace the arrays where no data is computed.
  """

  operands: tuple[Any, Any] = (None, None)
  bias: Any = None
  result: Any = None

  def enter(self, *operands: Array) -> tuple[Array, ...]:
    """Returns the scaled operands, the first one biased, in their dtypes."""
    first, *rest = map(scale_channels, operands, self.operands)
    if self.bias is not None:
      # Add in the operand's dtype: if it were widened, XLA would change the
      # layout of the feature map on TPUs.
      first = first + self.bias.astype(first.dtype)[None, None, None]
    return (first, *rest)

  def leave(self, result: Array) -> Array:
    """Returns the scaled result, in its dtype."""
    return scale_channels(result, self.result)


NONE = Scaling()


def sum_pixels(*xs: Array) -> Array:
  """Returns the sum of products over the pixels, [n, c], float32 or wider."""
  # A 16-bit sum of thousands of terms would be inaccurate.
  wide = widen(*(x.dtype for x in xs))
  product = xs[0].astype(wide)
  for x in xs[1:]:
    product = product * x.astype(wide)
  return jnp.sum(product, (1, 2))


def divide(x: Array, factors: Array) -> Array:
  """Returns x / factors, and zero where a factor is zero."""
  is_zero = factors == 0
  return jnp.where(is_zero, 0, x / jnp.where(is_zero, 1, factors))
