"""Controls the strength of augmentation: fixed, or adaptive (ADA).

With few training images, the discriminator memorizes them and classifies all
of them as real: r_t, the mean sign of its logits of real images, approaches
one. Raising the probability p of the augmentations whenever r_t exceeds a
target, and lowering it otherwise, keeps r_t there (math.md 5.2).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int

from sg3jax.types import AnyArray, Array

# Above this p, augmentations may leak into generated images.
HEALTHY_P = 0.8


class AdaState(NamedTuple):
  """State of the adaptation, part of the training state.

  Attributes:
    p: Probability of each augmentation, float32 [] in [0, 1].
    sign_sum: Sum of the signs of D(real) since p was last adapted, float32 [].
    sign_count: Number of these signs, float32 [].
  """

  p: Array
  sign_sum: Array
  sign_count: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """The augmentations and their probability.

  Attributes:
    ops: Operators; see `augment.get_ops`.
    fixed_p: Probability of each operator, in [0, 1]; None to adapt it.
    target: The r_t to maintain.
    speed_kimg: Thousands of images in which p could go from 0 to 1.
    interval: Steps from one adaptation to the next.
  """

  ops: tuple[str, ...]
  fixed_p: float | None = None
  target: float = 0.6
  speed_kimg: float = 500.0
  interval: int = 4

  def init(self) -> AdaState | None:
    """Returns the initial state with p = 0; None if p is fixed."""
    if self.fixed_p is not None:
      return None
    # Use three arrays, because an array cannot be donated twice.
    return AdaState(*(jnp.zeros((), jnp.float32) for _ in AdaState._fields))

  def probability(self, state: AdaState | None) -> Float[AnyArray, ''] | float:
    """Returns p."""
    if state is None:
      assert self.fixed_p is not None
      return self.fixed_p
    return state.p

  def adapt(
    self,
    state: AdaState | None,
    signs: Float[AnyArray, 'moments=3'],
    step: Int[AnyArray, ''],
    batch: int,
  ) -> AdaState | None:
    """Returns the state after a step; p changes every `interval` steps.

    Args:
      state: The state before the step.
      signs: Moments of sign(D(real)) of the step, over the global batch.
      step: Number of steps done, including this one.
      batch: Number of real images per step, assumed for the whole interval.
    """
    if state is None:
      return None
    # Ignore scores that are not finite: they would make p NaN forever.
    signs = jnp.where(jnp.isfinite(signs[1]), jnp.asarray(signs), 0.0)
    count = state.sign_count + signs[0]
    total = state.sign_sum + signs[1]
    change = batch * self.interval / (self.speed_kimg * 1000)
    moved = state.p + change * jnp.sign(total - self.target * count)
    # Above 1 nothing more can happen to an image, but p would take long to
    # decrease again.
    moved = jnp.clip(moved, 0.0, 1.0)
    due = step % self.interval == 0
    return AdaState(
      p=jnp.where(due, moved, state.p),
      sign_sum=jnp.where(due, 0.0, total),
      sign_count=jnp.where(due, 0.0, count),
    )
