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
      conv._kernel_gradient_by_rows(geometry, x, g),
      pull(g)[0],
      rtol=1e-12,
      atol=1e-12,
    )
