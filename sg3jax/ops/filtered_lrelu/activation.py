"""The pointwise part of `filtered_lrelu` and its derivative."""

import jax.numpy as jnp

from sg3jax.ops.filtered_lrelu.plan import Plan
from sg3jax.types import Array


def activate(plan: Plan, y: Array) -> Array:
  """Returns clip(gain * leaky_relu(y), -clamp, clamp)."""
  y = y * jnp.where(y >= 0, plan.gain, plan.gain * plan.slope).astype(y.dtype)
  return y if plan.clamp is None else jnp.clip(y, -plan.clamp, plan.clamp)


def derivative(plan: Plan, y: Array) -> Array:
  """Returns d activate / dy: one of gain, gain * slope and zero."""
  slope = jnp.where(y >= 0, plan.gain, plan.gain * plan.slope).astype(y.dtype)
  if plan.clamp is None:
    return slope
  return jnp.where(jnp.abs(y * slope) < plan.clamp, slope, 0)
