"""States of training without networks, for tests of checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sg3jax.train.step.state import TrainState


def make_state(step: int, width: int = 64) -> TrainState:
  """Returns a small state, as deep as a real one."""

  def params(seed: int):
    rng = np.random.RandomState(seed + step)
    kernel = rng.randn(width, width).astype(np.float32)
    return {'params': {'conv': {'weight': kernel, 'bias': kernel[0].copy()}}}

  g, d, ema = params(0), params(100), params(200)
  state = TrainState(
    step=np.int32(step),
    nimg=np.int32(8 * step),
    generator=g,
    discriminator=d,
    generator_ema=ema,
    generator_opt=optax.adam(1e-3).init(g['params']),
    discriminator_opt=optax.partition(
      {'all': optax.adam(1e-3)}, lambda p: jax.tree.map(lambda _: 'all', p)
    ).init(d['params']),
    pl_mean=np.float32(step),
  )
  return jax.tree.map(jnp.asarray, state)


def like(state: TrainState) -> TrainState:
  """Returns the structure by which a state like this one is restored."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )
