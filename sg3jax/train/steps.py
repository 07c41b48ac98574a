"""The training step: G, D and R1 phases as one jitted, sharded function."""

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
from sg3jax.train import fakes as fakes_lib
from sg3jax.train import losses, metrics, sharding
from sg3jax.train import state as state_lib
from sg3jax.train.state import TrainState
from sg3jax.types import AnyArray, Array, Tree

Moments = dict[str, Array]
Batch = Mapping[str, AnyArray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """What a step does, beside the networks (math.md 2.2, 2.7).

  Attributes:
    r1_gamma: Weight of the R1 penalty.
    r1_interval: Steps from one R1 phase to the next.
    ema_kimg: Half-life of the generator's average, thousands of images.
    ema_rampup: Bound of the half-life as a part of the images shown; 0: none.
    blur_init_sigma: Blur of what D sees at first, pixels; 0 for none.
    blur_fade_kimg: Thousands of images until the blur is gone.
    style_mixing_prob: Probability that a batch mixes styles.
    pl_weight: Weight of the path length penalty; 0 for none.
    pl_interval: Steps from one path length phase to the next.
    pl_batch_shrink: How many times smaller its batch is.
    pl_decay: Weight of a batch in the moving average of path lengths.
  """

  r1_gamma: float
  r1_interval: int = 16
  ema_kimg: float = 10.0
  ema_rampup: float = 0.05
  blur_init_sigma: float = 0.0
  blur_fade_kimg: float = 200.0
  style_mixing_prob: float = 0.0
  pl_weight: float = 0.0
  pl_interval: int = 4
  pl_batch_shrink: int = 2
  pl_decay: float = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
  """Networks, optimizers and recipe: the static part of training.

  Attributes:
    generator: G.
    discriminator: D.
    recipe: Weights and intervals.
    g_lr: Adam's step size for G.
    d_lr: Adam's step size for D.
  """

  generator: generator_lib.Generator
  discriminator: discriminator_lib.Discriminator
  recipe: Recipe
  g_lr: float = 0.0025
  d_lr: float = 0.002

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

  @property
  def fakes(self) -> fakes_lib.Fakes:
    """What draws the generated images of all phases."""
    return fakes_lib.Fakes(self.generator, self.recipe.style_mixing_prob)

  def init(self, key: jax.Array) -> TrainState:
    """Returns a fresh state."""
    return state_lib.init_state(
      key,
      self.generator,
      self.discriminator,
      self.generator_tx,
      self.discriminator_tx,
    )

  def update(
    self,
    state: TrainState,
    batch: Batch,
    latents: Float[AnyArray, 'phase n z'],
    key: jax.Array | None = None,
  ) -> tuple[TrainState, Moments]:
    """Does one step with given latents.

    Args:
      state: The state before.
      batch: `image`, uint8 or float in [-1, 1] [n, h, w, c], real images;
        `label`, their labels [n, label_dim]; `g_label` and `d_label`, labels
        for the images generated in the G and in the D phase.
      latents: z of the G and the D phase, [2, n, z_dim].
      key: Of style mixing, noise inputs and path lengths; None for neither
        mixing nor new noise.

    Returns:
      The state after, and the moments of losses and scores by name.

    Raises:
      ValueError: If the recipe has path lengths, and there is no key.
    """
    images = _as_float(batch['image'])
    conditional = self.generator.label_dim > 0
    labels, g_labels, d_labels = (
      batch[name] if conditional else None
      for name in ('label', 'g_label', 'd_label')
    )
    g_key, pl_key, d_key = (
      (None, None, None) if key is None else jax.random.split(key, 3)
    )
    grads, g_moments = self.generator_gradients(
      state, latents[0], g_labels, g_key
    )
    state, g_count = self.apply_generator_gradients(state, grads)
    pl_moments = {}
    if self.recipe.pl_weight > 0:
      state, pl_moments = jax.lax.cond(
        state.step % self.recipe.pl_interval == 0,
        lambda state: self._path_length_phase(
          state, images.shape[0], g_labels, pl_key
        ),
        lambda state: (state, {name: jnp.zeros(3) for name in _PL_NAMES}),
        state,
      )
    grads, d_moments, averages = self.discriminator_gradients(
      state, images, labels, latents[1], d_labels, d_key
    )
    state, d_count = self.apply_discriminator_gradients(state, grads)
    state = state.replace(generator=state.generator | averages)
    state, r1_moments = jax.lax.cond(
      state.step % self.recipe.r1_interval == 0,
      lambda state: self._r1_phase(state, images, labels),
      lambda state: (state, {name: jnp.zeros(3) for name in _R1_NAMES}),
      state,
    )
    counts = {
      'Gradients/nonfinite/G': metrics.moments(g_count),
      'Gradients/nonfinite/D': metrics.moments(d_count),
    }
    moments = _merge(g_moments, pl_moments, d_moments, counts, r1_moments)
    state = state.replace(
      step=state.step + 1,
      nimg=state.nimg + images.shape[0],
      generator_ema=self._averaged(state, images.shape[0]),
    )
    return state, moments

  def step(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Moments]:
    """Does one step with latents drawn from (key, step)."""
    shape = (2, batch['image'].shape[0], self.generator.z_dim)
    latents = jax.random.normal(jax.random.fold_in(key, state.step), shape)
    latents = jnp.stack([sharding.constrain_batch(z) for z in latents])
    # Another stream: no step has this number.
    key = jax.random.fold_in(jax.random.fold_in(key, 2**32 - 1), state.step)
    return self.update(state, batch, latents, key)

  def generator_gradients(
    self,
    state: TrainState,
    z: AnyArray,
    c: AnyArray | None = None,
    key: jax.Array | None = None,
  ) -> tuple[Tree, Moments]:
    """Returns the gradients of G's loss, and moments of loss and scores."""

    def loss_fn(params):
      images, _ = self.fakes.draw(
        state.generator | {'params': params}, z, c, key
      )
      discriminate = self._discriminate(state, state.discriminator['params'])
      logits = discriminate(images, c)
      loss = losses.generator_loss(logits)
      return jnp.mean(loss), {
        'Loss/G/loss': metrics.moments(loss),
        **_scores('fake', logits),
      }

    return jax.grad(loss_fn, has_aux=True)(state.generator['params'])

  def path_length_gradients(
    self, state: TrainState, z: AnyArray, c: AnyArray | None, key: jax.Array
  ) -> tuple[Tree, tuple[Moments, Array]]:
    """Returns gradients, and moments and the moving average of path lengths.

    The gradients are those of the penalty, `pl_interval` times as strong.
    """
    recipe, spec = self.recipe, self.generator.spec
    style_key, noise_key, direction_key = jax.random.split(key, 3)
    shape = (len(z), spec.resolution, spec.resolution, spec.img_channels)
    directions = losses.path_directions(direction_key, shape)

    def loss_fn(params):
      variables = state.generator | {'params': params}
      ws, _ = self.fakes.draw_styles(variables, z, c, style_key)
      lengths = losses.path_lengths(
        lambda ws: self.fakes.synthesize(variables, ws, noise_key)[0],
        ws,
        sharding.constrain_batch(directions),
      )
      penalty, mean = losses.path_length_penalty(
        lengths, state.pl_mean, recipe.pl_decay
      )
      loss = penalty * recipe.pl_weight
      moments = {
        'Loss/pl_penalty': metrics.moments(penalty),
        'Loss/G/reg': metrics.moments(loss),
      }
      return jnp.mean(loss) * recipe.pl_interval, (moments, mean)

    return jax.grad(loss_fn, has_aux=True)(state.generator['params'])

  def discriminator_gradients(
    self,
    state: TrainState,
    images: AnyArray,
    labels: AnyArray | None,
    z: AnyArray,
    c: AnyArray | None = None,
    key: jax.Array | None = None,
  ) -> tuple[Tree, Moments, dict[str, Tree]]:
    """Returns the gradients of D's loss, moments, and G's new averages.

    G draws the fakes here, and this is the only place where its moving averages
    learn.
    """
    generated, averages = self.fakes.draw(
      state.generator, z, c, key, update_averages=True
    )

    def loss_fn(params):
      discriminate = self._discriminate(state, params)
      fake_logits = discriminate(generated, c)
      real_logits = discriminate(images, labels)
      loss = losses.discriminator_loss(real_logits, fake_logits)
      return jnp.mean(loss), {
        'Loss/D/loss': metrics.moments(loss),
        **_scores('fake', fake_logits),
        **_scores('real', real_logits),
      }

    grads, moments = jax.grad(loss_fn, has_aux=True)(
      state.discriminator['params']
    )
    return grads, moments, averages

  def r1_gradients(
    self, state: TrainState, images: AnyArray, labels: AnyArray | None = None
  ) -> tuple[Tree, Moments]:
    """Returns the gradients of the R1 term, `r1_interval` times as strong."""
    recipe = self.recipe

    def loss_fn(params):
      discriminate = self._discriminate(state, params)
      penalty, _ = losses.r1_penalty(lambda x: discriminate(x, labels), images)
      loss = penalty * (recipe.r1_gamma / 2)
      return jnp.mean(loss) * recipe.r1_interval, {
        'Loss/r1_penalty': metrics.moments(penalty),
        'Loss/D/reg': metrics.moments(loss),
      }

    return jax.grad(loss_fn, has_aux=True)(state.discriminator['params'])

  def apply_generator_gradients(
    self, state: TrainState, grads: Tree
  ) -> tuple[TrainState, Array]:
    """Returns the state with G updated, and the non-finite values replaced."""
    params, opt, count = _apply(
      self.generator_tx, grads, state.generator_opt, state.generator['params']
    )
    generator = state.generator | {'params': params}
    return state.replace(generator=generator, generator_opt=opt), count

  def apply_discriminator_gradients(
    self, state: TrainState, grads: Tree
  ) -> tuple[TrainState, Array]:
    """Returns the state with D updated, and the non-finite values replaced."""
    params, opt, count = _apply(
      self.discriminator_tx,
      grads,
      state.discriminator_opt,
      state.discriminator['params'],
    )
    discriminator = state.discriminator | {'params': params}
    state = state.replace(discriminator=discriminator, discriminator_opt=opt)
    return state, count

  def _path_length_phase(
    self,
    state: TrainState,
    batch: int,
    labels: AnyArray | None,
    key: jax.Array | None,
  ) -> tuple[TrainState, Moments]:
    if key is None:
      raise ValueError('path lengths are measured at random: pass a key')
    z_key, pl_key = jax.random.split(key)
    n = batch // self.recipe.pl_batch_shrink
    z = jax.random.normal(z_key, (n, self.generator.z_dim))
    z, c = sharding.constrain_batch((z, None if labels is None else labels[:n]))
    grads, (moments, mean) = self.path_length_gradients(state, z, c, pl_key)
    before = state.generator_opt
    state, count = self.apply_generator_gradients(state, grads)
    opt = state_lib.skip_offsets(state.generator_opt, before)
    state = state.replace(generator_opt=opt, pl_mean=mean)
    return state, moments | {'Gradients/nonfinite/G': metrics.moments(count)}

  def _r1_phase(
    self, state: TrainState, images: AnyArray, labels: AnyArray | None
  ) -> tuple[TrainState, Moments]:
    grads, moments = self.r1_gradients(state, images, labels)
    before = state.discriminator_opt
    state, count = self.apply_discriminator_gradients(state, grads)
    state = state.replace(
      discriminator_opt=state_lib.skip_offsets(state.discriminator_opt, before)
    )
    return state, moments | {'Gradients/nonfinite/D': metrics.moments(count)}

  def _discriminate(self, state: TrainState, params: Tree) -> Callable:
    """Returns (images, labels) -> logits, blurring the images as R does."""
    recipe = self.recipe

    def discriminate(images: AnyArray, labels: AnyArray | None) -> Any:
      if recipe.blur_init_sigma > 0 and recipe.blur_fade_kimg > 0:
        faded = state.nimg / (recipe.blur_fade_kimg * 1000)
        sigma = recipe.blur_init_sigma * jnp.maximum(1 - faded, 0)
        images = losses.blur(images, sigma, max_sigma=recipe.blur_init_sigma)
      return self.discriminator.apply({'params': params}, images, labels)

    return discriminate

  def _averaged(self, state: TrainState, batch: int) -> Tree:
    """Returns the averaged G: parameters averaged, the rest copied."""
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


_PL_NAMES = ('Loss/pl_penalty', 'Loss/G/reg', 'Gradients/nonfinite/G')
_R1_NAMES = ('Loss/r1_penalty', 'Loss/D/reg', 'Gradients/nonfinite/D')


def jit_step(
  trainer: Trainer, mesh: Mesh
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Moments]]:
  """Returns `trainer.step` jitted over a mesh; the state is donated."""
  replicated = sharding.replicated(mesh)
  return jax.jit(
    trainer.step,
    in_shardings=(replicated, sharding.batch_sharding(mesh), replicated),
    out_shardings=replicated,
    donate_argnums=0,
  )


