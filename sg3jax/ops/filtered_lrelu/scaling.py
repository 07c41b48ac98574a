"""Factors and bias that a chain takes in with its operands, before and after.

A modulated convolution leaves a factor for each sample and channel to be
multiplied in behind it (the demodulation), and the next one wants its input
multiplied (the style). A kernel that does both saves two passes over the
feature maps in memory.
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
    bias: Added to the first operand after that, [c], or None.
    result: Factors of the result, float32 [n, c], or None for 1.

  To plan without data, shapes and dtypes can stand for the arrays.
  """

  operands: tuple[Any, Any] = (None, None)
  bias: Any = None
  result: Any = None

  def enter(self, *operands: Array) -> tuple[Array, ...]:
    """Returns the scaled, biased operands, in their dtypes."""
    first, *rest = map(scale_channels, operands, self.operands)
    if self.bias is not None:
      # In the operand's dtype: widened, XLA relays the feature map out on TPUs.
      first = first + self.bias.astype(first.dtype)[None, None, None]
    return (first, *rest)

  def leave(self, result: Array) -> Array:
    """Returns the scaled result, in its dtype."""
    return scale_channels(result, self.result)


NONE = Scaling()


def sum_pixels(*xs: Array) -> Array:
  """Returns the sum of products over the pixels, [n, c], float32 or wider."""
  # Thousands of 16-bit terms would not survive a 16-bit sum.
  wide = widen(*(x.dtype for x in xs))
  product = xs[0].astype(wide)
  for x in xs[1:]:
    product = product * x.astype(wide)
  return jnp.sum(product, (1, 2))


def divide(x: Array, factors: Array) -> Array:
  """Returns x / factors, zero where a factor is."""
  is_zero = factors == 0
  return jnp.where(is_zero, 0, x / jnp.where(is_zero, 1, factors))
