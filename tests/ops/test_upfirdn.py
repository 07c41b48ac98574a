"""Up - FIR - down against its definition in float64, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sg3jax.ops import upfirdn as lib


def _reference(x, f, up, down, padding, gain=1.0, flip=False):
  """The definition, sample by sample, in float64."""
  f = np.asarray(f, np.float64)
  f = (np.outer(f, f) if f.ndim == 1 else f) * gain
  if not flip:
    f = f[::-1, ::-1]
  n, h, w, c = x.shape
  stuffed = np.zeros((n, h * up, w * up, c))
  stuffed[:, ::up, ::up] = x
  (top, bottom), (left, right) = padding
  padded = np.pad(
    stuffed,
    [
      (0, 0),
      (max(top, 0), max(bottom, 0)),
      (max(left, 0), max(right, 0)),
      (0, 0),
    ],
  )
  padded = padded[:, max(-top, 0) :, max(-left, 0) :]
  padded = padded[:, : padded.shape[1] - max(-bottom, 0)]
  padded = padded[:, :, : padded.shape[2] - max(-right, 0)]
  rows = range(0, padded.shape[1] - f.shape[0] + 1, down)
  columns = range(0, padded.shape[2] - f.shape[1] + 1, down)
  y = np.zeros((n, len(rows), len(columns), c))
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      window = padded[:, row : row + f.shape[0], column : column + f.shape[1]]
      y[:, i, j] = np.einsum('nhwc,hw->nc', window, f)
  return y


RNG = np.random.RandomState(0)
SHORT = RNG.randn(4)
LONG = RNG.randn(7)
PLANE = RNG.randn(3, 5)
CASES = {
  'plain': (SHORT, 1, 1, ((0, 0), (0, 0))),
  'down 2': (SHORT, 1, 2, ((1, 1), (1, 1))),
  'up 2': (SHORT, 2, 1, ((2, 1), (2, 1))),
  'up 3 down 2': (LONG, 3, 2, ((4, 2), (1, 5))),
  'up 2 down 4, crop': (LONG, 2, 4, ((-3, 1), (2, -4))),
  'crop': (SHORT, 1, 1, ((-2, -1), (0, -2))),
  '2-D': (PLANE, 1, 1, ((1, 1), (2, 2))),
  '2-D up 2 down 3': (PLANE, 2, 3, ((0, 3), (-1, 2))),
  'one tap': (np.ones(1), 2, 1, ((0, 0), (0, 0))),
}


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('case', CASES.values(), ids=CASES.keys())
def test_equals_the_definition(case, flip):
  f, up, down, padding = case
  x = np.random.RandomState(1).randn(2, 9, 11, 3)
  expected = _reference(x, f, up, down, padding, 1.7, flip)
  options = {'up': up, 'down': down, 'padding': padding}

  with jax.enable_x64(True):
    y = lib.upfirdn(x, f, **options, gain=1.7, flip=flip)
    assert y.dtype == jnp.float64
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
  x = np.float32(x)
  y = lib.upfirdn(x, f, **options, gain=1.7, flip=flip)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  # A traced filter.
  y = jax.jit(lambda f: lib.upfirdn(x, f, **options, gain=1.7, flip=flip))(f)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('case', CASES.values(), ids=CASES.keys())
def test_all_spellings_agree(case):
  f, up, down, padding = case
  f = np.float32(np.outer(f, f) if f.ndim == 1 else f)
  x = np.random.RandomState(1).randn(2, 9, 11, 3).astype(np.float32)
  options = {'f': f, 'up': (up, up), 'down': (down, down), 'padding': padding}
  results = [
    spelling(jnp.asarray(x), **options)
    for spelling in (lib._shifted_adds, lib._depthwise, lib._folded)
  ]
  for result in results[1:]:
    np.testing.assert_allclose(result, results[0], rtol=1e-5, atol=2e-5)


def test_filters_too_long_to_unroll():
  f = RNG.randn(17, 17)
  assert f.size > lib._MAX_UNROLLED_TAPS
  x = np.random.RandomState(1).randn(1, 12, 10, 2).astype(np.float32)
  options = {'up': 2, 'down': 1, 'padding': ((8, 7), (9, 6))}
  np.testing.assert_allclose(
    lib.upfirdn(x, f, **options),
    _reference(x, f, *options.values()),
    rtol=1e-4,
    atol=1e-4,
  )


def test_delta_gives_the_filter():
  x = np.zeros((1, 9, 9, 1), np.float32)
  x[0, 4, 4, 0] = 1
  y = lib.upfirdn(x, PLANE, padding=((1, 1), (2, 2)))
  np.testing.assert_allclose(y[0, 3:6, 2:7, 0], PLANE, rtol=1e-6)
  assert np.abs(y).sum() == pytest.approx(np.abs(PLANE).sum(), rel=1e-6)


def test_linear():
  rng = np.random.RandomState(0)
  a, b = rng.randn(2, 1, 8, 8, 3).astype(np.float32)
  options = {'up': 2, 'padding': ((2, 1), (2, 1))}
  np.testing.assert_allclose(
    lib.upfirdn(2 * a - 3 * b, SHORT, **options),
    2 * lib.upfirdn(a, SHORT, **options) - 3 * lib.upfirdn(b, SHORT, **options),
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize('f', [SHORT, RNG.randn(4, 4)], ids=['1-D', '2-D'])
def test_adjoint_of_up_is_down(f):
  rng = np.random.RandomState(0)
  x, g = rng.randn(2, 8, 8, 3), rng.randn(2, 16, 16, 3)
  with jax.enable_x64(True):
    up = lib.upfirdn(x, f, up=2, padding=((2, 1), (2, 1)))
    down = lib.upfirdn(g, f, down=2, padding=((1, 1), (1, 1)), flip=True)
    assert np.vdot(up, g) == pytest.approx(np.vdot(x, down), rel=1e-12)


@pytest.mark.parametrize('case', ['down 2', 'up 3 down 2', '2-D'])
def test_derivatives_in_both_arguments(case):
  f, up, down, padding = CASES[case]
  x = np.random.RandomState(1).randn(1, 5, 6, 2)

  @jax.jit
  def fn(x, f):
    return jnp.sin(lib.upfirdn(x, f, up=up, down=down, padding=padding))

  with jax.enable_x64(True):
    # Finite differences of second derivatives of size 100.
    check_grads(fn, (x, jnp.asarray(f)), order=2, rtol=1e-4, atol=1e-3)


def test_gain_keeps_the_mean_when_upsampling():
  f = np.array([1, 3, 3, 1]) / 8
  x = np.ones((1, 8, 8, 1), np.float32)
  y = lib.upfirdn(x, f, up=2, padding=((2, 1), (2, 1)), gain=4.0)
  assert y.shape == (1, 16, 16, 1)
  np.testing.assert_allclose(y[:, 2:-2, 2:-2], 1, rtol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_keeps_low_precision(dtype):
  x = jnp.asarray(RNG.randn(1, 9, 9, 2), dtype)
  y = lib.upfirdn(x, SHORT)
  assert y.dtype == dtype
  expected = _reference(
    np.asarray(x, np.float64), SHORT, 1, 1, ((0, 0), (0, 0))
  )
  tolerance = 4 * float(jnp.finfo(dtype).eps) * np.abs(expected).max()
  np.testing.assert_allclose(
    np.asarray(y, np.float64), expected, rtol=0, atol=tolerance
  )


def test_bad_arguments_are_named():
  x = np.zeros((1, 3, 8, 1), np.float32)
  with pytest.raises(ValueError, match='must be at least 1, got 0'):
    lib.upfirdn(x, SHORT, up=0)
  with pytest.raises(ValueError, match='at most 3 taps, got 4'):
    lib.upfirdn(x, SHORT)
