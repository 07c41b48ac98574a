"""The state of a run: everything that its next step depends on."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.train.step import ada
from sg3jax.types import Array, Tree

BETA1, BETA2, EPSILON = 0.0, 0.99, 1e-8

# Parameters that only shift a network's output: the last bias of D, and the
# biases of G's ToRGBs. Gradients with respect to the input do not depend on
# them.
_OFFSETS = 'offsets'


class TrainState(struct.PyTreeNode):
  """Everything that training changes and a checkpoint holds.

  Attributes:
    step: Number of steps done, int32 [].
    nimg: Number of real images shown, int32 [].
    generator: Variables of G: params, moving_averages, buffers, noise.
    discriminator: Variables of D: params.
    generator_ema: Variables of the averaged generator.
    generator_opt: Adam's state for G.
    discriminator_opt: Adam's state for D.
    pl_mean: Moving average of the path lengths, float32 []; 0 if not used.
    augment: The `ada.AdaState` of the adaptive augmentation; None if nothing
      adapts.
  """

  step: Any
  nimg: Any
  generator: Tree
  discriminator: Tree
  generator_ema: Tree
  generator_opt: Any
  discriminator_opt: Any
  pl_mean: Any
  augment: Any = None


def make_generator_optimizer(
  learning_rate: float, pl_interval: int | None = None
) -> optax.GradientTransformation:
  """Returns G's Adam (math.md 2.2).

  Args:
    learning_rate: Step size.
    pl_interval: Steps from one path length phase to the next, for which it is
      corrected as D's optimizer is for R1; None without that lazy term.
  """
  if pl_interval is None:
    return optax.adam(learning_rate, b1=BETA1, b2=BETA2, eps=EPSILON)
  return _make_lazy_adam(learning_rate, pl_interval, ('torgb', 'bias'))


def make_discriminator_optimizer(
  learning_rate: float, r1_interval: int
) -> optax.GradientTransformation:
  """Returns D's Adam, corrected for the lazy R1 term."""
  return _make_lazy_adam(learning_rate, r1_interval, ('out', 'bias'))


def _make_lazy_adam(
  learning_rate: float, interval: int, offsets: tuple[str, str]
) -> optax.GradientTransformation:
  """Returns Adam, corrected for a loss term with its own update at intervals.

  A lazily regularized network makes k + 1 updates instead of k. The rate and
  the betas are adjusted to keep their meaning (math.md 2.2). The offsets have a
  separate Adam; see `skip_offsets`.

  Args:
    learning_rate: Step size.
    interval: The number of steps k from one such update to the next.
    offsets: Path suffix of the parameters that do not affect the term.
  """
  ratio = interval / (interval + 1)
  adam = optax.adam(
    learning_rate * ratio, b1=BETA1**ratio, b2=BETA2**ratio, eps=EPSILON
  )
  end = tuple(jax.tree_util.DictKey(name) for name in offsets)

  def label(path: tuple[Any, ...], _: Array) -> str:
    return _OFFSETS if path[-2:] == end else 'others'

  return optax.partition(
    {'others': adam, _OFFSETS: adam},
    lambda params: jax.tree.map_with_path(label, params),
  )


def skip_offsets(new: Any, old: Any) -> Any:
  """Returns the new state of a lazy optimizer, with the old one of offsets.

  R1 takes gradients with respect to images, and path lengths with respect to
  styles. Parameters that shift the output do not affect either. Their Adam must
  not count such a phase as a step with a zero gradient.
  """
  kept = {_OFFSETS: old.inner_states[_OFFSETS]}
  return new._replace(inner_states=new.inner_states | kept)


def init_state(
  key: jax.Array,
  generator: generator_lib.Generator,
  discriminator: discriminator_lib.Discriminator,
  generator_tx: optax.GradientTransformation,
  discriminator_tx: optax.GradientTransformation,
  augment: ada.AdaState | None = None,
) -> TrainState:
  """Returns a fresh state; traceable, so that it can be created sharded."""
  g_key, d_key = jax.random.split(key)

  def rows(*features: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *features), jnp.float32)

  c = rows(generator.label_dim) if generator.label_dim else None
  # Initialize lazily: variables are sampled, but no image is computed.
  g = dict(generator.lazy_init(g_key, rows(generator.z_dim), c))
  images = rows(*generator.spec.image_shape)
  d = dict(discriminator.lazy_init(d_key, images, c))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    nimg=jnp.zeros((), jnp.int32),
    generator=g,
    discriminator=d,
    generator_ema=jax.tree.map(jnp.copy, g),
    generator_opt=generator_tx.init(g['params']),
    discriminator_opt=discriminator_tx.init(d['params']),
    pl_mean=jnp.zeros((), jnp.float32),
    augment=augment,
  )
