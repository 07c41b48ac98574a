"""Training with a kernel in every layer, interpreted."""

import jax
import numpy as np
import pytest
import tiny

from sg3jax.ops.filtered_lrelu import interpreted, pallas_gpu
from sg3jax.train import config as config_lib
from sg3jax.train import loop


def _step(design, implementation):
  """Returns the state and the moments after a step in an implementation."""
  config = tiny.tiny_config(design, batch=4)
  config.model.filtered_lrelu_implementation = implementation
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = loop.make_trainer(config)
  rng = np.random.RandomState(0)
  images = rng.randint(0, 256, (4, 16, 16, 3)).astype(np.uint8)
  z = rng.randn(2, 4, 8).astype(np.float32)
  with interpreted():
    state = jax.jit(trainer.init)(jax.random.key(0))
    return jax.jit(trainer.update)(state, {'image': images}, z)


@pytest.mark.slow
@pytest.mark.parametrize('design', 'tr')
def test_a_step_equals_that_of_banded(design):
  ours, moments = _step(design, 'pallas_tpu')
  expected, expected_moments = _step(design, 'banded')
  for name, value in expected_moments.items():
    np.testing.assert_allclose(moments[name], value, rtol=1e-4, err_msg=name)
  # Adam's states after one step hold the squares of the gradients.
  for name in ('generator_opt', 'discriminator_opt'):
    actual = dict(jax.tree.leaves_with_path(getattr(ours, name)))
    for path, value in jax.tree.leaves_with_path(getattr(expected, name)):
      if np.issubdtype(value.dtype, np.floating):
        error = np.linalg.norm(actual[path] - value)
        size = max(np.linalg.norm(value), 1e-12)
        assert error / size < 2e-3, name + jax.tree_util.keystr(path)


def _generator_gradient(design, implementation, precision):
  config = tiny.tiny_config(design, batch=2)
  config.model.precision = precision
  config.model.filtered_lrelu_implementation = implementation
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = loop.make_trainer(config)
  z = np.random.RandomState(0).randn(2, 8).astype(np.float32)
  with interpreted():
    state = jax.jit(trainer.init)(jax.random.key(0))
    gradient, _ = jax.jit(trainer.generator_gradients)(state, z)
  return gradient


@pytest.mark.skipif(
  jax.__version_info__ < pallas_gpu._OLDEST_JAX,
  reason='the GPU kernel and its interpreter need JAX 0.11',
)
@pytest.mark.parametrize('design', 'tr')
def test_gpu_gradients_equal_those_of_banded(design):
  ours = _generator_gradient(design, 'pallas_gpu', 'fp16')
  expected = _generator_gradient(design, 'banded', 'fp32')

  def norm(tree):
    return (
      sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(tree)) ** 0.5
    )

  # float16 moves a signal to the other side of zero here and there, and so
  # masks: banded itself is off by 0.005 in it.
  error = norm(jax.tree.map(np.subtract, ours, expected)) / norm(expected)
  assert error < 0.03