def jit_init(trainer: Trainer, mesh: Mesh) -> Callable[[jax.Array], TrainState]:
  """Returns `trainer.init` jitted so that the state is born on the mesh."""
  return jax.jit(trainer.init, out_shardings=sharding.replicated(mesh))


def _as_float(images: AnyArray) -> Array:
  """Maps 0..255 to [-1, 1]; leaves floats alone."""
  images = jnp.asarray(images)
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 127.5 - 1
  return images


def _scores(name: str, logits: Array) -> Moments:
  return {
    f'Loss/scores/{name}': metrics.moments(logits),
    f'Loss/signs/{name}': metrics.moments(jnp.sign(logits)),
  }


def _merge(*parts: Moments) -> Moments:
  """Adds moments of the same name."""
  merged = {}
  for part in parts:
    for name, value in part.items():
      merged[name] = merged[name] + value if name in merged else value
  return merged


def _apply(
  tx: optax.GradientTransformation, grads: Tree, opt: Tree, params: Tree
) -> tuple[Tree, Tree, Array]:
  """Updates parameters, with non-finite gradients made harmless and counted."""
  count = sum(jnp.sum(~jnp.isfinite(g)) for g in jax.tree.leaves(grads))
  grads = jax.tree.map(
    lambda g: jnp.nan_to_num(g, nan=0.0, posinf=1e5, neginf=-1e5), grads
  )
  updates, opt = tx.update(grads, opt, params)
  return optax.apply_updates(params, updates), opt, jnp.asarray(count)
