"""Pairs of rows on the device, in float32, against float64."""

import jax
import numpy as np
import pairs_float64
import pytest

from sg3jax.eval import pairwise
from sg3jax.eval.metrics import formulas
from sg3jax.train import sharding

_RNG = np.random.RandomState(0)
_MIX = _RNG.randn(8, 64)


def _features(count):
  """Returns correlated features around a distant mean, in float32."""
  x = _RNG.randn(count, 8) @ _MIX + 0.3 * _RNG.randn(count, 64)
  return (x + 20).astype(np.float32)


_A, _B = _features(150), _features(110)


def _distances(a, b):
  """Returns float32 squared distances, and the sums of centred norms."""
  pairs = pairwise.Pairs(a, b)
  centre = a.mean(0, dtype=np.float64)
  norms = [np.square(x - centre).sum(1) for x in (a, b)]
  found = jax.jit(pairwise._squares)(pairs._a.parts, pairs._b.parts)
  return np.asarray(found), norms[0][:, None] + norms[1]


@pytest.mark.parametrize('dim', [16, 2048, 4096])
@pytest.mark.parametrize('kind', ['normal', 'rectified', 'far'])
def test_the_error_of_distances(dim, kind):
  """It is below the stated one; without centring it would not be."""
  a, b = (_RNG.randn(count, dim) for count in (40, 50))
  if kind == 'rectified':
    a, b = (np.exp(2 * np.maximum(x, 0)) - 1 for x in (a, b))
  elif kind == 'far':
    a, b = a + 100, b + 100
  a, b = (x.astype(np.float32) for x in (a, b))
  found, norms = _distances(a, b)
  error = np.abs(found - pairs_float64.squares(a, b)) / norms
  assert error.max() < pairwise.RELATIVE_ERROR / 2
  assert found.dtype == np.float32


def test_counts():
  """They are those of float64 unless a row lies on a rim."""
  for k in (1, 3, 5):
    found = formulas.manifolds(_A, _B, k)
    expected = pairs_float64.manifolds(_A, _B, k)
    np.testing.assert_array_equal(found.fakes_in_reals, expected[0])
    np.testing.assert_array_equal(found.reals_in_fakes, expected[1])
    np.testing.assert_array_equal(found.reals_reached, expected[2])
    assert 0 < found.precision < 1
    assert 0 < found.recall < 1


def test_equal_rows_have_no_distance():
  """Each row has a copy, so that the radius of one neighbour is 0."""
  twice = np.concatenate([_A, _A])
  radii, _ = pairwise.Pairs(twice, _B).radii(1)
  np.testing.assert_array_equal(radii, 0)
  found = formulas.manifolds(twice, _A[:40], 1)
  np.testing.assert_array_equal(found.fakes_in_reals, 2)
  assert found.reals_reached.sum() == 80


def test_the_kth_smallest_of_few_different_values():
  x = _RNG.randint(0, 4, (200, 9)).astype(np.float32)
  for k in (1, 2, 5, 9):
    found = jax.jit(pairwise._kth_smallest, static_argnums=1)(x, k)
    np.testing.assert_array_equal(found, np.sort(x, axis=1)[:, k - 1])


@pytest.mark.parametrize('sigma', [10.0, 100.0])
def test_gaussian_kernels(sigma):
  """A wide kernel, whose means are near 1, keeps its digits."""
  for a, b in ((_A, _B), (_A / 200, _B / 200)):
    expected = pairs_float64.gaussian_mmd(a, b, sigma)
    found = formulas.gaussian_mmd(a, b, sigma=sigma)
    assert found == pytest.approx(expected, rel=2e-5)


def test_blocks_change_nothing(monkeypatch):
  def measure():
    found = formulas.manifolds(_A, _B, 3)
    return (
      *(found.fakes_in_reals, found.reals_in_fakes, found.reals_reached),
      formulas.gaussian_mmd(_A, _B),
    )

  whole = measure()
  monkeypatch.setattr(pairwise, '_PAIRS', 7 * len(_A))
  for part, before in zip(measure(), whole, strict=True):
    np.testing.assert_allclose(part, before, rtol=1e-5)


def test_under_a_mesh_of_several_devices():
  mesh = sharding.make_mesh(2)
  alone = formulas.manifolds(_A, _B, 3)
  with jax.set_mesh(mesh):
    found = formulas.manifolds(_A, _B, 3)
  np.testing.assert_array_equal(found.fakes_in_reals, alone.fakes_in_reals)


def test_strict_settings():
  """JAX's stricter settings for shapes and types change nothing."""
  with (
    jax.numpy_rank_promotion('raise'),
    jax.numpy_dtype_promotion('strict'),
    jax.debug_nans(True),
  ):
    found = formulas.gaussian_mmd(_A[:20], _B[:30])
    pairwise.Pairs(_A[:20], _B[:30]).radii(2)
  assert np.isfinite(found)
