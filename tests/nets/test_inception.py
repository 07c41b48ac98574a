"""Inception-v3 against recordings with weights that follow from their names."""

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
import pytest

from sg3jax.nets.features import base, inception, layers


@pytest.fixture(scope='module')
def recorded(golden):
  return golden('inception_random.npz')


@pytest.fixture(scope='module')
def variables(golden, recorded):
  salt = str(recorded['salt'])
  return named_weights.variables(
    {
      entry['name']: named_weights.inception(
        entry['name'], tuple(entry['shape']), salt
      )
      for entry in golden('inception_state_dict.json')
    }
  )


def _images(recorded, which):
  return recorded[f'{which}/images'].transpose(0, 2, 3, 1)


def _difference(found, expected):
  """Returns the largest difference, relative to the largest value."""
  return float(np.abs(np.asarray(found) - expected).max() / abs(expected).max())


def test_parameters_are_those_of_the_published_file(golden):
  expected = {}
  for entry in golden('inception_state_dict.json'):
    if not entry['name'].endswith('num_batches_tracked'):
      shape = entry['shape']
      if len(shape) == 4:
        shape = [shape[2], shape[3], shape[1], shape[0]]
      elif len(shape) == 2:
        shape = shape[::-1]
      expected['params/' + entry['name'].replace('.', '/')] = tuple(shape)
  assert inception.shapes() == expected


@pytest.mark.parametrize('which', ['a', 'b'])
def test_prepared_images(recorded, which):
  """A half-pixel convention, or 127.5, would differ by 1e-2."""
  found = np.asarray(inception.prepare(_images(recorded, which)))
  found = found.transpose(0, 3, 1, 2)
  assert found.dtype == np.float32
  for crop, name in (
    (found[..., :24, :24], 'top_left'),
    (found[..., -24:, -24:], 'bottom_right'),
  ):
    expected = recorded[f'{which}/input_crop_{name}']
    np.testing.assert_allclose(crop, expected, rtol=0, atol=1e-4)
  y, x = recorded[f'{which}/input_sample_yx'].T
  np.testing.assert_allclose(
    found[..., y, x], recorded[f'{which}/input_samples'], rtol=0, atol=1e-4
  )
  np.testing.assert_allclose(
    found.mean((2, 3)), recorded[f'{which}/input_mean'], rtol=0, atol=1e-4
  )


@pytest.mark.slow
def test_outputs(recorded, variables):
  """Pools that count padding change these by 4e-2, other epsilons by 1e-2."""
  network = base.find('inception')
  outputs = jax.jit(network.apply)(variables, _images(recorded, 'b'))
  names = {'features': '2048'}
  assert set(outputs) == set(network.dims)
  for name, dim in network.dims.items():
    expected = recorded[f'b/{names.get(name, name)}']
    assert outputs[name].shape == expected.shape == (2, dim)
    assert outputs[name].dtype == jnp.float32
    assert _difference(outputs[name], expected) < 1e-4, name


@pytest.mark.slow
def test_blocks(recorded, variables):
  blocks = jax.jit(inception.InceptionV3().apply)
  for which in 'ab':
    found = blocks(variables, inception.prepare(_images(recorded, which)))
    for name in recorded['block_names']:
      x = np.asarray(found[name])
      _, h, w, _ = x.shape
      # Relative to the largest number of the whole activation, not of a corner.
      for position, value in (
        ('corner', x[:, 0, 0]),
        ('center', x[:, h // 2, w // 2]),
        ('mean', x.mean((1, 2, 3))),
        ('std', x.std((1, 2, 3))),
      ):
        expected = recorded[f'{which}/{name}/{position}']
        error = np.abs(value - expected).max() / np.abs(x).max()
        assert error < 1e-4, (name, position)
    for name in ('logits', 'logits_unbiased'):
      assert _difference(found[name], recorded[f'{which}/{name}']) < 1e-4


@pytest.mark.parametrize('old', [1, 2, 64, 299, 700])
def test_resizing_interpolates(old):
  matrix = inception._bilinear(old, 299)
  np.testing.assert_allclose(matrix.sum(1), 1)
  assert (matrix >= 0).all()
  assert ((matrix > 0).sum(1) <= 2).all()
  # It maps a ramp to a ramp, held at the end.
  expected = np.minimum(np.arange(299) * old / 299, old - 1)
  np.testing.assert_allclose(matrix @ np.arange(old), expected, atol=1e-9)
  if old == 299:
    np.testing.assert_array_equal(matrix, np.eye(299))


def test_grey_is_repeated_and_alpha_dropped():
  rgba = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 4), np.uint8)
  rgb = inception.prepare(rgba[..., :3])
  np.testing.assert_array_equal(inception.prepare(rgba), rgb)
  grey = inception.prepare(rgba[..., :1])
  np.testing.assert_array_equal(grey, inception.prepare(rgba[..., [0, 0, 0]]))


@pytest.mark.parametrize('shape', [(2, 8, 8, 2), (8, 8, 3)])
def test_impossible_images(shape):
  with pytest.raises(ValueError, match=r'images must be \[n, h, w, c\] with'):
    layers.as_rgb(np.zeros(shape, np.uint8))


@pytest.mark.parametrize('shape', [(1, 1), (2, 5), (8, 8)])
def test_average_pools_do_not_count_padding(shape):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, *shape, 2)).astype(np.float32)
  found = np.asarray(layers.average_pool_same(jnp.asarray(x), 3))
  for i, j in np.ndindex(shape):
    window = x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
    np.testing.assert_allclose(
      found[0, i, j], window.mean((0, 1), np.float64), rtol=0, atol=1e-6
    )
