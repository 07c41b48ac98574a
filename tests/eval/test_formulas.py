"""Formulas of metrics: goldens, cases with a known answer, and laws."""

import numpy as np
import pytest
from scipy import linalg

from sg3jax.eval.metrics import formulas

_RNG = np.random.RandomState(0)
_A = _RNG.randn(90, 6) @ _RNG.randn(6, 6)
_B = _RNG.randn(70, 6) + 0.5


@pytest.fixture(scope='module')
def arrays(golden):
  return golden('metric_formulas.npz')


class TestGoldens:
  """Values of the official formulas on fixed features, to 1e-6."""

  def test_frechet(self, arrays):
    value = formulas.frechet(
      formulas.moments(arrays['real']), formulas.moments(arrays['fake'])
    )
    assert value == pytest.approx(arrays['fid'], rel=1e-6)

  def test_kernel(self, arrays):
    value = formulas.kernel_distance(arrays['real'][:500], arrays['fake'][:500])
    assert value == pytest.approx(arrays['kid_one_subset_first500'], rel=1e-6)

  def test_precision_and_recall(self, arrays):
    found = formulas.manifolds(arrays['pr_real'], arrays['pr_fake'], 3)
    assert found.precision == pytest.approx(arrays['precision_k3'], rel=1e-6)
    assert found.recall == pytest.approx(arrays['recall_k3'], rel=1e-6)

  def test_inception_score(self, arrays):
    scores = formulas.inception_score(np.log(arrays['is_probs']))
    assert scores.mean() == pytest.approx(arrays['is_mean'], rel=1e-6)
    assert scores.std() == pytest.approx(arrays['is_std'], rel=1e-6)


class TestFrechet:
  def test_of_normal_distributions_with_equal_axes(self):
    # |difference of means|^2 + sum of (difference of deviations)^2.
    rotation = linalg.qr(_RNG.randn(3, 3))[0]
    deviations = np.array([[1.0, 2.0, 3.0], [2.0, 0.0, 0.5]])
    means = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 2.0]])
    a, b = (
      formulas.Moments(9, m, rotation * s**2 @ rotation.T)
      for m, s in zip(means, deviations, strict=True)
    )
    # An eigenvalue of 0 is rounded to 1e-16, whose root is 1e-8.
    expected = 9 + 1 + 4 + 6.25
    assert formulas.frechet(a, b) == pytest.approx(expected, rel=1e-7)
    assert formulas.frechet(b, a) == pytest.approx(expected, rel=1e-7)

  def test_agrees_with_the_root_of_the_product(self):
    a, b = formulas.moments(_A), formulas.moments(_B)
    root = linalg.sqrtm(a.cov @ b.cov).real
    expected = np.square(a.mean - b.mean).sum()
    expected += np.trace(a.cov + b.cov - 2 * root)
    assert formulas.frechet(a, b) == pytest.approx(expected, rel=1e-10)

  def test_of_a_set_with_itself_is_zero(self):
    few = _A[:4]  # The covariance is singular.
    for x in (_A, few):
      m = formulas.moments(x)
      assert abs(formulas.frechet(m, m)) < 1e-9 * np.trace(m.cov)

  def test_grows_with_the_square_of_the_scale(self):
    a, b = formulas.moments(_A), formulas.moments(_B)
    c, d = formulas.moments(3 * _A + 5), formulas.moments(3 * _B + 5)
    expected = 9 * formulas.frechet(a, b)
    assert formulas.frechet(c, d) == pytest.approx(expected, rel=1e-10)

  def test_the_influence_is_the_derivative(self):
    a, b = formulas.moments(_A), formulas.moments(_B)
    found = formulas.Frechet(a, b).influence(_B)
    step = 1e-6
    for i in (0, 13):
      weights = np.full(len(_B), (1 - step) / len(_B))
      weights[i] += step
      mean = weights @ _B
      cov = (_B - mean).T * weights @ (_B - mean)
      moved = formulas.frechet(a, formulas.Moments(len(_B), mean, cov))
      slope = (moved - formulas.frechet(a, b)) / step
      # Differences of 1e-6 leave six digits, less those of cancellation.
      assert slope == pytest.approx(found[i], rel=1e-3, abs=1e-3)


