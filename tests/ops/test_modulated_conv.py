"""Modulated convolution against the grouped form and in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from sg3jax.ops import modulated_conv as lib


def _operands(k=3, n=4, size=9, i=6, o=5, seed=0):
  rng = np.random.RandomState(seed)
  x = rng.randn(n, size, size, i)
  w = rng.randn(k, k, i, o) * rng.uniform(0.5, 3, o)
  styles = rng.randn(n, i) + 1
  return x, w, styles


def _grouped(x, w, styles, *, demodulate, padding, input_gain=1.0):
  """The textbook form, per sample, in float64 NumPy: loops over taps."""
  kernels = w[None] * styles[:, None, None, :, None]
  if demodulate:
    w = w / np.sqrt(np.mean(w**2, axis=(0, 1, 2)))
    styles = styles / np.sqrt(np.mean(styles**2))
    kernels = w[None] * styles[:, None, None, :, None]
    power = np.sum(kernels**2, axis=(1, 2, 3), keepdims=True)
    kernels = kernels / np.sqrt(power + 1e-8)
  kernels = kernels * input_gain
  k = w.shape[0]
  edge = (padding, padding)
  x = np.pad(x, ((0, 0), edge, edge, (0, 0)))
  height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
  y = 0.0
  for a in range(k):
    for b in range(k):
      window = x[:, a : a + height, b : b + width]
      y = y + np.einsum('nhwi,nio->nhwo', window, kernels[:, a, b])
  return y


@pytest.mark.parametrize('demodulate', [True, False])
@pytest.mark.parametrize(('k', 'padding'), [(3, 2), (3, 1), (1, 0), (3, 0)])
@pytest.mark.parametrize('input_gain', [None, 0.37])
def test_equals_the_grouped_form(demodulate, k, padding, input_gain):
  x, w, styles = _operands(k)
  expected = _grouped(
    x,
    w,
    styles,
    demodulate=demodulate,
    padding=padding,
    input_gain=1.0 if input_gain is None else input_gain,
  )
  options = {
    'demodulate': demodulate,
    'padding': padding,
    'input_gain': input_gain,
  }
  with jax.enable_x64(True):
    y = lib.modulated_conv(x, w, styles, **options)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)

  args = (np.float32(a) for a in (x, w, styles))
  y = jax.jit(lambda *a: lib.modulated_conv(*a, **options))(*args)
  assert y.dtype == jnp.float32
  scale = np.abs(expected).max()
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * scale)


def test_gradients_equal_the_grouped_form():
  operands = _operands()

  def grouped(x, w, styles):
    w = w * lax.rsqrt(jnp.mean(w**2, (0, 1, 2)))
    styles = styles * lax.rsqrt(jnp.mean(styles**2))
    kernels = w[None] * styles[:, None, None, :, None]
    power = jnp.sum(kernels**2, (1, 2, 3), keepdims=True)
    kernels = kernels * lax.rsqrt(power + 1e-8)

    def one(sample, kernel):
      return lax.conv_general_dilated(
        sample[None],
        kernel,
        (1, 1),
        ((2, 2), (2, 2)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )[0]

    return jnp.sum(jnp.sin(jax.vmap(one)(x, kernels)))

  def scaled(x, w, styles):
    return jnp.sum(jnp.sin(lib.modulated_conv(x, w, styles, padding=2)))

  with jax.enable_x64(True):
    expected = jax.grad(grouped, argnums=(0, 1, 2))(*operands)
    actual = jax.grad(scaled, argnums=(0, 1, 2))(*operands)
    for a, b in zip(actual, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_demodulated_output_has_unit_variance():
  x, w, styles = _operands(i=64, o=32, size=24)
  y = lib.modulated_conv(x, w, styles, padding=0)
  np.testing.assert_allclose(np.std(y), 1, rtol=0.05)


def test_demodulation_ignores_the_scale_of_weights_and_styles():
  x, w, styles = (np.float32(a) for a in _operands())
  y = lib.modulated_conv(x, w, styles)
  scaled = lib.modulated_conv(x, 1e4 * w, 1e-5 * styles)
  np.testing.assert_allclose(scaled, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_low_precision_keeps_coefficients_in_float32(dtype):
  x, w, styles = _operands(i=32)
  x = jnp.asarray(x, dtype)
  # Their squares overflow float16.
  y = lib.modulated_conv(x, np.float32(1e3 * w), np.float32(1e4 * styles))
  expected = _grouped(
    np.asarray(x, np.float64), w, styles, demodulate=True, padding=0
  )
  assert y.dtype == dtype
  tolerance = 4 * float(jnp.finfo(dtype).eps) * np.abs(expected).max()
  np.testing.assert_allclose(
    np.asarray(y, np.float64), expected, rtol=0, atol=tolerance
  )


def test_sharding_the_batch_changes_nothing():
  x, w, styles = (np.float32(a) for a in _operands(n=8))
  expected = lib.modulated_conv(x, w, styles, padding=2)
  mesh = jax.make_mesh(
    (4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = NamedSharding(mesh, PartitionSpec('data'))
  y = jax.jit(lambda *a: lib.modulated_conv(*a, padding=2))(
    jax.device_put(x, rows), w, jax.device_put(styles, rows)
  )
  assert y.sharding.is_equivalent_to(rows, y.ndim)
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_negative_padding_is_refused():
  x, w, styles = _operands()
  with pytest.raises(ValueError, match='padding must be at least 0'):
    lib.modulated_conv(x, w, styles, padding=-1)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_gradients_of_scales_survive_16_bits(dtype):
  """Thousands of terms are summed in float32; each has the dtype's rounding."""
  rng = np.random.RandomState(0)
  x = rng.rand(4, 64, 64, 2).astype(np.float32)
  w = rng.rand(1, 1, 2, 2).astype(np.float32)
  styles = 1 + rng.rand(4, 2).astype(np.float32)

  def gradient(dtype):
    def total(styles):
      y = lib.modulated_conv(x.astype(dtype), w, styles, demodulate=False)
      return jnp.sum(y.astype(jnp.float32))

    return np.asarray(jax.jit(jax.grad(total))(styles))

  np.testing.assert_allclose(
    gradient(dtype), gradient(jnp.float32), rtol=float(jnp.finfo(dtype).eps)
  )


def test_wide_kernels_stay_in_the_range_of_float16():
  x = np.full((1, 8, 8, 512), 20, np.float16)
  w = np.ones((3, 3, 512, 4), np.float32)
  y = jax.jit(lambda x, w, s: lib.modulated_conv(x, w, s, padding=1))(
    x, w, np.ones((1, 512), np.float32)
  )
  # Unit variance kernels of one sign add up: sqrt(9 * 512) times the input.
  np.testing.assert_allclose(y[0, 4, 4], 20 * 4608**0.5, rtol=2e-3)
