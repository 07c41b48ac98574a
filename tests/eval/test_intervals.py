"""Confidence intervals: they cover the true value about as often as they say.

Each test repeats an experiment with known truth. Of n repetitions the fraction
covered has a standard error of 0.22 / sqrt(n) at 95 %, so that bounds of 88 %
and 99.5 % hold for 200 to 400 repetitions with a large margin for correct
methods, and fail for intervals that are 1.5 times too short or too long.
"""

import numpy as np
import pytest

from sg3jax.eval import intervals
from sg3jax.eval.metrics import formulas


def _check_coverage(covered):
  assert 0.88 < np.mean(covered) < 0.995


def test_mean_and_fraction_and_jackknife():
  rng = np.random.RandomState(0)
  mean, fraction, jackknife = [], [], []
  for _ in range(400):
    x = rng.exponential(size=100)
    mean.append(abs(x.mean() - 1) < intervals.of_mean(x))
    hits = rng.random_sample(60) < 0.9
    half = intervals.of_fraction(hits.mean(), 60)
    fraction.append(abs(hits.mean() - 0.9) < half + 0.03)
    value = np.log(x.mean())
    half = intervals.by_jackknife(x, lambda y: float(np.log(y.mean())))
    jackknife.append(abs(value) < half)
  for covered in (mean, jackknife):
    _check_coverage(covered)
  assert np.mean(fraction) > 0.88
  # No interval of length zero from a few images that all agree.
  assert 0.1 < intervals.of_fraction(1.0, 10) < 0.2


def test_bootstrap():
  rng = np.random.RandomState(0)
  covered = []
  for seed in range(200):
    x = rng.randn(80)
    half = intervals.by_bootstrap(
      x, lambda y: float(np.median(y)), seed=seed, repeats=200
    )
    covered.append(abs(np.median(x)) < half)
  _check_coverage(covered)
  assert half == intervals.by_bootstrap(
    x, lambda y: float(np.median(y)), seed=199, repeats=200
  )


def test_delta_method_of_the_frechet_distance():
  # Far distributions of many samples, where the bias of the distance is small.
  rng = np.random.RandomState(0)
  a = formulas.Moments(10**6, np.zeros(3), np.eye(3))
  scale, shift = np.array([1.0, 2.0, 0.5]), np.array([1.0, 0.0, 0.0])
  truth = 1 + 1 + 0.25
  covered = []
  for _ in range(200):
    x = rng.randn(500, 3) * scale + shift
    distance = formulas.Frechet(a, formulas.moments(x))
    half = 1.96 * distance.influence(x).std() / np.sqrt(500)
    covered.append(abs(distance.value - truth) < half)
  _check_coverage(covered)


def test_subsets():
  rng = np.random.RandomState(0)
  # The true distance: E k for x, x' ~ N(0, 1), y, y' ~ N(1, 1) in one
  # dimension; (t + 1)^3 = t^3 + 3 t^2 + 3 t + 1 with independent moments.
  moments = np.array([[0.0, 1.0, 0.0], [1.0, 2.0, 4.0]])
  difference = moments[1] - moments[0]
  truth = float(np.square(difference) @ [3, 3, 1])
  covered = []
  for seed in range(120):
    x, y = rng.randn(300, 1), rng.randn(300, 1) + 1
    found = formulas.subset_distances(x, y, subsets=20, size=50, seed=seed)
    half = intervals.of_subsets(found, 50, 300)
    covered.append(abs(found.mean() - truth) < half)
  _check_coverage(covered)


@pytest.mark.parametrize(
  'half',
  [
    intervals.of_mean(np.ones(1)),
    intervals.by_jackknife(np.ones(1), lambda x: 0.0),
    intervals.of_subsets(np.ones(100), 60, 100),
  ],
)
def test_too_few_images_have_no_interval(half):
  assert np.isnan(half)
