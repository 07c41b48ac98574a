"""Training with a kernel in every layer, interpreted; and in 16 bits."""

import functools

import jax
import numpy as np
import pytest
import tiny

from sg3jax.ops.filtered_lrelu import interpreted
from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch
from sg3jax.train import config as config_lib
from sg3jax.train.step import build

BATCH = 2


@functools.cache
def _step(design, implementation, precision='fp32'):
  """Returns the state and the moments after a step in an implementation."""
  config = tiny.tiny_config(design, batch=BATCH)
  config.model.precision = precision
  config.model.filtered_lrelu_implementation = implementation
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = build.make_trainer(config)
  rng = np.random.RandomState(0)
  images = rng.randint(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8)
  z = rng.randn(2, BATCH, 8).astype(np.float32)
  with interpreted():
    state = jax.jit(trainer.init)(jax.random.key(0))
    return jax.jit(trainer.update)(state, {'image': images}, z)


def _gradients(state, name):
  """Returns the last gradients of a network: Adam's first moments."""
  return {
    jax.tree_util.keystr(path): np.asarray(value)
    for path, value in jax.tree.leaves_with_path(getattr(state, name))
    if '.mu' in jax.tree_util.keystr(path)
  }


def _error(actual, expected):
  def norm(values):
    return sum(np.sum(np.square(v)) for v in values) ** 0.5

  difference = [actual[name] - value for name, value in expected.items()]
  return norm(difference) / max(norm(expected.values()), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize('design', 'tr')
def test_a_step_equals_that_of_banded(design):
  ours, moments = _step(design, 'pallas_tpu')
  expected, expected_moments = _step(design, 'banded')
  for name, value in expected_moments.items():
    np.testing.assert_allclose(moments[name], value, rtol=1e-4, err_msg=name)
  for name in ('generator_opt', 'discriminator_opt'):
    gradients = _gradients(expected, name)
    assert gradients
    for key, value in _gradients(ours, name).items():
      assert _error({key: value}, {key: gradients[key]}) < 1e-3, name + key


@pytest.mark.skipif(
  jax.__version_info__ < gpu_launch._OLDEST_JAX,
  reason='the GPU kernel and its interpreter need JAX 0.11',
)
@pytest.mark.parametrize('design', 'tr')
def test_a_step_on_gpus_equals_that_of_banded(design):
  ours, moments = _step(design, 'pallas_gpu', 'fp16')
  expected, expected_moments = _step(design, 'banded')
  for name, value in expected_moments.items():
    # Scores are near zero: sums of terms of order 1, each rounded to 2^-11.
    np.testing.assert_allclose(
      moments[name], value, rtol=5e-3, atol=1e-3, err_msg=name
    )
  for name in ('generator_opt', 'discriminator_opt'):
    # float16 moves a signal to the other side of zero here and there, and so
    # masks: banded itself is off by 0.013 in it.
    error = _error(_gradients(ours, name), _gradients(expected, name))
    assert error < 0.03, name


@pytest.mark.slow
@pytest.mark.parametrize(
  ('precision', 'tolerance'),
  # A rounding is 2^-11 in float16 and 2^-8 in bfloat16; what it amounts to
  # grows in the same ratio, about, for it is masks that change.
  [('fp16', 0.05), ('bf16', 0.2)],
)
def test_a_step_in_16_bits_is_close_to_one_in_32(precision, tolerance):
  ours, moments = _step('t', 'banded', precision)
  expected, expected_moments = _step('t', 'banded')
  for name, value in expected_moments.items():
    if name.startswith('Loss/') and 'signs' not in name:
      np.testing.assert_allclose(
        moments[name], value, rtol=tolerance, atol=1e-3, err_msg=name
      )
  for name in ('generator_opt', 'discriminator_opt'):
    error = _error(_gradients(ours, name), _gradients(expected, name))
    assert 0 < error < tolerance, name
