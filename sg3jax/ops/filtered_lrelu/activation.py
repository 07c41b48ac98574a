"""The pointwise part of `filtered_lrelu` and its derivative."""

import dataclasses

import jax.numpy as jnp

from sg3jax.types import Array


@dataclasses.dataclass(frozen=True)
class Activation:
  """The function clip(gain * leaky_relu(y), -clamp, clamp).

  Attributes:
    gain: Factor on the output of the leaky ReLU.
    slope: Slope of the leaky ReLU for negative inputs.
    clamp: Bound on the magnitude after the gain, or None.
  """

  gain: float
  slope: float
  clamp: float | None

  def combine(self, *ys: Array) -> Array:
    """Returns the activation of y; of (y, v), its derivative at y times v."""
    if len(ys) == 1:
      return self.value(ys[0])
    y, v = ys
    return self.derivative(y) * v

  def value(self, y: Array) -> Array:
    """Returns the activation of y."""
    y = y * self._slopes(y)
    return y if self.clamp is None else jnp.clip(y, -self.clamp, self.clamp)

  def derivative(self, y: Array) -> Array:
    """Returns the derivative at y: one of gain, gain * slope and zero."""
    slopes = self._slopes(y)
    if self.clamp is None:
      return slopes
    return jnp.where(jnp.abs(y * slopes) < self.clamp, slopes, 0)

  def _slopes(self, y: Array) -> Array:
    steep, flat = (
      jnp.asarray(value, y.dtype)
      for value in (self.gain, self.gain * self.slope)
    )
    return jnp.where(y >= 0, steep, flat)
