"""The training step against the recipe, written out phase by phase.

Gradients come from `jax.grad` of losses spelled here; all else, Adam, its lazy
correction, the averages, the order of phases, is NumPy in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sg3jax.train import config as config_lib
from sg3jax.train import loop, losses

_BATCH, _STEPS = 8, 3


class _Adam:
  """Adam with b1 = 0, per array, in float64; arrays without gradient wait."""

  def __init__(self, lr, ratio=1.0):
    self.lr, self.beta2 = lr * ratio, 0.99**ratio
    self.moments, self.counts = {}, {}

  def update(self, params, grads, skip=()):
    updated = {}
    for path, p in params.items():
      if path.endswith(skip) and skip:
        updated[path] = p
        continue
      g = np.asarray(grads[path], np.float64)
      v = self.moments.get(path, 0.0) * self.beta2 + (1 - self.beta2) * g**2
      n = self.counts.get(path, 0) + 1
      self.moments[path], self.counts[path] = v, n
      v_hat = v / (1 - self.beta2**n)
      updated[path] = p - self.lr * g / (np.sqrt(v_hat) + 1e-8)
    return updated


def _flat(tree):
  leaves = jax.tree.leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path): np.asarray(x, np.float64) for path, x in leaves
  }


def _unflat(flat, like):
  return jax.tree.map_with_path(
    lambda path, x: jnp.asarray(flat[jax.tree_util.keystr(path)], x.dtype), like
  )


class _Recipe:
  """The same training, spelled out; keeps variables of G, D and the average."""

  def __init__(self, config, trainer, state):
    self.config, self.trainer = config, trainer
    self.g, self.d = state.generator, state.discriminator
    self.ema = state.generator
    interval = config.train.r1_interval
    self.g_adam = _Adam(config.train.g_lr)
    self.d_adam = _Adam(config.train.d_lr, interval / (interval + 1))
    self.step = 0
    self._g_grad = jax.jit(jax.grad(self._g_loss))
    self._d_grad = jax.jit(jax.grad(self._d_loss))
    self._r1_grad = jax.jit(jax.grad(self._r1_loss))
    self._draw = jax.jit(
      lambda g, z: trainer.generator.apply(
        g, z, update_averages=True, mutable='moving_averages'
      )
    )

  def _logits(self, d, images, sigma):
    if self.config.train.blur_init_sigma:
      images = losses.blur(
        images, sigma, max_sigma=self.config.train.blur_init_sigma
      )
    return self.trainer.discriminator.apply(d, images)

  def _g_loss(self, params, g, d, z, sigma):
    fakes = self.trainer.generator.apply(g | {'params': params}, z)
    return jnp.mean(jnp.log1p(jnp.exp(-self._logits(d, fakes, sigma))))

  def _d_loss(self, params, fakes, images, sigma):
    fake = self._logits({'params': params}, fakes, sigma)
    real = self._logits({'params': params}, images, sigma)
    return jnp.mean(jnp.log1p(jnp.exp(fake)) + jnp.log1p(jnp.exp(-real)))

  def _r1_loss(self, params, images, sigma):
    def one(image):  # Of all logits: minibatch statistics couple images.
      return jnp.sum(self._logits({'params': params}, image, sigma))

    penalty = jnp.sum(jnp.square(jax.grad(one)(images)), axis=(1, 2, 3))
    options = self.config.train
    return jnp.mean(penalty) * options.r1_gamma / 2 * options.r1_interval

  def _apply(self, adam, variables, grads, skip=()):
    params = adam.update(_flat(variables['params']), _flat(grads), skip)
    return variables | {'params': _unflat(params, variables['params'])}

  def run(self, images_u8, z):
    options = self.config.train
    shown = self.step * _BATCH
    images = jnp.asarray(images_u8 / np.float32(127.5) - 1, jnp.float32)
    fade = max(1 - shown / (options.blur_fade_kimg * 1000), 0)
    sigma = jnp.float32(options.blur_init_sigma * fade)

    grads = self._g_grad(self.g['params'], self.g, self.d, z[0], sigma)
    self.g = self._apply(self.g_adam, self.g, grads)

    fakes, averages = self._draw(self.g, z[1])
    grads = self._d_grad(self.d['params'], fakes, images, sigma)
    self.d = self._apply(self.d_adam, self.d, grads)
    self.g = self.g | averages

    if self.step % options.r1_interval == 0:
      grads = self._r1_grad(self.d['params'], images, sigma)
      self.d = self._apply(self.d_adam, self.d, grads, "['out']['bias']")

    half_life = min(options.ema_kimg * 1000, shown * options.ema_rampup)
    beta = 0.5 ** (_BATCH / max(half_life, 1e-8))
    old, new = _flat(self.ema['params']), _flat(self.g['params'])
    mixed = {path: new[path] + beta * (old[path] - new[path]) for path in new}
    self.ema = self.g | {'params': _unflat(mixed, self.g['params'])}
    self.step += 1


@pytest.mark.slow
@pytest.mark.parametrize('design', 'tr')
def test_step_is_the_recipe(design):
  config = tiny.tiny_config(design, ema_kimg=0.01, ema_rampup=0.5)
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = loop.make_trainer(config)
  state = jax.jit(trainer.init)(jax.random.key(0))
  recipe = _Recipe(config, trainer, state)
  update = jax.jit(trainer.update)
  rng = np.random.RandomState(0)
  for _ in range(_STEPS):
    images = rng.randint(0, 256, (_BATCH, 16, 16, 3)).astype(np.uint8)
    z = rng.randn(2, _BATCH, 8).astype(np.float32)
    state, moments = update(state, {'image': images}, z)
    recipe.run(images, z)
  assert int(state.step) == _STEPS
  assert int(state.nimg) == _STEPS * _BATCH
  assert float(moments['Loss/r1_penalty'][0]) == _BATCH  # Steps 0 and 2.
  for name, ours, expected in (
    ('G', state.generator, recipe.g),
    ('D', state.discriminator, recipe.d),
    ('G_ema', state.generator_ema, recipe.ema),
  ):
    ours, expected = _flat(ours), _flat(expected)
    assert ours.keys() == expected.keys()
    for path, value in expected.items():
      # Adam divides by the gradient's own size: where that is rounding, a step
      # of lr can differ. Bounded by a hundredth of the three steps.
      np.testing.assert_allclose(
        ours[path], value, atol=1e-4, err_msg=name + path
      )
