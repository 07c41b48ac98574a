"""The CPU's kernel gradients against those that XLA derives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.ops import conv

_GEOMETRIES = [
  (k, padding, stride, dilation)
  for k, padding, stride, dilation in itertools.product(
    (1, 3, 4), (0, 1, 3), (1, 2, 3), (1, 2)
  )
]


@pytest.mark.parametrize(('k', 'padding', 'stride', 'dilation'), _GEOMETRIES)
def test_kernel_gradients_equal_the_derived_ones(k, padding, stride, dilation):
  # Called directly: compiled for each geometry they would take a minute.
  shape, kernel = (2, 7, 9, 3), (k, k, 3, 4)
  geometry = conv._Geometry(shape, kernel, padding, stride, dilation)
  rng = np.random.RandomState(0)
  with jax.enable_x64(True), jax.default_device(jax.devices('cpu')[0]):
    x = jnp.asarray(rng.randn(*shape))
    y, pull = jax.vjp(lambda w: geometry.convolve(x, w), jnp.ones(kernel))
    g = jnp.asarray(rng.randn(*y.shape))
    np.testing.assert_allclose(
      conv._kernel_gradient_on_cpu(geometry, x, g),
      pull(g)[0],
      rtol=1e-12,
      atol=1e-12,
    )


@pytest.mark.parametrize(('k', 'padding'), [(2, 1), (3, 0), (3, 1), (3, 2)])
def test_the_gradient_for_gpus_equals_the_derived_one(k, padding):
  shape, kernel = (2, 7, 9, 3), (k, k, 3, 4)
  geometry = conv._Geometry(shape, kernel, padding, stride=1, dilation=1)
  rng = np.random.RandomState(0)
  with jax.enable_x64(True):
    x = jnp.asarray(rng.randn(*shape))
    y, pull = jax.vjp(lambda w: geometry.convolve(x, w), jnp.ones(kernel))
    g = jnp.asarray(rng.randn(*y.shape))
    np.testing.assert_allclose(
      conv._kernel_gradient_on_gpu(geometry, x, g), pull(g)[0], rtol=1e-12
    )


def test_gpus_see_the_smaller_image_as_the_kernel():
  """With full padding, the adjoint's: 9 x 11 of g for 7 x 9 of x."""
  x, w = jnp.ones((2, 7, 9, 3)), jnp.ones((3, 3, 3, 4))

  def windows(platform):
    pull = jax.vjp(lambda w: conv.conv2d(x, w, padding=2), w)[1]
    traced = jax.jit(pull).trace(jnp.ones((2, 9, 11, 4)))
    return traced.lower(lowering_platforms=(platform,)).as_text()

  assert 'tensor<2x7x9x3xf32>, tensor<2x9x11x4xf32>' in windows('tpu')
  assert 'tensor<2x9x11x4xf32>, tensor<2x7x9x3xf32>' in windows('cuda')
