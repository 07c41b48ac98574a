"""The state of a run: all that its next step depends on."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.train import ada
from sg3jax.types import Array, Tree

BETA1, BETA2, EPSILON = 0.0, 0.99, 1e-8

_LOGIT_BIAS = 'logit_bias'
_LOGIT_BIAS_PATH = tuple(jax.tree_util.DictKey(k) for k in ('out', 'bias'))


class TrainState(struct.PyTreeNode):
  """Everything that training changes, and that a checkpoint holds.

  Attributes:
    step: Steps done, int32 [].
    nimg: Real images shown, int32 [].
    generator: Variables of G: params, moving_averages, buffers.
    discriminator: Variables of D: params.
    generator_ema: Variables of the averaged generator.
    generator_opt: Adam's state for G.
    discriminator_opt: Adam's state for D.
    augment: State of the augmentation's adaptation; None where nothing adapts.
  """

  step: Any
  nimg: Any
  generator: Tree
  discriminator: Tree
  generator_ema: Tree
  generator_opt: Any
  discriminator_opt: Any
  augment: ada.AdaState | None = None


def make_generator_optimizer(
  learning_rate: float,
) -> optax.GradientTransformation:
  """Returns G's Adam (math.md 2.2); no term of G's loss is lazy."""
  return optax.adam(learning_rate, b1=BETA1, b2=BETA2, eps=EPSILON)


def make_discriminator_optimizer(
  learning_rate: float, r1_interval: int
) -> optax.GradientTransformation:
  """Returns D's Adam, corrected for a loss term taken every so many steps.

  A lazily regularised network makes k + 1 updates where it made k; the rate
  and the betas are adjusted to keep their meaning (math.md 2.2). The last
  bias has an Adam of its own, see `skip_logit_bias`.

  Args:
    learning_rate: Step size.
    r1_interval: k.
  """
  ratio = r1_interval / (r1_interval + 1)
  adam = optax.adam(
    learning_rate * ratio, b1=BETA1**ratio, b2=BETA2**ratio, eps=EPSILON
  )

  def label(path: tuple[Any, ...], _: Array) -> str:
    return _LOGIT_BIAS if path[-2:] == _LOGIT_BIAS_PATH else 'others'

  return optax.partition(
    {'others': adam, _LOGIT_BIAS: adam},
    lambda params: jax.tree.map_with_path(label, params),
  )


def skip_logit_bias(new: Any, old: Any) -> Any:
  """Returns D's new optimizer state, with the old one for the last bias.

  R1 takes gradients with respect to images, in which the last bias has no part.
  Its Adam must not count that phase as a step with a gradient of zero.
  """
  kept = {_LOGIT_BIAS: old.inner_states[_LOGIT_BIAS]}
  return new._replace(inner_states=new.inner_states | kept)


def init_state(
  key: jax.Array,
  generator: generator_lib.Generator,
  discriminator: discriminator_lib.Discriminator,
  generator_tx: optax.GradientTransformation,
  discriminator_tx: optax.GradientTransformation,
  augment: ada.AdaState | None = None,
) -> TrainState:
  """Returns a fresh state; traceable, so that it can be born sharded."""
  g_key, d_key = jax.random.split(key)
  spec = generator.spec

  def rows(*features: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *features), jnp.float32)

  c = rows(generator.label_dim) if generator.label_dim else None
  # Lazily: variables are drawn, but no image is.
  g = dict(generator.lazy_init(g_key, rows(generator.z_dim), c))
  images = rows(spec.resolution, spec.resolution, spec.img_channels)
  d = dict(discriminator.lazy_init(d_key, images, c))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    nimg=jnp.zeros((), jnp.int32),
    generator=g,
    discriminator=d,
    generator_ema=jax.tree.map(jnp.copy, g),
    generator_opt=generator_tx.init(g['params']),
    discriminator_opt=discriminator_tx.init(d['params']),
    augment=augment,
  )
