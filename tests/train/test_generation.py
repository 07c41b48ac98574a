"""Style mixing, and what random numbers and averages generated images have."""

import functools

import jax
import numpy as np
import pytest

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import stylegan2
from sg3jax.train.step import generation


@pytest.fixture(scope='module')
def networks():
  """A generator, variables, latents, and a jitted `generate_styles`."""
  spec = stylegan2.StyleGAN2Spec(resolution=8, channel_base=32, channel_max=4)
  generator = generator_lib.Generator(spec, z_dim=8, w_dim=8)
  shapes = jax.eval_shape(generator.init, jax.random.key(0), np.zeros((1, 8)))
  rng = np.random.RandomState(0)
  variables = jax.tree.map(
    lambda x: np.asarray(rng.randn(*x.shape), np.float32), shapes
  )
  z = rng.randn(3, 8).astype(np.float32)

  @functools.partial(jax.jit, static_argnames=('prob', 'update'))
  def generate(seed, prob, update=False):
    fakes = generation.FakeGenerator(generator, prob)
    samples = fakes.sample(variables, len(z), jax.random.key(seed))
    return fakes.generate_styles(
      variables, z, None, samples, update_averages=update
    )

  return generator, variables, z, generate


def test_whole_batches_change_their_styles_at_one_layer(networks):
  *_, generate = networks
  own, _ = generate(0, 0.0)
  assert np.ptp(own, axis=1).max() == 0
  cutoffs = []
  for seed in range(40):
    ws, _ = generate(seed, 1.0)
    is_own = np.all(np.isclose(ws, own, rtol=1e-5, atol=1e-6), axis=2)
    # All images alike: their own styles first, then one other style each.
    assert np.all(is_own == is_own[0])
    cutoff = int(is_own[0].sum())
    assert np.all(is_own[0] == (np.arange(4) < cutoff))
    assert np.ptp(ws[:, cutoff:], axis=1).max() == 0
    assert np.ptp(ws[:, -1], axis=0).max() > 1e-5
    cutoffs.append(cutoff)
  # Each of three has a chance of 1e-7 to be missed in 40 samples.
  assert set(cutoffs) == {1, 2, 3}


def test_mixing_has_the_probability_given(networks):
  *_, generate = networks
  own, _ = generate(0, 0.0)
  mixed = [np.any(generate(seed, 0.5)[0] != own) for seed in range(200)]
  # Four standard deviations of 0.035.
  assert abs(np.mean(mixed) - 0.5) < 0.15


def test_the_mean_style_is_that_of_unmixed_ones(networks):
  _, variables, _, generate = networks
  own, averages = generate(0, 0.0)
  before = variables['moving_averages']['w_avg']
  np.testing.assert_array_equal(averages['moving_averages']['w_avg'], before)
  for prob in (0.0, 1.0):
    _, averages = generate(0, prob, update=True)
    np.testing.assert_allclose(
      averages['moving_averages']['w_avg'],
      0.998 * before + 0.002 * own[:, 0].mean(0),
      rtol=1e-5,
      atol=1e-6,
    )


def test_noise_is_new_with_every_key_and_constant_without(networks):
  generator, variables, z, _ = networks
  fakes = generation.FakeGenerator(generator)

  @jax.jit
  def generate(key):
    samples = fakes.sample(variables, len(z), key)
    return fakes.generate(variables, z, None, samples)[0]

  first, second = generate(jax.random.key(0)), generate(jax.random.key(1))
  assert np.abs(first - second).max() > 0.1
  np.testing.assert_array_equal(first, generate(jax.random.key(0)))
  np.testing.assert_allclose(
    generate(None), generator.apply(variables, z), rtol=1e-4, atol=1e-4
  )
