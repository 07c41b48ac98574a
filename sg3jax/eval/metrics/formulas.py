"""Computes the values of metrics from features, which are rows of an array.

All is in NumPy and float64, except what compares each row with each other:
`pairwise` does that on the device, in float32. Kernel distances with a cubic
kernel stay in float64: they are small differences of large sums, whose rounding
errors would show, and their subsets are small.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from sg3jax.eval import pairwise

Rows = Float[np.ndarray, '_ d']
Vector = Float[np.ndarray, ' d']
Matrix = Float[np.ndarray, 'd d']

# Rows that are multiplied at a time: 50,000 float64 products of each take
# 200 MiB.
_CHUNK = 512
# Eigenvalues below this fraction of the largest one count as zero: they are
# rounding errors of float32 features, along which nothing can be inverted.
_RANK_TOLERANCE = 1e-10


@dataclasses.dataclass(frozen=True)
class Moments:
  """The mean and the covariance of a set of features.

  Attributes:
    count: Number of rows.
    mean: Mean of each feature.
    cov: Covariance, normalized by `count`, as in the official protocol.
  """

  count: int
  mean: Vector
  cov: Matrix


def moments(rows: Rows) -> Moments:
  """Returns the moments of rows.

  Raises:
    ValueError: If there are fewer than two rows.
  """
  check_count(len(rows), 2, 'a covariance')
  x = rows.astype(np.float64)
  mean = x.mean(0)
  x -= mean
  return Moments(len(x), mean, x.T @ x / len(x))


def check_count(count: int, least: int, what: str) -> None:
  """Raises a ValueError if there are fewer images than `what` needs."""
  if count < least:
    raise ValueError(
      f'the number of images must be at least {least} for {what}, got '
      f'{count}: use more images'
    )


class Frechet:
  """The squared Fréchet distance of two normal distributions a and b.

  |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), where the last trace
  is the sum of the singular values of A^(1/2) B^(1/2). All terms are real, and
  small eigenvalues keep their digits, unlike in a root of the product A B.

  Attributes:
    value: The distance.
  """

  def __init__(self, a: Moments, b: Moments):
    """Computes the distance."""
    self._shift = b.mean - a.mean
    self._mean = b.mean
    self._values, self._vectors = _eigh(b.cov)
    a_values, a_vectors = _eigh(a.cov)
    a_root = np.sqrt(a_values)[:, None] * a_vectors.T
    b_root = np.sqrt(self._values)[:, None] * self._vectors.T
    _, self._singular, self._right = np.linalg.svd(a_root @ b_root.T)
    square = np.square(self._shift).sum()
    traces = np.trace(a.cov) + np.trace(b.cov)
    self.value = float(square + traces - 2 * self._singular.sum())

  def influence(self, rows: Rows) -> Float[np.ndarray, ' n']:
    """Returns how much each row of b contributes to the distance.

    These are the values of the influence function: the derivative of the
    distance towards a distribution with more weight on the row. Their standard
    deviation, divided by the root of their number, is the standard error of the
    distance to first order, with a taken as fixed (the delta method). The
    derivative by the covariance B is I - T, where T B T = A.

    Args:
      rows: The features of b.
    """
    keep = self._values > _RANK_TOLERANCE * self._values.max()
    whiten = self._vectors[:, keep] / np.sqrt(self._values[keep])
    # x^t T x = |x whiten right^t|^2 weighted by the singular values.
    transport = whiten @ self._right[:, keep].T * np.sqrt(self._singular)
    influence = []
    for i in range(0, len(rows), _CHUNK):
      x = rows[i : i + _CHUNK].astype(np.float64) - self._mean
      influence.append(
        2 * x @ self._shift
        + np.square(x).sum(1)
        - np.square(x @ transport).sum(1)
      )
    result = np.concatenate(influence)
    return result - result.mean()


def frechet(a: Moments, b: Moments) -> float:
  """Returns the squared Fréchet distance; see `Frechet`."""
  return Frechet(a, b).value


def _eigh(cov: Matrix) -> tuple[Vector, Matrix]:
  values, vectors = np.linalg.eigh(cov)
  return np.maximum(values, 0), vectors


def kernel_distance(a: Rows, b: Rows) -> float:
  """Returns the squared maximum mean discrepancy with a cubic kernel.

  The kernel is (x.y / d + 1)^3; the estimate is unbiased, so it may be
  negative (Bińkowski et al. 2018, arXiv 1801.01401).

  Raises:
    ValueError: If a set has fewer than two rows.
  """
  check_count(min(len(a), len(b)), 2, 'a kernel distance')
  a, b = a.astype(np.float64), b.astype(np.float64)
  across = _cubic_sum(a, b) / (len(a) * len(b))
  return _cubic_within(a) + _cubic_within(b) - 2 * across


def _cubic_sum(x: Rows, y: Rows) -> float:
  """Returns the sum of the cubic kernel over all pairs."""
  return sum(
    float(((x[i : i + _CHUNK] @ y.T / x.shape[1] + 1) ** 3).sum())
    for i in range(0, len(x), _CHUNK)
  )


def _cubic_within(x: Rows) -> float:
  """Returns the mean of the cubic kernel over pairs of different rows."""
  diagonal = float(((np.square(x).sum(1) / x.shape[1] + 1) ** 3).sum())
  return (_cubic_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))


def subset_distances(
  reals: Rows,
  fakes: Rows,
  *,
  subsets: int = 100,
  size: int = 1000,
  seed: int = 0,
) -> Float[np.ndarray, ' subsets']:
  """Returns the kernel distances of random subsets.

  Args:
    reals: Features of real images.
    fakes: Features of generated images.
    subsets: Number of subsets of each set.
    size: Number of rows in a subset; at most what the smaller set has.
    seed: Random seed of the choice.
  """
  size = min(size, len(reals), len(fakes))
  rng = np.random.default_rng(seed)
  distances = []
  for _ in range(subsets):
    a, b = (x[rng.choice(len(x), size, replace=False)] for x in (reals, fakes))
    distances.append(kernel_distance(a, b))
  return np.array(distances)


def gaussian_mmd(
  a: Rows, b: Rows, *, sigma: float = 10.0, scale: float = 1000.0
) -> float:
  """Returns the squared mean discrepancy with a Gaussian kernel, scaled.

  The kernel is exp(-|x - y|^2 / (2 sigma^2)), and the diagonal counts (the
  biased estimate), as for CMMD (Jayasumana et al. 2024, arXiv 2401.09603).

  Raises:
    ValueError: If a set is empty.
  """
  check_count(min(len(a), len(b)), 1, 'a kernel distance')
  # The ones that are missing in all three means cancel.
  within_a, within_b, across = pairwise.Pairs(a, b).gaussian_means(sigma)
  return scale * (within_a + within_b - 2 * across)


@dataclasses.dataclass(frozen=True)
class Manifolds:
  """Counts of the neighbourhoods of each set that hold rows of the other.

  A neighbourhood of an image is a ball that reaches to its k-th neighbour in
  its own set.

  Attributes:
    fakes_in_reals: For each generated image, the number of neighbourhoods of
      real images that contain it.
    reals_in_fakes: For each real image, the number of neighbourhoods of
      generated images that contain it.
    reals_reached: For each real image, whether its own neighbourhood contains a
      generated image.
    k: The number of neighbours.
  """

  fakes_in_reals: Int[np.ndarray, ' n']
  reals_in_fakes: Int[np.ndarray, ' m']
  reals_reached: Bool[np.ndarray, ' m']
  k: int

  @property
  def precision(self) -> float:
    """Fraction of generated images within a real neighbourhood."""
    return float(np.mean(self.fakes_in_reals > 0))

  @property
  def recall(self) -> float:
    """Fraction of real images within a generated neighbourhood."""
    return float(np.mean(self.reals_in_fakes > 0))

  @property
  def density(self) -> float:
    """Mean number of real neighbourhoods around a generated image, over k."""
    return float(np.mean(self.fakes_in_reals / self.k))

  @property
  def coverage(self) -> float:
    """Fraction of real neighbourhoods that contain a generated image."""
    return float(np.mean(self.reals_reached))


def manifolds(reals: Rows, fakes: Rows, k: int) -> Manifolds:
  """Compares two sets by the distances to the k-th neighbours.

  Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv 1904.06991);
  density and coverage those of Naeem et al. 2020 (arXiv 2002.09797).

  Args:
    reals: Features of real images.
    fakes: Features of generated images.
    k: The number of neighbours; an image is not its own neighbour.

  Raises:
    ValueError: If a set does not have more than k rows.
  """
  check_count(
    min(len(reals), len(fakes)), k + 1, f'neighbourhoods of {k} neighbours'
  )
  pairs = pairwise.Pairs(reals, fakes)
  return Manifolds(*pairs.within(*pairs.radii(k)), k)


def inception_score(
  logits: Float[np.ndarray, 'n classes'], splits: int = 10
) -> Float[np.ndarray, ' splits']:
  """Returns the inception score of each of several splits.

  The score is exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016, arXiv
  1606.03498), where p(y) is the mean over the images of the split.

  Args:
    logits: Logits of the classes for each image.
    splits: Number of parts of equal size, in the order of the images.

  Raises:
    ValueError: If there are fewer images than splits.
  """
  check_count(len(logits), splits, f'{splits} splits')
  x = logits.astype(np.float64)
  x -= x.max(1, keepdims=True)
  log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
  scores = []
  for i in range(splits):
    start, stop = (len(x) * j // splits for j in (i, i + 1))
    part = log_p[start:stop]
    p = np.exp(part)
    # Classes with probability 0 in all images contribute nothing.
    log_mean = np.log(np.maximum(p.mean(0), np.finfo(float).tiny))
    scores.append(np.exp((p * (part - log_mean)).sum(1).mean()))
  return np.array(scores)
