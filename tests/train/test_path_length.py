"""Path lengths against a recording, a closed form, and when they are off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest
import tiny

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import stylegan2
from sg3jax.train import config as config_lib
from sg3jax.train import sharding
from sg3jax.train.step import build, losses
from sg3jax.train.step import state as state_lib


def test_recorded_lengths_and_second_order_gradients(golden):
  arrays = golden('stylegan2_generator32.npz')
  generator = generator_lib.Generator(
    stylegan2.StyleGAN2Spec(resolution=32, channel_base=512, channel_max=32),
    z_dim=64,
    w_dim=64,
    mapping_layers=4,
  )
  variables = official_names.generator_variables(arrays)

  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss(params):
    lengths = losses.path_lengths(
      lambda ws: generator.apply(
        variables | {'params': params}, ws, method='synthesis'
      ),
      arrays['ws'],
      arrays['pl_noise_scaled'].transpose(0, 2, 3, 1),
    )
    # The recorded mean is the one after the update.
    penalty, _ = losses.path_length_penalty(lengths, jnp.float32(0.3), 0.0)
    return 2 * jnp.mean(penalty), lengths

  (value, lengths), grads = jax.jit(loss)(variables['params'])
  # Float32 sums of 9 x 32 products in seven layers, there and back.
  np.testing.assert_allclose(lengths, arrays['pl_lengths'], rtol=1e-4)
  np.testing.assert_allclose(
    value, arrays['pl_loss_mean0.3_weight2'], rtol=1e-4
  )
  expected = dict(
    jax.tree.leaves_with_path(
      official_names.generator_variables(arrays, 'pl_grad/')['params']
    )
  )
  for path, grad in jax.tree.leaves_with_path(grads['synthesis']):
    name = jax.tree_util.keystr(path)
    path = (jax.tree_util.DictKey('synthesis'), *path)
    if path not in expected:  # Shifts the image: no part in its gradients.
      assert name.endswith("['torgb']['bias']")
      assert not np.any(grad), name
      continue
    error = np.linalg.norm(grad - expected[path])
    assert error < 1e-3 * np.linalg.norm(expected[path]), name


def test_a_linear_generator_has_the_lengths_of_its_matrix():
  """Pixels are 2 (w_0 + w_1): the gradient is 2 y in both layers."""
  ws = np.random.RandomState(0).randn(3, 2, 12).astype(np.float32)
  y = np.random.RandomState(1).randn(3, 2, 2, 3).astype(np.float32)

  def synthesize(a, ws):
    return (a * ws.sum(1)).reshape(-1, 2, 2, 3)

  def loss(a, mean):
    lengths = losses.path_lengths(functools.partial(synthesize, a), ws, y)
    penalty, mean = losses.path_length_penalty(lengths, mean, 0.1)
    return jnp.mean(penalty), (lengths, mean)

  (value, (lengths, mean)), grad = jax.value_and_grad(loss, has_aux=True)(
    2.0, jnp.float32(5.0)
  )
  norms = np.linalg.norm(y.reshape(3, -1), axis=1)
  np.testing.assert_allclose(lengths, 2 * norms, rtol=1e-6)
  expected_mean = 0.9 * 5.0 + 0.1 * np.mean(2 * norms)
  np.testing.assert_allclose(mean, expected_mean, rtol=1e-6)
  deviations = 2 * norms - expected_mean
  np.testing.assert_allclose(value, np.mean(deviations**2), rtol=1e-5)
  # The mean is a constant: no tenth of it is taken back.
  np.testing.assert_allclose(grad, np.mean(2 * deviations * norms), rtol=1e-5)


@pytest.mark.parametrize('size', [4, 64])
def test_directions_have_the_same_length_at_all_resolutions(size):
  y = losses.path_directions(jax.random.key(0), (256, size, size, 3))
  squares = np.square(y).sum((1, 2, 3))
  # A mean of 256 sums of at least 48 squares: known to 3 sqrt(2 / (256 x 48)).
  assert np.mean(squares) == pytest.approx(3, rel=4 * 0.013)


def test_generator_optimizer_is_lazy_adam_only_with_path_lengths():
  params = {'torgb': {'bias': jnp.ones(2)}, 'conv': {'bias': jnp.ones(2)}}
  grads = [
    jax.tree.map(functools.partial(jnp.full_like, fill_value=value), params)
    for value in (1.0, 3.0)
  ]
  for interval, ratio in ((None, 1.0), (4, 0.8)):
    tx = state_lib.make_generator_optimizer(0.01, interval)
    opt = tx.init(params)
    for grad in grads:
      updates, opt = tx.update(grad, opt, params)
    beta = 0.99**ratio
    # The second moment after two steps, freed from its bias to 0.
    second = (beta * 1 + 9) * (1 - beta) / (1 - beta**2)
    for update in jax.tree.leaves(updates):
      np.testing.assert_allclose(
        update, -0.01 * ratio * 3 / np.sqrt(second), rtol=1e-5
      )


def _trainer(design='2', resolution=8, label_dim=0):
  config = tiny.tiny_config(design)
  config.model.resolution = resolution  # Half as many layers to compile.
  config_lib.resolve(config, img_channels=3, label_dim=label_dim)
  return build.make_trainer(config)


def _shapes(resolution):
  return {
    'image': jax.ShapeDtypeStruct((8, resolution, resolution, 3), jnp.uint8)
  }


def test_off_by_default():
  trainer = _trainer('t', 16)
  assert trainer.recipe.pl_weight == trainer.recipe.style_mixing_prob == 0
  state, moments = jax.eval_shape(
    trainer.step,
    jax.eval_shape(trainer.init, jax.random.key(0)),
    _shapes(16),
    jax.random.key(0),
  )
  assert 'Loss/pl_penalty' not in moments
  assert not hasattr(state.generator_opt, 'inner_states')


def test_labels_reach_the_phase():
  trainer = _trainer(label_dim=3)
  state = jax.eval_shape(trainer.init, jax.random.key(0))
  z, c = np.zeros((4, 8), np.float32), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
  with pytest.raises(ValueError, match='pass labels'):
    jax.eval_shape(
      trainer.phases.path_length_gradients, state, z, None, jax.random.key(0)
    )
  grads, *_ = jax.eval_shape(
    trainer.phases.path_length_gradients, state, z, c, jax.random.key(0)
  )
  assert jax.tree.map(jnp.shape, grads) == jax.tree.map(
    jnp.shape, state.generator['params']
  )
  labels = jax.ShapeDtypeStruct((8, 3), jnp.float32)
  batch = dict.fromkeys(('label', 'g_label', 'd_label'), labels)
  _, moments = jax.eval_shape(
    trainer.step, state, _shapes(8) | batch, jax.random.key(0)
  )
  assert 'Loss/pl_penalty' in moments


def test_a_step_without_random_numbers_is_refused():
  trainer = _trainer()
  state = jax.eval_shape(trainer.init, jax.random.key(0))
  latents = jax.ShapeDtypeStruct((2, 8, 8), jnp.float32)
  with pytest.raises(ValueError, match='pass a key'):
    jax.eval_shape(trainer.update, state, _shapes(8), latents)


def test_a_batch_too_small_for_path_lengths_is_refused():
  mesh = sharding.make_mesh(4)
  sharding.check_batch(8, mesh, pl_batch_shrink=2)
  with pytest.raises(ValueError, match=r'4 // 2, .*pl_batch_shrink=1'):
    sharding.check_batch(4, mesh, pl_batch_shrink=2)  # Two for four devices.
  with pytest.raises(ValueError, match=r'1 // 2, .*over 1 devices'):
    sharding.check_batch(1, sharding.make_mesh(1), pl_batch_shrink=2)
