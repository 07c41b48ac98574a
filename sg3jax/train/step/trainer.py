"""Runs all phases of a training step in one jitted, sharded function."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Float

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.train import sharding, statistics
from sg3jax.train.step import ada, freeze, generation, phases
from sg3jax.train.step import state as state_lib
from sg3jax.train.step.phases import Moments, Recipe
from sg3jax.train.step.state import TrainState
from sg3jax.types import AnyArray, Array, Tree

Batch = Mapping[str, AnyArray]

# Maximum number of pending steps: one that runs, and one that follows it
# without a gap.
STEPS_IN_FLIGHT = 2

# Stands in for a step number, which is smaller, in keys of other samples.
_NO_STEP = 2**32 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """The static part of training: networks, optimizers and recipe.

  Attributes:
    generator: G.
    discriminator: D.
    recipe: Weights and intervals.
    g_lr: Adam's step size for G.
    d_lr: Adam's step size for D.
    frozen: Parameters that are not updated.
    layout: Where the state is stored; one of `sharding.LAYOUTS`.
  """

  generator: generator_lib.Generator
  discriminator: discriminator_lib.Discriminator
  recipe: Recipe
  g_lr: float = 0.0025
  d_lr: float = 0.002
  frozen: freeze.Frozen = freeze.NOTHING
  layout: str = 'replicated'

  @property
  def phases(self) -> phases.Phases:
    """The gradients of each loss."""
    return phases.Phases(self.generator, self.discriminator, self.recipe)

  @property
  def generator_tx(self) -> optax.GradientTransformation:
    """G's optimizer."""
    interval = self.recipe.pl_interval if self.recipe.pl_weight > 0 else None
    return state_lib.make_generator_optimizer(self.g_lr, interval)

  @property
  def discriminator_tx(self) -> optax.GradientTransformation:
    """D's optimizer."""
    return state_lib.make_discriminator_optimizer(
      self.d_lr, self.recipe.r1_interval
    )

  def init(self, key: jax.Array) -> TrainState:
    """Returns a fresh state."""
    augmentation = self.recipe.augmentation
    return state_lib.init_state(
      key,
      self.generator,
      self.discriminator,
      self.generator_tx,
      self.discriminator_tx,
      augmentation.init() if augmentation else None,
    )

  def augment_probability(self, state: TrainState) -> float:
    """Returns the probability of augmentations, 0 without any."""
    augmentation = self.recipe.augmentation
    if augmentation is None:
      return 0.0
    return float(jax.device_get(augmentation.probability(state.augment)))

  def update(
    self,
    state: TrainState,
    batch: Batch,
    latents: Float[AnyArray, 'phase n z'],
    key: jax.Array | None = None,
  ) -> tuple[TrainState, Moments]:
    """Does one step with given latents.

    Args:
      state: The state before the step.
      batch: Real images `image` [n, h, w, c], uint8 or float in [-1, 1]; their
        labels `label` [n, label_dim]; and `g_label` and `d_label`, labels for
        the images generated in the G and D phases.
      latents: z of the G and the D phase, [2, n, z_dim].
      key: Random key for augmentations, style mixing, noise inputs and path
        lengths. With None there is neither mixing nor new noise. A recipe with
        augmentations or path lengths needs a key.

    Returns:
      The state after it, and the moments of losses and scores by name.

    Raises:
      ValueError: If the recipe needs a key and there is none, or the batch
        cannot be shared by the micro-batches.
    """
    images = _as_float(batch['image'])
    conditional = self.generator.label_dim > 0
    labels, g_labels, d_labels = (
      batch[name] if conditional else None
      for name in ('label', 'g_label', 'd_label')
    )
    g_key, pl_key, d_key, r1_key = generation.split_key(key, 4)
    grads, g_moments = self.phases.generator_gradients(
      self._gathered(state), latents[0], g_labels, g_key
    )
    state, g_count = self.apply_generator_gradients(state, grads)
    state, pl_moments = self._lazily(
      state,
      self.recipe.pl_interval if self.recipe.pl_weight > 0 else None,
      lambda state: self._path_length_phase(
        state, len(images), g_labels, pl_key
      ),
      (*phases.PATH_LENGTH_MOMENTS, 'Gradients/nonfinite/G'),
    )
    grads, d_moments, averages = self.phases.discriminator_gradients(
      self._gathered(state), images, labels, latents[1], d_labels, d_key
    )
    state, d_count = self.apply_discriminator_gradients(state, grads)
    averages = {
      name: freeze.hold_averages(
        state.generator[name], new, self.frozen.generator
      )
      for name, new in averages.items()
    }
    state = state.replace(generator=state.generator | averages)
    state, r1_moments = self._lazily(
      state,
      self.recipe.r1_interval,
      lambda state: self._r1_phase(state, images, labels, r1_key),
      (*phases.R1_MOMENTS, 'Gradients/nonfinite/D'),
    )
    counts = {
      'Gradients/nonfinite/G': statistics.moments(g_count),
      'Gradients/nonfinite/D': statistics.moments(d_count),
    }
    moments = _merge(g_moments, pl_moments, d_moments, counts, r1_moments)
    state = state.replace(
      step=state.step + 1,
      nimg=state.nimg + len(images),
      generator_ema=self._averaged(state, len(images)),
      augment=self._adapted(state, moments, len(images)),
    )
    return state, moments

  def step(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Moments]:
    """Does one step; all random numbers are sampled from (key, step)."""
    shape = (2, len(batch['image']), self.generator.z_dim)
    latents = jax.random.normal(jax.random.fold_in(key, state.step), shape)
    latents = jnp.stack([sharding.constrain_batch(z) for z in latents])
    key = jax.random.fold_in(jax.random.fold_in(key, _NO_STEP), state.step)
    return self.update(state, batch, latents, key)

  def apply_generator_gradients(
    self, state: TrainState, grads: Tree
  ) -> tuple[TrainState, Array]:
    """Returns the state with G updated, and counts of replaced gradients."""
    grads = freeze.zero_gradients(grads, self.frozen.generator)
    grads = sharding.scatter_gradients(grads, 'generator/params', self.layout)
    params, opt, count = _apply(
      self.generator_tx, grads, state.generator_opt, state.generator['params']
    )
    generator = state.generator | {'params': params}
    return state.replace(generator=generator, generator_opt=opt), count

  def apply_discriminator_gradients(
    self, state: TrainState, grads: Tree
  ) -> tuple[TrainState, Array]:
    """Returns the state with D updated, and counts of replaced gradients."""
    grads = freeze.zero_gradients(grads, self.frozen.discriminator)
    part = 'discriminator/params'
    grads = sharding.scatter_gradients(grads, part, self.layout)
    params, opt, count = _apply(
      self.discriminator_tx,
      grads,
      state.discriminator_opt,
      state.discriminator['params'],
    )
    discriminator = state.discriminator | {'params': params}
    state = state.replace(discriminator=discriminator, discriminator_opt=opt)
    return state, count

  def _gathered(self, state: TrainState) -> TrainState:
    """Returns the state with whole networks on every device, for a phase."""
    return state.replace(
      generator=sharding.gather(state.generator, self.layout),
      discriminator=sharding.gather(state.discriminator, self.layout),
    )

  def _lazily(
    self,
    state: TrainState,
    interval: int | None,
    phase: Callable[[TrainState], tuple[TrainState, Moments]],
    names: tuple[str, ...],
  ) -> tuple[TrainState, Moments]:
    """Runs a phase if it is due at this step; never if the interval is None."""
    if interval is None:
      return state, {}
    return jax.lax.cond(
      state.step % interval == 0,
      phase,
      lambda state: (state, dict.fromkeys(names, statistics.no_moments())),
      state,
    )

  def _path_length_phase(
    self,
    state: TrainState,
    batch: int,
    labels: AnyArray | None,
    key: jax.Array | None,
  ) -> tuple[TrainState, Moments]:
    if key is None:
      raise ValueError('path lengths use random directions: pass a key')
    z_key, pl_key = jax.random.split(key)
    n = batch // self.recipe.pl_batch_shrink
    z = jax.random.normal(z_key, (n, self.generator.z_dim))
    z, c = sharding.constrain_batch((z, None if labels is None else labels[:n]))
    grads, moments, mean = self.phases.path_length_gradients(
      self._gathered(state), z, c, pl_key
    )
    before = state.generator_opt
    state, count = self.apply_generator_gradients(state, grads)
    opt = state_lib.skip_offsets(state.generator_opt, before)
    state = state.replace(generator_opt=opt, pl_mean=mean)
    return state, moments | {'Gradients/nonfinite/G': statistics.moments(count)}

  def _r1_phase(
    self,
    state: TrainState,
    images: AnyArray,
    labels: AnyArray | None,
    key: jax.Array | None,
  ) -> tuple[TrainState, Moments]:
    grads, moments = self.phases.r1_gradients(
      self._gathered(state), images, labels, key
    )
    before = state.discriminator_opt
    state, count = self.apply_discriminator_gradients(state, grads)
    opt = state_lib.skip_offsets(state.discriminator_opt, before)
    state = state.replace(discriminator_opt=opt)
    return state, moments | {'Gradients/nonfinite/D': statistics.moments(count)}

  def _adapted(
    self, state: TrainState, moments: Moments, batch: int
  ) -> ada.AdaState | None:
    """Returns the adaptation's state after a step with these moments."""
    augmentation = self.recipe.augmentation
    if augmentation is None:
      return None
    signs = moments['Loss/signs/real']
    return augmentation.adapt(state.augment, signs, state.step + 1, batch)

  def _averaged(self, state: TrainState, batch: int) -> Tree:
    """Returns the averaged G, with all but its parameters copied."""
    recipe = self.recipe
    half_life = jnp.asarray(recipe.ema_kimg * 1000, jnp.float32)
    if recipe.ema_rampup > 0:
      shown = state.nimg.astype(jnp.float32)
      half_life = jnp.minimum(half_life, shown * recipe.ema_rampup)
    beta = 0.5 ** (batch / jnp.maximum(half_life, 1e-8))
    params = jax.tree.map(
      lambda new, old: new + beta * (old - new),
      state.generator['params'],
      state.generator_ema['params'],
    )
    return state.generator | {'params': params}


