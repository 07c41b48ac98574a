"""The strength of augmentation: a fixed probability, or an adaptive one (ADA).

Where the training images are few, the discriminator comes to know them by heart
and calls all of them real: the mean sign of its logits of real images, r_t,
goes to one. Raising the probability p of the augmentations whenever r_t is
above a target keeps it there (math.md 5.2).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float, Int

from sg3jax.types import AnyArray, Array

# Where augmentations begin to show in what is generated.
HEALTHY_P = 0.8


class AdaState(NamedTuple):
  """Memory of the adaptation, part of the state of training.

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
    ops: Operators, see `augment.get_ops`.
    fixed_p: Probability of each, in [0, 1]; None to adapt it.
    target: The r_t to keep.
    speed_kimg: Thousands of images in which p could go from 0 to 1.
    interval: Steps from one adaptation to the next.
  """

  ops: tuple[str, ...]
  fixed_p: float | None = None
  target: float = 0.6
  speed_kimg: float = 500.0
  interval: int = 4

  def init(self) -> AdaState | None:
    """Returns the first state, p = 0; None if p is fixed."""
    if self.fixed_p is not None:
      return None
    # Three arrays, for a donated one cannot be given away twice.
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
    """Returns the state after a step; every `interval` steps p moves.

    Args:
      state: The state before the step.
      signs: Moments of sign(D(real)) of the step, over the global batch.
      step: Steps done, this one included.
      batch: Real images a step; the interval's steps count as of this batch.
    """
    if state is None:
      return None
    # Scores that are not finite are ignored: they would make p NaN for ever.
    signs = jnp.where(jnp.isfinite(signs[1]), jnp.asarray(signs), 0.0)
    count = state.sign_count + signs[0]
    total = state.sign_sum + signs[1]
    change = batch * self.interval / (self.speed_kimg * 1000)
    moved = state.p + change * jnp.sign(total - self.target * count)
    # Above 1 nothing more can happen to an image, but p would take long to
    # come down again.
    moved = jnp.clip(moved, 0.0, 1.0)
    due = step % self.interval == 0
    return AdaState(
      p=jnp.where(due, moved, state.p),
      sign_sum=jnp.where(due, 0.0, total),
      sign_count=jnp.where(due, 0.0, count),
    )
