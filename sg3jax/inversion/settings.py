"""Settings of projection, and the schedules that they describe."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from sg3jax.nets import spec as spec_lib
from sg3jax.types import Array

SPACES = ('w', 'w+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings of a projection.

  Attributes:
    space: 'w' for one style in all layers, 'w+' for one style per layer.
    transform: 'fixed' to hold the rotation and translation of the input,
      'free' to optimise them, 'later' to hold them for the first third of the
      steps; None for 'later' if the generator takes transforms.
    steps: Number of steps of Adam.
    refine_steps: Number of steps of the last phase, each of which evaluates the
      error once; 0 for none.
    learning_rate: Largest step of Adam, in units of the styles' scale.
    ramp_up: Fraction of the steps in which the learning rate rises from 0.
    ramp_down: Fraction of the steps in which it falls to 0, like a cosine.
    style_noise: Initial noise on styles, as a fraction of their distance from
      the mean.
    style_noise_until: Fraction of the steps after which there is no noise.
    noise_weight: Factor on the penalty of noise inputs.
    optimize_noise: Whether to optimise the generator's noise inputs, if any.
    candidates: Number of random styles of which the closest is the start; 0 to
      start from the mean.
    stop_psnr: PSNR in dB at which an image is finished; None for no limit.
    steps_per_check: Number of steps between two looks at the images.
    seed: Random seed.

  Raises:
    ValueError: If a value is out of range; the message names the field.
  """

  space: str = 'w+'
  transform: str | None = None
  steps: int = 1000
  refine_steps: int = 400
  learning_rate: float = 0.1
  ramp_up: float = 0.05
  ramp_down: float = 0.25
  style_noise: float = 0.05
  style_noise_until: float = 0.75
  noise_weight: float = 1e5
  optimize_noise: bool = True
  candidates: int = 256
  stop_psnr: float | None = None
  steps_per_check: int = 25
  seed: int = 0

  def __post_init__(self):
    spec_lib.check_choice('space', self.space, SPACES)
    for name in ('steps', 'steps_per_check'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'{name} must be at least 1, got {getattr(self, name)}'
        )
    if self.refine_steps < 0:
      raise ValueError(
        f'refine_steps must be at least 0, got {self.refine_steps}'
      )
    if not 0 < self.learning_rate <= 10:
      raise ValueError(
        f'learning_rate must be in (0, 10], got {self.learning_rate}: 0.1 '
        'suits most models'
      )

  def rate_at(self, step: Any) -> Array:
    """Returns the learning rate: rises linearly, falls like a cosine."""
    t = step / self.steps
    # The first step must not be lost to a rate of 0.
    up = (step + 1) / max(self.ramp_up * self.steps, 1)
    down = jnp.minimum((1 - t) / max(self.ramp_down, 1e-9), 1)
    down = 0.5 - 0.5 * jnp.cos(jnp.pi * down)
    rate = self.learning_rate * jnp.minimum(up, 1) * down
    return jnp.asarray(rate, jnp.float32)

  def noise_at(self, step: Any) -> Array:
    """Returns the noise on styles, in units of their distance from the mean."""
    t = step / self.steps / max(self.style_noise_until, 1e-9)
    return self.style_noise * jnp.square(jnp.maximum(1 - t, 0))