def make_key(seed: int, stream: int) -> jax.Array:
  """Returns the random key of one stream of a seed."""
  # Jitted, because JAX_TRANSFER_GUARD may forbid other transfers of numbers.
  return jax.jit(lambda: jax.random.fold_in(jax.random.key(seed), stream))()


def state_shardings(trainer: Trainer, mesh: Mesh) -> Any:
  """Returns where the trainer's state is stored.

  It is a `NamedSharding` if everything is replicated, or else a tree of them.
  """
  if not sharding.LAYOUTS[trainer.layout]:
    return sharding.replicated(mesh)
  shapes = jax.eval_shape(trainer.init, jax.eval_shape(jax.random.key, 0))
  return sharding.state_shardings(shapes, mesh, trainer.layout)


def jit_step(trainer: Trainer, mesh: Mesh) -> jax.stages.Wrapped:
  """Returns `trainer.step` jitted over a mesh; the state is donated."""
  replicated = sharding.replicated(mesh)
  stored = state_shardings(trainer, mesh)
  return jax.jit(
    trainer.step,
    in_shardings=(stored, sharding.batch_sharding(mesh), replicated),
    out_shardings=(stored, replicated),
    donate_argnums=0,
  )


def jit_init(trainer: Trainer, mesh: Mesh) -> jax.stages.Wrapped:
  """Returns `trainer.init` jitted so that the state is created on the mesh."""
  return jax.jit(trainer.init, out_shardings=state_shardings(trainer, mesh))


def _as_float(images: AnyArray) -> Array:
  """Maps integers in 0..255 to [-1, 1]; returns floats unchanged."""
  images = jnp.asarray(images)
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 127.5 - 1
  return images


def _merge(*parts: Moments) -> Moments:
  """Adds moments with the same name."""
  merged = {}
  for part in parts:
    for name, value in part.items():
      merged[name] = merged[name] + value if name in merged else value
  return merged


def _apply(
  tx: optax.GradientTransformation, grads: Tree, opt: Tree, params: Tree
) -> tuple[Tree, Tree, Array]:
  """Updates parameters; replaces and counts non-finite gradient values."""
  count = sum(jnp.sum(~jnp.isfinite(g)) for g in jax.tree.leaves(grads))
  grads = jax.tree.map(
    lambda g: jnp.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5), grads
  )
  updates, opt = tx.update(grads, opt, params)
  return optax.apply_updates(params, updates), opt, jnp.asarray(count)
