"""Bias, activation, gain and clamp: the last steps of every StyleGAN2 layer."""

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from sg3jax.ops.dtypes import widen
from sg3jax.types import AnyArray, Array

Activation = Literal['linear', 'lrelu']

# Gains that preserve the variance of unit normal input (nearly, for lrelu).
DEFAULT_GAINS = {'linear': 1.0, 'lrelu': 2.0**0.5}


def bias_act(
  x: Float[AnyArray, '*batch c'],
  b: Float[AnyArray, ' c'] | None = None,
  *,
  activation: Activation | str = 'linear',
  gain: float | int | None = None,
  clamp: float | int | None = None,
  slope: float | int = 0.2,
) -> Float[Array, '*batch c']:
  """Computes clamp(gain * activation(x + b)).

  The result is differentiable to any order in both modes. At the kink of lrelu
  the derivative is that of the positive side; where the clamp is active it is
  0.

  Args:
    x: Values of any float dtype, channels last.
    b: Bias per channel, added in float32 or wider.
    activation: 'linear', or 'lrelu': x where x >= 0, else slope * x.
    gain: Factor after the activation; default sqrt(2) for lrelu, 1 for linear.
    clamp: Bound on the magnitude of the result, positive, or None.
    slope: Slope of lrelu for negative values.

  Returns:
    The result in the shape and dtype of `x`.

  Raises:
    ValueError: If the activation is unknown or the clamp is not positive.
  """
  if activation not in DEFAULT_GAINS:
    raise ValueError(
      f"activation must be one of {list(DEFAULT_GAINS)}, got '{activation}'."
    )
  if clamp is not None and clamp <= 0:
    raise ValueError(f'clamp must be positive or None, got {clamp}.')
  gain = float(DEFAULT_GAINS[activation] if gain is None else gain)

  x = jnp.asarray(x)
  if b is not None:
    # Add in float32, so that the gradient of the bias is also summed over the
    # feature map in float32: a 16-bit sum of thousands of terms is inaccurate.
    wide = widen(x.dtype)
    x = (
      x.astype(wide) + lax.expand_dims(jnp.asarray(b, wide), range(x.ndim - 1))
    ).astype(x.dtype)
  if activation == 'lrelu':
    x = jnp.where(x >= 0, x, x * float(slope))
  if gain != 1:
    x = x * gain
  if clamp is not None:
    limit = jnp.asarray(clamp, x.dtype)
    x = lax.clamp(-limit, x, limit)
  return x
