"""Maps of equivariance errors, of images that move by design."""

import numpy as np
import pytest

from sg3jax.eval.analysis import equivariance_maps as maps

_SIZE = 32


def _image(matrix, seed=0):
  """A sum of low waves, transformed by a matrix in units of the width."""
  rng = np.random.RandomState(seed)
  axis = (np.arange(_SIZE) + 0.5) / _SIZE - 0.5
  x, y = np.meshgrid(axis, axis)
  x, y = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in (0, 1))
  waves = [
    rng.uniform(0.1, 0.3)
    * np.cos(2 * np.pi * (rng.uniform(-3, 3) * x + rng.uniform(-3, 3) * y))
    for _ in range(6)
  ]
  return np.sum(waves, axis=0)[None, ..., None].astype(np.float32)


# The limits are those of the operators: integer translations are exact up to
# the rounding of these images, 1e-7 of their range or 130 dB; a Lanczos kernel
# and a rotation of waves up to 3 cycles are good to 1e-2 or 40 dB.
_MOVES = [
  (maps.translation(_SIZE, 4), 110),
  (maps.translation(_SIZE, 2.5), 40),
  (maps.rotation(30), 40),
]


@pytest.mark.parametrize(('move', 'limit'), _MOVES)
def test_images_that_follow_have_small_errors(move, limit):
  found = maps.compare(move, _image(np.eye(3)), _image(move.inverse))
  assert found.psnr > limit
  valid = found.error_db[np.isfinite(found.error_db)]
  assert valid.max() < -limit + 20
  assert 0.1 < valid.size / found.error_db.size < 1


@pytest.mark.parametrize(('move', 'limit'), _MOVES)
def test_images_that_stay_have_large_errors(move, limit):
  del limit
  original = _image(np.eye(3))
  found = maps.compare(move, original, original)
  assert found.psnr < 25
  # The map and the pooled value are the same errors.
  mean = np.nanmean(10 ** (found.error_db / 10))
  assert found.psnr == pytest.approx(-10 * np.log10(mean), abs=1e-3)


def test_an_exact_match_is_infinite():
  flat = np.zeros((2, _SIZE, _SIZE, 3), np.float32)
  found = maps.compare(maps.translation(_SIZE, 4), flat, flat)
  assert found.psnr == np.inf
  assert np.nanmax(found.error_db) == -100
