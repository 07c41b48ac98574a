"""Computes the phases of a training step: the gradients of each loss."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.train import sharding, statistics
from sg3jax.train.step import ada, augment, generation, losses
from sg3jax.train.step import micro_batches as micro_batches_lib
from sg3jax.train.step.state import TrainState
from sg3jax.types import AnyArray, Array, Tree

Moments = dict[str, Array]

# Names of the moments returned by the lazy phases.
PATH_LENGTH_MOMENTS = ('Loss/pl_penalty', 'Loss/G/reg')
R1_MOMENTS = ('Loss/r1_penalty', 'Loss/D/reg')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """Weights and intervals of a step's losses and averages (math.md 2.2, 2.7).

  Attributes:
    r1_gamma: Weight of the R1 penalty.
    r1_interval: Steps from one R1 phase to the next.
    ema_kimg: Half-life of the generator's average, in thousands of images.
    ema_rampup: Bound of the half-life as a fraction of the images shown; 0 for
      no bound.
    blur_init_sigma: Initial blur of what D sees, in pixels; 0 for none.
    blur_fade_kimg: Thousands of images until the blur is gone.
    style_mixing_prob: Probability that a batch mixes styles.
    pl_weight: Weight of the path length penalty; 0 for none.
    pl_interval: Steps from one path length phase to the next.
    pl_batch_shrink: Ratio of the batch to the batch of path lengths.
    pl_decay: Weight of a batch in the moving average of path lengths.
    augmentation: Augmentation of D's images after the blur; None for none.
    micro_batches: Number of parts in which gradients are computed.
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
  augmentation: ada.Augmentation | None = None
  micro_batches: int = 1


