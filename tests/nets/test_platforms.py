"""Generators compute the same values in the forms for GPUs and TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.nets import synthesis
from sg3jax.ops.filtered_lrelu import platform

Z = np.random.RandomState(0).randn(4, 8).astype(np.float32)


def _spec(**overrides):
  return spec_lib.stylegan3_t(
    16, channel_base=200, channel_max=7, num_layers=3, **overrides
  )


def _everything(spec, noise_mode='const', **options):
  """Returns images, updated averages and gradients, compiled for this CPU."""
  generator = generator_lib.Generator(
    spec, z_dim=8, w_dim=8, filtered_lrelu_implementation='banded', **options
  )
  # Its strength is zero at first, in which nothing would be seen.
  variables = jax.tree.map(
    lambda x: x + 0.1 * (x == 0), generator.init(jax.random.key(0), Z)
  )
  rngs = {'noise': jax.random.key(1)}

  def images(params):
    return generator.apply(
      variables | {'params': params}, Z, noise_mode=noise_mode, rngs=rngs
    )

  _, averages = generator.apply(
    variables, Z, update_averages=True, mutable=['moving_averages'], rngs=rngs
  )
  params = variables['params']
  gradients = jax.grad(lambda p: jnp.mean(jnp.sin(3 * images(p))))(params)
  return images(params), averages, gradients


def _assert_close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=2e-5, atol=2e-5 * float(jnp.abs(b).max())
    ),
    actual,
    expected,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('overrides', 'noise_mode'),
  [({}, 'const'), ({'noise': True}, 'random'), ({'p4': True}, 'const')],
  ids=['plain', 'noise', 'p4'],
)
def test_padded_channels_and_recomputation(overrides, noise_mode):
  spec = _spec(**overrides)
  expected = _everything(spec, noise_mode)
  with platform.targeted('cuda', 'NVIDIA A100'):
    assert synthesis.stored_channels(7) == 8
    _assert_close(_everything(spec, noise_mode), expected)


def test_recomputation_alone():
  _assert_close(_everything(_spec(), remat=True), _everything(_spec()))


def test_nonlinearities_are_computed_again_where_memory_is_dear():
  generator = generator_lib.Generator(_spec(), z_dim=8, w_dim=8)
  variables = generator.init(jax.random.key(0), Z)

  def is_recomputed(name):
    with platform.targeted(name):
      jaxpr = jax.make_jaxpr(
        jax.grad(lambda v: generator.apply(v, Z).sum(), allow_int=True)
      )(variables)
    return 'checkpoint' in str(jaxpr) or 'remat' in str(jaxpr)

  assert not is_recomputed('cpu')
  assert is_recomputed('tpu')