class TestKernels:
  def test_of_four_points_by_hand(self):
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    # (xy + 1)^3: within a 1, within b 343; across 1, 1, 27, 64.
    expected = 1 + 343 - 2 * (1 + 1 + 27 + 64) / 4
    assert formulas.kernel_distance(a, b) == pytest.approx(expected, rel=1e-14)

  def test_is_unbiased(self):
    rng = np.random.RandomState(1)
    values = [
      formulas.kernel_distance(rng.randn(20, 4), rng.randn(30, 4))
      for _ in range(400)
    ]
    # Both sets have one distribution: the mean is 0 up to its standard error.
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert min(values) < 0

  def test_chunks_change_nothing(self, monkeypatch):
    whole = formulas.kernel_distance(_A, _B)
    monkeypatch.setattr(formulas, '_CHUNK', 7)
    assert formulas.kernel_distance(_A, _B) == pytest.approx(whole, rel=1e-12)

  def test_gaussian_of_two_points(self):
    a, b = np.zeros((3, 2)), np.full((2, 2), 10.0)
    expected = 1000 * (2 - 2 * np.exp(-200 / 200))
    assert formulas.gaussian_mmd(a, b) == pytest.approx(expected, rel=1e-6)
    assert formulas.gaussian_mmd(a, a) == 0

  def test_subsets_depend_on_the_seed_alone(self):
    def of(seed, reals=_A):
      return formulas.subset_distances(reals, _B, subsets=5, size=30, seed=seed)

    np.testing.assert_array_equal(of(1), of(1))
    assert np.ptp(of(1)) > 0
    assert (of(1) != of(2)).all()


class TestManifolds:
  def test_on_a_line(self):
    reals = np.array([[0.0], [1.0], [2.0], [10.0]])
    fakes = np.array([[0.5], [1.5], [20.0], [21.0]])
    # Real balls of one neighbour reach 1, 1, 1 and 8; generated ones 1.
    found = formulas.manifolds(reals, fakes, 1)
    np.testing.assert_array_equal(found.fakes_in_reals, [2, 2, 0, 0])
    np.testing.assert_array_equal(found.reals_in_fakes, [1, 2, 1, 0])
    np.testing.assert_array_equal(found.reals_reached, [1, 1, 1, 0])
    assert found.precision == 0.5
    assert found.recall == 0.75
    assert found.density == 1
    assert found.coverage == 0.75

  def test_of_a_set_with_itself(self):
    twice = np.concatenate([_A, _A])  # Balls of radius 0.
    for x in (_A, twice):
      found = formulas.manifolds(x, x, 1)
      assert (found.precision, found.recall, found.coverage) == (1, 1, 1)

  def test_far_sets_have_nothing_in_common(self):
    found = formulas.manifolds(_A, _B + 1e3, 3)
    assert (found.precision, found.recall) == (0, 0)
    assert (found.density, found.coverage) == (0, 0)

  def test_order_and_scale_do_not_matter(self):
    found = formulas.manifolds(_A, _B, 5)
    order = _RNG.permutation(len(_B))
    other = formulas.manifolds(7 * _A[::-1] - 3, 7 * _B[order] - 3, 5)
    np.testing.assert_array_equal(
      other.fakes_in_reals, found.fakes_in_reals[order]
    )
    np.testing.assert_array_equal(
      other.reals_in_fakes, found.reals_in_fakes[::-1]
    )


class TestInceptionScore:
  def test_of_certain_and_even_classes_is_their_number(self):
    logits = 1000 * np.eye(4)[np.arange(80) % 4]
    np.testing.assert_allclose(formulas.inception_score(logits, 2), 4)

  def test_of_one_answer_is_one(self):
    logits = np.tile([1.0, 2.0, 3.0], (20, 1))
    np.testing.assert_allclose(formulas.inception_score(logits), 1)


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: formulas.moments(_A[:1]), 'at least 2 for a covariance, got 1'),
    (lambda: formulas.kernel_distance(_A, _B[:1]), 'at least 2 .* got 1'),
    (
      lambda: formulas.manifolds(_A, _B[:3], 3),
      'at least 4 for neighbourhoods of 3 neighbours, got 3',
    ),
    (lambda: formulas.inception_score(_A[:9]), 'at least 10 .*, got 9'),
    (lambda: formulas.gaussian_mmd(_A[:0], _B), 'at least 1 .*, got 0'),
  ],
)
def test_too_few_images_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