@dataclasses.dataclass(frozen=True)
class Phases:
  """Gradients of the four losses, and moments of their values.

  The methods take the state before the phase; real `images` in [-1, 1], [n, h,
  w, c]; latents `z` [n, z_dim]; labels [n, label_dim], or None; and a random
  `key` for augmentations, style mixing, noise inputs and path directions.
  Without a key, styles are not mixed and noise inputs are fixed. A recipe with
  random augmentations or path lengths needs a key.

  Attributes:
    generator: G.
    discriminator: D.
    recipe: Weights and intervals.
  """

  generator: generator_lib.Generator
  discriminator: discriminator_lib.Discriminator
  recipe: Recipe

  def generator_gradients(
    self,
    state: TrainState,
    z: AnyArray,
    c: AnyArray | None = None,
    key: jax.Array | None = None,
  ) -> tuple[Tree, Moments]:
    """Returns the gradients of G's loss."""
    fakes_key, augment_key = generation.split_key(key)
    rows = (
      (z, c, self._fakes.sample(state.generator, len(z), fakes_key)),
      self._sample_augmentation(state, augment_key, len(z)),
    )

    def loss_fn(params, rows):
      (z, c, fake_samples), samples = rows
      images, _ = self._fakes.generate(
        state.generator | {'params': params}, z, c, fake_samples
      )
      params = state.discriminator['params']
      logits = self._discriminate(state, params, images, c, samples)
      loss = losses.generator_loss(logits)
      return jnp.mean(loss), {
        'Loss/G/loss': statistics.moments(loss),
        **_scores('fake', logits),
      }

    return self._gradients(loss_fn, state.generator['params'], rows)

  def path_length_gradients(
    self, state: TrainState, z: AnyArray, c: AnyArray | None, key: jax.Array
  ) -> tuple[Tree, Moments, Array]:
    """Returns the gradients of the path length penalty, and the mean length.

    The gradients are scaled by `pl_interval`. The mean is the moving average.
    """
    recipe = self.recipe
    sample_key, direction_key = jax.random.split(key)
    directions = losses.path_directions(
      direction_key, (len(z), *self.generator.spec.image_shape)
    )
    samples = self._fakes.sample(state.generator, len(z), sample_key)
    rows = (z, c, samples, sharding.constrain_batch(directions))

    def measure(params, rows):
      z, c, samples, directions = rows
      variables = state.generator | {'params': params}
      ws, _ = self._fakes.generate_styles(variables, z, c, samples)
      return losses.path_lengths(
        lambda ws: self._fakes.synthesize(variables, ws, samples)[0],
        ws,
        directions,
      )

    params = state.generator['params']
    mean, decay = state.pl_mean, recipe.pl_decay
    micro_batches = math.gcd(
      recipe.micro_batches, len(z) // sharding.num_shards()
    )
    if micro_batches > 1:
      # The average takes in the whole batch before any length is compared with
      # it, so the lengths are measured twice.
      lengths = micro_batches_lib.apply(
        functools.partial(measure, params), rows, micro_batches=micro_batches
      )
      _, mean = losses.path_length_penalty(lengths.ravel(), mean, decay)
      decay = 0.0

    def loss_fn(params, rows):
      penalty, new_mean = losses.path_length_penalty(
        measure(params, rows), mean, decay
      )
      loss = penalty * recipe.pl_weight
      moments = {
        'Loss/pl_penalty': statistics.moments(penalty),
        'Loss/G/reg': statistics.moments(loss),
      }
      return jnp.mean(loss) * recipe.pl_interval, (moments, new_mean)

    grads, (moments, means) = micro_batches_lib.gradients(
      loss_fn, params, rows, micro_batches=micro_batches
    )
    return grads, _sum(moments), means[0]

  def discriminator_gradients(
    self,
    state: TrainState,
    images: AnyArray,
    labels: AnyArray | None,
    z: AnyArray,
    c: AnyArray | None = None,
    key: jax.Array | None = None,
  ) -> tuple[Tree, Moments, dict[str, Tree]]:
    """Returns the gradients of D's loss, and G's new moving averages.

    Only this phase updates G's moving averages, while it generates the fakes.
    It generates the whole batch at once, because the averages cover the whole
    batch. Without a gradient this only keeps a few feature maps in memory.
    """
    fakes_key, fake_key, real_key = generation.split_key(key, 3)
    fake_samples = self._fakes.sample(state.generator, len(z), fakes_key)
    fakes, averages = self._fakes.generate(
      state.generator, z, c, fake_samples, update_averages=True
    )
    rows = (
      (fakes, c, self._sample_augmentation(state, fake_key, len(z))),
      (images, labels, self._sample_augmentation(state, real_key, len(images))),
    )

    def loss_fn(params, rows):
      fake_logits, real_logits = (
        self._discriminate(state, params, *part) for part in rows
      )
      loss = losses.discriminator_loss(real_logits, fake_logits)
      return jnp.mean(loss), {
        'Loss/D/loss': statistics.moments(loss),
        **_scores('fake', fake_logits),
        **_scores('real', real_logits),
      }

    grads, moments = self._gradients(
      loss_fn, state.discriminator['params'], rows
    )
    return grads, moments, averages

  def r1_gradients(
    self,
    state: TrainState,
    images: AnyArray,
    labels: AnyArray | None = None,
    key: jax.Array | None = None,
  ) -> tuple[Tree, Moments]:
    """Returns the gradients of the R1 term, scaled by `r1_interval`."""
    recipe = self.recipe
    rows = (images, labels, self._sample_augmentation(state, key, len(images)))

    def loss_fn(params, rows):
      images, *rest = rows
      penalty, _ = losses.r1_penalty(
        lambda x: self._discriminate(state, params, x, *rest), images
      )
      loss = penalty * (recipe.r1_gamma / 2)
      return jnp.mean(loss) * recipe.r1_interval, {
        'Loss/r1_penalty': statistics.moments(penalty),
        'Loss/D/reg': statistics.moments(loss),
      }

    return self._gradients(loss_fn, state.discriminator['params'], rows)

  @property
  def _fakes(self) -> generation.FakeGenerator:
    return generation.FakeGenerator(
      self.generator, self.recipe.style_mixing_prob
    )

  def _gradients(
    self,
    loss_fn: micro_batches_lib.LossFn,
    params: Tree,
    rows: Any,
  ) -> tuple[Tree, Moments]:
    """Returns gradients and moments of a loss of D's logits."""
    n = len(jax.tree.leaves(rows)[0])
    grads, moments = micro_batches_lib.gradients(
      loss_fn,
      params,
      rows,
      micro_batches=self.recipe.micro_batches,
      group=discriminator_lib.images_in_group(
        n, self.discriminator.mbstd_group
      ),
    )
    return grads, _sum(moments)

  def _sample_augmentation(
    self, state: TrainState, key: jax.Array | None, n: int
  ) -> augment.Samples | None:
    """Samples the augmentation of a batch; returns None if there is none."""
    augmentation = self.recipe.augmentation
    if augmentation is None:
      return None
    if key is None:
      raise ValueError('this recipe augments images at random: pass a key')
    return augment.sample(
      key,
      augmentation.probability(state.augment),
      (n, *self.generator.spec.image_shape),
      augmentation.ops,
    )

  def _discriminate(
    self,
    state: TrainState,
    params: Tree,
    images: Array,
    labels: AnyArray | None,
    samples: augment.Samples | None,
  ) -> Any:
    """Returns the logits of images that are first blurred, then augmented."""
    recipe = self.recipe
    if recipe.blur_init_sigma > 0 and recipe.blur_fade_kimg > 0:
      faded = state.nimg / (recipe.blur_fade_kimg * 1000)
      sigma = recipe.blur_init_sigma * jnp.maximum(1 - faded, 0)
      images = losses.blur(images, sigma, max_sigma=recipe.blur_init_sigma)
    if samples is not None:
      images = augment.apply(images, samples)
    return self.discriminator.apply({'params': params}, images, labels)


def _scores(name: str, logits: Array) -> Moments:
  return {
    f'Loss/scores/{name}': statistics.moments(logits),
    f'Loss/signs/{name}': statistics.moments(jnp.sign(logits)),
  }


def _sum(moments: Moments) -> Moments:
  """Returns the moments of all micro-batches together."""
  return {name: jnp.sum(value, 0) for name, value in moments.items()}
