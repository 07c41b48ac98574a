"""Compares all pairs of rows of two sets, on the device and in float32.

Two sets of 50,000 rows have 2.5 billion pairs, and features have thousands of
numbers, which is too much work for the host. The device computes squared
distances in blocks, as |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, with exact products
(no passes in bfloat16 or TF32).

The error of a squared distance is below `RELATIVE_ERROR` of |a|^2 + |b|^2: each
norm and the product are sums of d terms, whose rounding errors of 2^-24 mostly
cancel. To make the norms small, all rows are first moved by the mean of the
first set, in float64. Squared distances below the error count as those of equal
rows, 0. So a row is at most wrongly said to lie within a neighbourhood, or
without, if it is so close to the rim.
"""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from sg3jax.types import Array

# Largest error of a squared distance, as a fraction of |a|^2 + |b|^2, for up to
# 4,096 features.
RELATIVE_ERROR = 1e-6

# Pairs that are compared at a time: their distances take 256 MiB.
_PAIRS = 1 << 26


@contextlib.contextmanager
def _one_device() -> Iterator[None]:
  """Leaves a mesh of several devices, for the first one of this process.

  So values do not depend on the number of devices and processes.
  """
  device = np.array(jax.local_devices()[:1])
  with jax.set_mesh(jax.sharding.Mesh(device, ('rows',))):
    yield


class Pairs:
  """All pairs of a row of set a and one of set b."""

  def __init__(self, a: Float[np.ndarray, '_ d'], b: Float[np.ndarray, '_ d']):
    """Copies both sets to the first device of this process."""
    centre = a.mean(0, dtype=np.float64)
    self._a, self._b = (_Rows((x - centre).astype(np.float32)) for x in (a, b))

  @_one_device()
  def radii(
    self, k: int
  ) -> tuple[Float[np.ndarray, ' n'], Float[np.ndarray, ' m']]:
    """Returns the squared distances of rows to their k-th neighbours.

    Args:
      k: The number of neighbours in the row's own set, without the row itself;
        less than the number of rows.
    """
    a, b = (
      np.concatenate(
        [
          np.asarray(_radii(block, x.parts, np.int32(start), k))
          for start, block in x.blocks(len(x))
        ]
      )
      for x in (self._a, self._b)
    )
    return a, b

  @_one_device()
  def within(
    self, a_radii: Float[np.ndarray, ' n'], b_radii: Float[np.ndarray, ' m']
  ) -> tuple[
    Int[np.ndarray, ' m'], Int[np.ndarray, ' n'], Bool[np.ndarray, ' n']
  ]:
    """Counts the neighbourhoods of each set that contain rows of the other.

    Args:
      a_radii: The squared radius of the neighbourhood of each row of a.
      b_radii: The same of b.

    Returns:
      For each row of b, the number of neighbourhoods of a that contain it; for
      each row of a, the number of those of b; and for each row of a, whether
      its own neighbourhood contains a row of b.
    """
    in_a = np.zeros(len(self._b), int)
    in_b, reached = [], []
    for start, block in self._a.blocks(len(self._b)):
      radii = a_radii[start : start + len(block[0])]
      of_b, of_a, any_b = _within(block, self._b.parts, radii, b_radii)
      in_a += np.asarray(of_b)
      in_b.append(np.asarray(of_a, int))
      reached.append(np.asarray(any_b))
    return in_a, np.concatenate(in_b), np.concatenate(reached)

  @_one_device()
  def gaussian_means(self, sigma: float) -> tuple[float, float, float]:
    """Returns the means of exp(-|x - y|^2 / (2 sigma^2)) - 1 over pairs.

    Without the 1, small differences of these means keep their digits.

    Returns:
      The means over pairs within a, within b, and of a and b.
    """
    factor = np.float32(-1 / (2 * sigma**2))

    def mean(x: '_Rows', y: '_Rows') -> float:
      sums = [
        np.asarray(_gaussian_sums(block, y.parts, factor), np.float64).sum()
        for _, block in x.blocks(len(y))
      ]
      return float(np.sum(sums)) / (len(x) * len(y))

    return (
      mean(self._a, self._a), mean(self._b, self._b), mean(self._a, self._b)
    )  # fmt: skip


# Rows [n, d] and their squared norms [n].
_Parts = tuple[Array, Array]


class _Rows:
  """Rows on the device, with their squared norms.

  Attributes:
    parts: The rows and the norms.
  """

  def __init__(self, rows: Float[np.ndarray, 'n d']):
    norms = np.square(rows, dtype=np.float64).sum(1).astype(np.float32)
    device = jax.local_devices()[0]
    self.parts: _Parts = jax.device_put((rows, norms), device)

  def __len__(self) -> int:
    return len(self.parts[1])

  def blocks(self, others: int) -> Iterator[tuple[int, _Parts]]:
    """Yields consecutive rows, to be compared with a number of others."""
    step = max(_PAIRS // others, 1)
    for i in range(0, len(self), step):
      yield i, (self.parts[0][i : i + step], self.parts[1][i : i + step])


def _squares(a: _Parts, b: _Parts) -> Float[Array, 'n m']:
  """Returns the squared distances of all pairs."""
  products = jnp.matmul(a[0], b[0].T, precision=lax.Precision.HIGHEST)
  norms = a[1][:, None] + b[1][None]
  squares = norms - 2 * products
  return jnp.where(squares > np.float32(RELATIVE_ERROR) * norms, squares, 0)


@functools.partial(jax.jit, static_argnames='k')
def _radii(a: _Parts, b: _Parts, start: Array, k: int) -> Float[Array, ' n']:
  """Returns squared distances to the k-th of other rows; a are rows of b."""
  squares = _squares(a, b)
  own = start + jnp.arange(len(a[1]))[:, None]
  is_self = own == jnp.arange(len(b[1]))[None]
  return _kth_smallest(jnp.where(is_self, np.inf, squares), k)


def _kth_smallest(x: Float[Array, 'n m'], k: int) -> Float[Array, ' n']:
  """Returns the k-th smallest value of each row, for a small k.

  On CPUs `lax.top_k` takes four times as long as the products.
  """
  reach = jnp.full(x.shape[0], -np.inf, x.dtype)
  for _ in range(k):
    is_below = x <= reach[:, None]  # Equal values are taken in one step.
    following = jnp.where(is_below, np.inf, x).min(1)
    reach = jnp.where(is_below.sum(1) < k, following, reach)
  return reach


@jax.jit
def _within(
  a: _Parts, b: _Parts, a_radii: Array, b_radii: Array
) -> tuple[Int[Array, ' m'], Int[Array, ' n'], Bool[Array, ' n']]:
  """Returns the counts that `Pairs.within` describes, for some rows of a."""
  squares = _squares(a, b)
  in_a = squares <= a_radii[:, None]
  in_b = squares <= b_radii[None]
  return in_a.sum(0), in_b.sum(1), in_a.any(1)


@jax.jit
def _gaussian_sums(a: _Parts, b: _Parts, factor: Array) -> Float[Array, ' m']:
  """Returns sums of a Gaussian kernel minus 1 over the rows of a."""
  return jnp.expm1(factor * _squares(a, b)).sum(0)
