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
from sg3jax.train import ada, losses, metrics, sharding
from sg3jax.train import augment as augment_lib
from sg3jax.train import state as state_lib
from sg3jax.train.state import TrainState
from sg3jax.types import AnyArray, Array, Tree

Moments = dict[str, Array]
Batch = Mapping[str, AnyArray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """What a step does, beside the networks (math.md 2.2, 2.7, 5.2).

  Attributes:
    r1_gamma: Weight of the R1 penalty.
    r1_interval: Steps from one R1 phase to the next.
    ema_kimg: Half-life of the generator's average, thousands of images.
    ema_rampup: Bound of the half-life as a part of the images shown; 0: none.
    blur_init_sigma: Blur of what D sees at first, pixels; 0 for none.
    blur_fade_kimg: Thousands of images until the blur is gone.
    augmentation: What D's images go through after the blur; None for nothing.
  """

  r1_gamma: float
  r1_interval: int = 16
  ema_kimg: float = 10.0
  ema_rampup: float = 0.05
  blur_init_sigma: float = 0.0
  blur_fade_kimg: float = 200.0
  augmentation: ada.Augmentation | None = None


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
    return state_lib.make_generator_optimizer(self.g_lr)

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
    return float(augmentation.probability(state.augment)) if augmentation else 0

  def update(
    self,
    state: TrainState,
    batch: Batch,
    latents: Float[AnyArray, 'phase n z'],
    augment_key: jax.Array | None = None,
  ) -> tuple[TrainState, Moments]:
    """Does one step with given latents.

    Args:
      state: The state before.
      batch: `image`, uint8 or float in [-1, 1] [n, h, w, c], real images;
        `label`, their labels [n, label_dim]; `g_label` and `d_label`, labels
        for the images generated in the G and in the D phase.
      latents: z of the G and the D phase, [2, n, z_dim].
      augment_key: Random key of this step's augmentations, if there are any.

    Returns:
      The state after, and the moments of losses and scores by name.
    """
    images = _as_float(batch['image'])
    conditional = self.generator.label_dim > 0
    labels, g_labels, d_labels = (
      batch[name] if conditional else None
      for name in ('label', 'g_label', 'd_label')
    )
    grads, g_moments = self.generator_gradients(
      state, latents[0], g_labels, augment_key=augment_key
    )
    state, g_count = self.apply_generator_gradients(state, grads)
    grads, d_moments, averages = self.discriminator_gradients(
      state, images, labels, latents[1], d_labels, augment_key=augment_key
    )
    state, d_count = self.apply_discriminator_gradients(state, grads)
    state = state.replace(generator=state.generator | averages)
    state, r1_moments = jax.lax.cond(
      state.step % self.recipe.r1_interval == 0,
      lambda state: self._r1_phase(state, images, labels, augment_key),
      lambda state: (state, {name: jnp.zeros(3) for name in _R1_NAMES}),
      state,
    )
    counts = {
      'Gradients/nonfinite/G': metrics.moments(g_count),
      'Gradients/nonfinite/D': metrics.moments(d_count),
    }
    moments = _merge(g_moments, d_moments, counts, r1_moments)
    state = state.replace(
      step=state.step + 1,
      nimg=state.nimg + images.shape[0],
      generator_ema=self._averaged(state, images.shape[0]),
      augment=self._adapted(state, moments, images.shape[0]),
    )
    return state, moments

  def step(
    self, state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Moments]:
    """Does one step with latents drawn from (key, step)."""
    shape = (2, batch['image'].shape[0], self.generator.z_dim)
    latents = jax.random.normal(jax.random.fold_in(key, state.step), shape)
    latents = jnp.stack([sharding.constrain_batch(z) for z in latents])
    if self.recipe.augmentation is None:
      return self.update(state, batch, latents)
    augment_key = jax.random.fold_in(key, _NO_STEP)
    augment_key = jax.random.fold_in(augment_key, state.step)
    return self.update(state, batch, latents, augment_key)

  def generator_gradients(
    self,
    state: TrainState,
    z: AnyArray,
    c: AnyArray | None = None,
    *,
    augment_key: jax.Array | None = None,
  ) -> tuple[Tree, Moments]:
    """Returns the gradients of G's loss, and moments of loss and scores."""

    def loss_fn(params):
      variables = state.generator | {'params': params}
      fakes = self.generator.apply(variables, z, c)
      discriminate = self._discriminate(
        state, state.discriminator['params'], augment_key
      )
      logits = discriminate(fakes, c, _G_FAKES)
      loss = losses.generator_loss(logits)
      return jnp.mean(loss), {
        'Loss/G/loss': metrics.moments(loss),
        **_scores('fake', logits),
      }

    return jax.grad(loss_fn, has_aux=True)(state.generator['params'])

  def discriminator_gradients(
    self,
    state: TrainState,
    images: AnyArray,
    labels: AnyArray | None,
    z: AnyArray,
    c: AnyArray | None = None,
    *,
    augment_key: jax.Array | None = None,
  ) -> tuple[Tree, Moments, dict[str, Tree]]:
    """Returns the gradients of D's loss, moments, and G's new averages.

    G draws the fakes here, and this is the only place where its moving averages
    learn.
    """
    fakes, averages = self.generator.apply(
      state.generator, z, c, update_averages=True, mutable='moving_averages'
    )

    def loss_fn(params):
      discriminate = self._discriminate(state, params, augment_key)
      fake_logits = discriminate(fakes, c, _D_FAKES)
      real_logits = discriminate(images, labels, _D_REALS)
      loss = losses.discriminator_loss(real_logits, fake_logits)
      return jnp.mean(loss), {
        'Loss/D/loss': metrics.moments(loss),
        **_scores('fake', fake_logits),
        **_scores('real', real_logits),
      }

    grads, moments = jax.grad(loss_fn, has_aux=True)(
      state.discriminator['params']
    )
    return grads, moments, dict(averages)

  def r1_gradients(
    self,
    state: TrainState,
    images: AnyArray,
    labels: AnyArray | None = None,
    *,
    augment_key: jax.Array | None = None,
  ) -> tuple[Tree, Moments]:
    """Returns the gradients of the R1 term, `r1_interval` times as strong."""
    recipe = self.recipe

    def loss_fn(params):
      discriminate = self._discriminate(state, params, augment_key)
      penalty, _ = losses.r1_penalty(
        lambda x: discriminate(x, labels, _R1_REALS), images
      )
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

  def _r1_phase(
    self,
    state: TrainState,
    images: AnyArray,
    labels: AnyArray | None,
    augment_key: jax.Array | None,
  ) -> tuple[TrainState, Moments]:
    grads, moments = self.r1_gradients(
      state, images, labels, augment_key=augment_key
    )
    before = state.discriminator_opt
    state, count = self.apply_discriminator_gradients(state, grads)
    state = state.replace(
      discriminator_opt=state_lib.skip_logit_bias(
        state.discriminator_opt, before
      )
    )
    return state, moments | {'Gradients/nonfinite/D': metrics.moments(count)}

  def _discriminate(
    self, state: TrainState, params: Tree, augment_key: jax.Array | None
  ) -> Callable:
    """Returns (images, labels, phase) -> logits.

    The images are blurred first, as in R, and then augmented: each phase draws
    its own augmentations.
    """
    recipe = self.recipe

    def discriminate(
      images: AnyArray, labels: AnyArray | None, phase: int
    ) -> Any:
      if recipe.blur_init_sigma > 0 and recipe.blur_fade_kimg > 0:
        faded = state.nimg / (recipe.blur_fade_kimg * 1000)
        sigma = recipe.blur_init_sigma * jnp.maximum(1 - faded, 0)
        images = losses.blur(images, sigma, max_sigma=recipe.blur_init_sigma)
      if recipe.augmentation is not None:
        if augment_key is None:
          raise ValueError('this recipe augments images: pass augment_key')
        images = augment_lib.augment(
          images,
          jax.random.fold_in(augment_key, phase),
          recipe.augmentation.probability(state.augment),
          recipe.augmentation.ops,
        )
      return self.discriminator.apply({'params': params}, images, labels)

    return discriminate

  def _adapted(
    self, state: TrainState, moments: Moments, batch: int
  ) -> ada.AdaState | None:
    """Returns the adaptation's state after the step that these are of."""
    augmentation = self.recipe.augmentation
    if augmentation is None:
      return None
    signs = moments['Loss/signs/real']
    return augmentation.adapt(state.augment, signs, state.step + 1, batch)

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


# Of the random numbers: a step that there is none of, and what is augmented.
_NO_STEP = 2**32 - 1
_G_FAKES, _D_FAKES, _D_REALS, _R1_REALS = range(4)

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
