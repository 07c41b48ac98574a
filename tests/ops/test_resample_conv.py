"""Convolution with resampling against separate steps, and its alignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sg3jax.ops import resample_conv as lib
from sg3jax.ops import upfirdn

LOWPASS = np.array([1, 3, 3, 1]) / 8


def _operands(k, size=8, i=3, o=4):
  rng = np.random.RandomState(0)
  return rng.randn(2, size, size, i), rng.randn(k, k, i, o)


def _conv(x, w, **options):
  return lax.conv_general_dilated(
    x, w, dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **options
  )


@pytest.mark.parametrize('k', [1, 3, 5])
def test_same_rate_is_a_plain_convolution(k):
  x, w = _operands(k)
  with jax.enable_x64(True):
    y = lib.resample_conv(x, w, LOWPASS)
    expected = _conv(x, w, window_strides=(1, 1), padding='SAME')
  np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('k', [1, 3, 5])
@pytest.mark.parametrize('size', [8, 7])
def test_down_is_filter_then_every_second_position(k, size):
  x, w = _operands(k, size)
  with jax.enable_x64(True):
    y = lib.resample_conv(x, w, LOWPASS, down=2)
    # On a canvas so wide that no step sees its border.
    wide = np.pad(x, ((0, 0), (8, 8), (8, 8), (0, 0)))
    blurred = upfirdn.upfirdn(wide, LOWPASS, padding=((1, 1), (1, 1)))
    dense = _conv(blurred, w, window_strides=(1, 1), padding='SAME')
  half = size // 2
  expected = dense[:, 8 : 8 + 2 * half : 2, 8 : 8 + 2 * half : 2]
  assert y.shape == (2, half, half, 4)
  np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('k', [1, 3, 5])
def test_up_is_four_times_the_adjoint_of_down(k):
  x, w = _operands(k)
  g = np.random.RandomState(1).randn(2, 16, 16, 4)
  with jax.enable_x64(True):
    up = lib.resample_conv(x, w, LOWPASS, up=2)
    assert up.shape == g.shape
    down = lib.resample_conv(g, w.transpose(0, 1, 3, 2), LOWPASS, down=2)
    assert np.vdot(up, g) == pytest.approx(4 * np.vdot(x, down), rel=1e-12)


@pytest.mark.parametrize('k', [1, 3])
@pytest.mark.parametrize(('down', 'up'), [(2, 1), (1, 2)])
def test_mirroring_input_and_kernel_mirrors_the_output(k, down, up):
  x, w = _operands(k)
  with jax.enable_x64(True):
    y = lib.resample_conv(x, w, LOWPASS, down=down, up=up)
    mirrored = lib.resample_conv(
      x[:, ::-1, ::-1], w[::-1, ::-1], LOWPASS, down=down, up=up
    )
  np.testing.assert_allclose(mirrored[:, ::-1, ::-1], y, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(('down', 'up'), [(2, 1), (1, 2)])
def test_second_derivatives_equal_those_of_plain_operations(down, up):
  x, w = _operands(3, size=6)
  f = LOWPASS[:, None] * LOWPASS
  # The same long kernel, written out with the depthwise spelling alone.
  options = {'f': f, 'up': (1, 1), 'down': (1, 1)}

  def plain(x, w):
    if down == 2:
      x = upfirdn._depthwise(x, padding=((2, 2), (2, 2)), **options)
      return _conv(x, w, window_strides=(2, 2), padding='VALID')
    y = _conv(
      x,
      w[::-1, ::-1],
      window_strides=(1, 1),
      padding=((2, 2), (2, 2)),
      lhs_dilation=(2, 2),
    )
    return 4 * upfirdn._depthwise(y, padding=((1, 1), (1, 1)), **options)

  def ours(x, w):
    return lib.resample_conv(x, w, LOWPASS, down=down, up=up)

  def second_order(function):
    def penalty(x, w):
      grads = jax.grad(lambda x: jnp.sum(jnp.sin(function(x, w))))(x)
      return jnp.sum(grads**2)

    return jax.jit(jax.grad(penalty, argnums=(0, 1)))(x, w)

  with jax.enable_x64(True):
    x, w = jnp.asarray(x), jnp.asarray(w)
    np.testing.assert_allclose(ours(x, w), plain(x, w), rtol=0, atol=1e-11)
    for a, b in zip(second_order(ours), second_order(plain), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(('down', 'up'), [(1, 1), (2, 1), (1, 2)])
def test_keeps_low_precision(dtype, down, up):
  x, w = _operands(3)
  x = jnp.asarray(x, dtype)
  y = lib.resample_conv(x, np.float32(w), LOWPASS, down=down, up=up)
  assert y.dtype == dtype
  expected = lib.resample_conv(
    x.astype(jnp.float32), np.float32(w), LOWPASS, down=down, up=up
  )
  tolerance = 8 * float(jnp.finfo(dtype).eps) * np.abs(expected).max()
  np.testing.assert_allclose(
    y.astype(jnp.float32), expected, rtol=0, atol=tolerance
  )


def test_bad_arguments_are_named():
  x, w = (np.float32(a) for a in _operands(2))
  with pytest.raises(ValueError, match='must be odd, got 2'):
    lib.resample_conv(x, w, LOWPASS)
  with pytest.raises(ValueError, match='up or down must be 1'):
    lib.resample_conv(x, w[:1, :1], LOWPASS, up=2, down=2)
