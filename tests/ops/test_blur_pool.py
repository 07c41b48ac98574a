"""Anti-aliased pooling: what it keeps, and that it helps."""

import pathlib

import blur_pool as lib
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_file

_PATH = pathlib.Path(__file__).parents[2] / 'scripts' / 'study_pooling.py'


def test_binomial_filters():
  np.testing.assert_array_equal(lib.binomial(1), [1])
  np.testing.assert_array_equal(lib.binomial(4), np.array([1, 3, 3, 1]) / 8)
  with pytest.raises(ValueError, match='at least 1, got 0'):
    lib.binomial(0)


@pytest.mark.parametrize('taps', [1, 2, 3, 5])
def test_pooling_is_periodic_filtering_of_every_second_sample(taps):
  rng = np.random.RandomState(0)
  x = rng.randn(2, 8, 6, 3)
  f, low = lib.binomial(taps), (taps - 1) // 2
  expected = sum(
    f[i] * f[j] * np.roll(x, (low - i, low - j), (1, 2))
    for i in range(taps)
    for j in range(taps)
  )[:, ::2, ::2]
  with jax.enable_x64(True):
    found = lib.blur_pool(x, taps=taps)
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_stride_that_does_not_divide():
  with pytest.raises(ValueError, match='stride must divide 5 rows and 4'):
    lib.blur_pool(jnp.ones((1, 5, 4, 1)))


def test_the_study_sees_that_blur_helps():
  study = run_file(_PATH)
  rng = np.random.RandomState(0)
  images = jnp.asarray(rng.randn(2, 64, 64, 3), jnp.float32)
  ratios = []
  for taps in (1, 5):
    power, error = study.measure(images, jax.random.key(0), study.strided, taps)
    ratios.append(10 * np.log10(power / error))
  assert ratios[1] > ratios[0] + 3
  # Whole strides are followed exactly.
  x = study.features(images, jax.random.key(0), study.max_pool, 1)
  moved = jnp.roll(images, study._STRIDE, 2)
  y = study.features(moved, jax.random.key(0), study.max_pool, 1)
  np.testing.assert_allclose(jnp.roll(x, 1, 2), y, atol=1e-5)
