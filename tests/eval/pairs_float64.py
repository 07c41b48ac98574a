"""Compares all pairs of rows as `pairwise` does, in NumPy and float64."""

import numpy as np


def squares(a, b):
  """Returns squared distances, from differences."""
  a, b = np.float64(a), np.float64(b)
  return np.stack([np.square(row - b).sum(1) for row in a])


def manifolds(reals, fakes, k):
  """Returns the three counts of `formulas.Manifolds`."""
  radii = [np.sort(squares(x, x), axis=1)[:, k] for x in (reals, fakes)]
  across = squares(reals, fakes)
  in_reals = across <= radii[0][:, None]
  in_fakes = across <= radii[1]
  return in_reals.sum(0), in_fakes.sum(1), in_reals.any(1)


def gaussian_mmd(a, b, sigma=10.0, scale=1000.0):
  """Returns the biased estimate of the squared discrepancy."""

  def mean(x, y):
    return np.exp(-squares(x, y) / (2 * sigma**2)).mean()

  return scale * (mean(a, a) + mean(b, b) - 2 * mean(a, b))
