"""Bias, activation, gain and clamp, with derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sg3jax.ops import bias_act as lib


def _reference(x, b, activation, gain, clamp, slope):
  y = x + b
  if activation == 'lrelu':
    y = np.maximum(y, slope * y)
  y = y * gain
  return y if clamp is None else np.clip(y, -clamp, clamp)


@pytest.mark.parametrize('clamp', [None, 0.8])
@pytest.mark.parametrize('gain', [None, 0.5])
@pytest.mark.parametrize('activation', ['linear', 'lrelu'])
def test_values(activation, gain, clamp):
  rng = np.random.RandomState(0)
  x = rng.randn(2, 3, 5, 7).astype(np.float32)
  b = rng.randn(7).astype(np.float32)
  default = {'linear': 1, 'lrelu': np.sqrt(2)}[activation]
  expected = _reference(
    x, b, activation, default if gain is None else gain, clamp, 0.2
  )
  y = lib.bias_act(x, b, activation=activation, gain=gain, clamp=clamp)
  np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def test_slope_and_rows_without_bias():
  x = np.array([[-2.0, 3.0]], np.float32)
  y = lib.bias_act(x, activation='lrelu', gain=1.0, slope=0.1)
  np.testing.assert_allclose(y, [[-0.2, 3.0]], rtol=1e-6)


def test_derivatives_of_every_order_and_mode():
  rng = np.random.RandomState(0)
  # Away from the kink and the clamp, where differences see both sides.
  x = np.array([-3.0, -1.0, -0.4, 0.3, 0.7, 2.5])[:, None] + np.zeros(2)
  b = 0.01 * rng.randn(2)

  def f(x, b):
    y = lib.bias_act(x, b, activation='lrelu', clamp=1.9)
    return jnp.sin(y) * y

  with jax.enable_x64(True):
    check_grads(f, (x, b), order=3, rtol=1e-6, atol=1e-6)


def test_derivative_at_kink_and_beyond_clamp():
  slopes = jax.vmap(
    jax.grad(
      lambda x: lib.bias_act(
        x[None], activation='lrelu', gain=1.0, clamp=2.0
      ).sum()
    )
  )(np.array([-20.0, -1.0, 0.0, 1.0, 20.0], np.float32))
  np.testing.assert_allclose(slopes, [0, 0.2, 1, 1, 0], rtol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_keeps_the_dtype_and_clamps_overflow(dtype):
  x = jnp.asarray([[jnp.inf, -1e4, 1.0]], dtype)
  y = lib.bias_act(x, np.zeros(3, np.float32), activation='lrelu', clamp=256.0)
  assert y.dtype == dtype
  expected = [[256, -256, np.sqrt(2)]]
  np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=1e-2)
  x = jnp.full((1, 1), jnp.nan, dtype)
  assert jnp.isnan(lib.bias_act(x, clamp=256.0)).all()


def test_bad_arguments_are_named():
  x = np.zeros((1, 1), np.float32)
  with pytest.raises(ValueError, match="got 'relu'"):
    lib.bias_act(x, activation='relu')
  with pytest.raises(ValueError, match='clamp must be positive'):
    lib.bias_act(x, clamp=0.0)


def test_bias_gradient_is_summed_in_float32():
  x = jnp.ones((4, 128, 128, 2), jnp.bfloat16)

  def total(b):
    return jnp.sum(lib.bias_act(x, b).astype(jnp.float32))

  gradient = jax.jit(jax.grad(total))(jnp.zeros(2))
  np.testing.assert_array_equal(gradient, 4.0 * 128 * 128)
