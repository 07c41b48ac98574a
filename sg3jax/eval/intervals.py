"""Half widths of 95 % confidence intervals.

A bootstrap repeats images. That biases distances between sets, and distances to
neighbours, so metrics of these kinds use other methods; each result names its
own in `ci95_method`.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import stats

Z95 = 1.959963984540054  # Quantile of the normal distribution.


def of_mean(values: Float[np.ndarray, ' n']) -> float:
  """Returns the half width for a mean of independent values; NaN for one.

  It uses Student's distribution, for small numbers of values.
  """
  if len(values) < 2:
    return math.nan
  quantile = stats.t.ppf(0.975, len(values) - 1)
  return float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))


def of_fraction(fraction: float, count: int) -> float:
  """Returns the half width of Wilson's interval for a fraction of images."""
  z = Z95
  spread = fraction * (1 - fraction) / count + (z / (2 * count)) ** 2
  return float(z * math.sqrt(spread) / (1 + z**2 / count))


def of_subsets(values: Float[np.ndarray, ' m'], size: int, count: int) -> float:
  """Returns the half width for the mean of estimates from random subsets.

  The variance s^2 of estimates from subsets of `size` of `count` images is
  smaller by 1 - size/count than that of estimates from new images. The mean of
  m estimates varies by s^2 / m given the images, and with the images by
  size/count of the variance of an estimate.

  Args:
    values: The estimates.
    size: Number of images in a subset.
    count: Number of images to choose from, in the smaller set.

  Returns:
    The half width; NaN if subsets have more than half of the images, because
    they are then too similar to reveal the variance.
  """
  if len(values) < 2 or size > count / 2:
    return math.nan
  fraction = size / count
  variance = float(np.var(values, ddof=1))
  total = variance / len(values) + variance / (1 - fraction) * fraction
  return Z95 * math.sqrt(total)


def by_bootstrap(
  values: Float[np.ndarray, 'n *_'],
  statistic: Callable[[np.ndarray], float],
  *,
  seed: int,
  repeats: int = 1000,
) -> float:
  """Returns half the length of the bootstrap's percentile interval.

  Args:
    values: One row for each image or pair of images.
    statistic: Maps rows to the value.
    seed: Random seed of the choice of rows.
    repeats: Number of times that rows are chosen, with replacement.
  """
  rng = np.random.default_rng(seed)
  found = [
    statistic(values[rng.integers(len(values), size=len(values))])
    for _ in range(repeats)
  ]
  low, high = np.percentile(found, (2.5, 97.5))
  return float(high - low) / 2


def by_jackknife(
  values: Float[np.ndarray, 'n *_'],
  statistic: Callable[[np.ndarray], float],
  *,
  groups: int = 20,
) -> float:
  """Returns the half width by leaving out one group of images at a time.

  Args:
    values: One row for each image.
    statistic: Maps rows to the value.
    groups: Number of groups of equal size.

  Returns:
    The half width; NaN for fewer than two groups of one row.
  """
  groups = min(groups, len(values))
  if groups < 2:
    return math.nan
  group = np.arange(len(values)) % groups
  found = np.array([statistic(values[group != g]) for g in range(groups)])
  variance = (groups - 1) * np.var(found)
  return float(stats.t.ppf(0.975, groups - 1) * math.sqrt(variance))
