"""Generators against recorded ones, and their properties."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest

from sg3jax.nets import generator as generator_lib

_FILES = [
  'generator_t64.npz',
  'generator_r64_cond.npz',
  'generator_t64_gray.npz',
]

# The recordings used the default of the recorded tool, not that of training.
_MAGNITUDE_BETA = 0.999
_W_AVG_BETA = 0.998


@dataclasses.dataclass(eq=False)
class _Recorded:
  arrays: dict
  generator: generator_lib.Generator
  variables: dict

  @property
  def label(self):
    return self.arrays.get('c')

  @functools.cached_property
  def synthesize(self):
    """(variables, ws, transform) -> images."""
    return jax.jit(functools.partial(self.generator.apply, method='synthesis'))

  @functools.cached_property
  def update(self):
    """(variables, ws) -> images and the updated averages."""
    return jax.jit(
      functools.partial(
        self.generator.apply,
        update_averages=True,
        method='synthesis',
        mutable='moving_averages',
      )
    )


@pytest.fixture(scope='module', params=_FILES)
def recorded(request, golden):
  arrays = golden(request.param)
  batch = len(arrays['z'])
  generator = generator_lib.Generator(
    official_names.generator_spec(arrays, resolution=64),
    z_dim=64,
    w_dim=64,
    label_dim=arrays['c'].shape[1] if 'c' in arrays else 0,
    magnitude_half_life=batch * np.log(2) / -np.log(_MAGNITUDE_BETA),
  )
  variables = official_names.generator_variables(arrays)
  recorded = _Recorded(arrays, generator, variables)
  # The recorded moving averages are those after the update that ends the
  # recording; all else was computed with those before it. Take it back:
  # after = current + beta (before - current).
  after = variables['moving_averages']
  _, updates = recorded.update(variables, arrays['ws'])
  before = jax.tree.map(
    lambda updated, v: _undo(updated, v, v, _MAGNITUDE_BETA),
    updates['moving_averages']['synthesis'],
    after['synthesis'],
  )
  w_avg = after['w_avg']
  w_mean = arrays['ws'][:, 0].mean(0)
  w_avg = (w_avg - (1 - _W_AVG_BETA) * w_mean) / _W_AVG_BETA
  recorded.variables = variables | {
    'moving_averages': {'synthesis': before, 'w_avg': w_avg}
  }
  return recorded


def _undo(updated, start, after, beta):
  """Returns what a moving average was, given an update from elsewhere."""
  current = (np.asarray(updated) - beta * start) / (1 - beta)
  return (after - (1 - beta) * current) / beta


def _relative_error(ours, reference) -> float:
  """Largest error in units of the largest magnitude of the reference."""
  return np.abs(ours - reference).max() / np.abs(reference).max()


def _nhwc(images):
  return images.transpose(0, 2, 3, 1)


@pytest.mark.slow
def test_variables_are_those_of_init(recorded):
  ours = jax.eval_shape(
    recorded.generator.init,
    jax.random.key(0),
    recorded.arrays['z'],
    recorded.label,
  )
  shapes = jax.tree.map(np.shape, recorded.variables)
  assert jax.tree.map(lambda x: x.shape, ours) == shapes


def test_mapping_and_truncation(recorded):
  for key, kwargs in {
    'ws': {},
    'ws_psi0.7': {'truncation_psi': 0.7},
    'ws_psi0.5_cutoff8': {'truncation_psi': 0.5, 'truncation_cutoff': 8},
  }.items():
    ws = recorded.generator.apply(
      recorded.variables,
      recorded.arrays['z'],
      recorded.label,
      method='mapping',
      **kwargs,
    )
    assert _relative_error(ws, recorded.arrays[key]) < 1e-5, key


def test_images_and_transforms(recorded):
  # Float32 sums of up to 9 x 96 products in 15 layers.
  arrays = recorded.arrays
  for key, transform in {
    'img': np.eye(3),
    'img_translate': arrays['transform_translate'],
    'img_affine': arrays['transform_affine'],
  }.items():
    images = recorded.synthesize(recorded.variables, arrays['ws'], transform)
    assert _relative_error(images, _nhwc(arrays[key])) < 1e-4, key


def test_magnitudes_are_those_of_the_recorded_activations(recorded):
  """Returns what the averages move towards, whatever was recorded before."""
  arrays, generator = recorded.arrays, recorded.generator
  # The activations are those of the first image alone.
  _, updates = recorded.update(recorded.variables, arrays['ws'][:1])
  beta = _MAGNITUDE_BETA ** (1 / len(arrays['ws']))
  before = recorded.variables['moving_averages']['synthesis']
  after = updates['moving_averages']['synthesis']
  recorded_stats = {
    key.split('/')[1].split('_')[0]: arrays[key]
    for key in arrays
    if key.endswith('/mean_std')
  }
  for layer in generator.spec.layers:
    ours = (
      np.float64(after[layer.name]['magnitude'])
      - beta * before[layer.name]['magnitude']
    ) / (1 - beta)
    previous = f'L{layer.index - 1}' if layer.index else 'input'
    mean, std = recorded_stats[previous]
    # Float32 averages lose three digits in the difference.
    np.testing.assert_allclose(ours, mean**2 + std**2, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_loss_gradients_and_averages(recorded):
  arrays = recorded.arrays

  @jax.jit
  def run(variables):
    def loss_fn(params):
      images = recorded.generator.apply(
        variables | {'params': params}, arrays['z'], recorded.label
      )
      return jnp.sum(images * _nhwc(arrays['probe'])), images

    return jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])

  (loss, images), grads = run(recorded.variables)
  assert _relative_error(images, _nhwc(arrays['img'])) < 1e-4
  np.testing.assert_allclose(loss, arrays['loss'], rtol=1e-4)
  expected = official_names.generator_variables(arrays, 'grad/')['params']
  # In the norm: single entries feel each sign that rounding flips.
  errors = jax.tree.map(
    lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b), grads, expected
  )
  for path, error in jax.tree.leaves_with_path(errors):
    assert error < 1e-3, jax.tree_util.keystr(path)

  _, updates = recorded.generator.apply(
    recorded.variables,
    arrays['z'],
    recorded.label,
    update_averages=True,
    mutable='moving_averages',
  )
  expected = official_names.generator_variables(arrays, 'ema_after/')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    updates['moving_averages'],
    expected['moving_averages'],
  )
