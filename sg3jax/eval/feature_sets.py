"""Accumulates the features of many images: their moments, and rows to keep."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from sg3jax.eval.metrics import formulas

# Which real images a metric compares with.
NONE = 'none'
SOME = 'some'  # As many as generated images, flipped too if the data are.
ALL = 'all'  # All of them, never flipped.

# Rows that enter the sums at a time. The number does not depend on batches or
# devices, and so neither do the sums.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Wanted:
  """The features that a metric compares.

  Attributes:
    network: Name of the feature network.
    outputs: Its outputs whose rows are needed besides those of the first one.
    reals: `NONE`, `SOME` or `ALL`.
    real_rows: Number of real images whose rows are needed, or all if there are
      fewer; 0 if mean and covariance suffice.
  """

  network: str
  outputs: tuple[str, ...] = ()
  reals: str = SOME
  real_rows: int = 0


@dataclasses.dataclass(frozen=True)
class FeatureSet:
  """The features of a set of images.

  Attributes:
    moments: Moments of the network's first output over all images.
    rows: Features of the first images, or of all, by output; float32.
  """

  moments: formulas.Moments
  rows: Mapping[str, Float[np.ndarray, 'm _']]

  @property
  def count(self) -> int:
    """Number of images."""
    return self.moments.count

  @property
  def first(self) -> Float[np.ndarray, 'm d']:
    """The rows of the network's first output."""
    return next(iter(self.rows.values()))


def merge(wanted: Iterable[Wanted]) -> dict[str, Wanted]:
  """Returns what serves several metrics that use the same reals, by network."""
  merged: dict[str, Wanted] = {}
  for one in wanted:
    known = merged.get(one.network, one)
    merged[one.network] = dataclasses.replace(
      one,
      outputs=tuple(dict.fromkeys(known.outputs + one.outputs)),
      real_rows=max(known.real_rows, one.real_rows),
    )
  return merged


class Accumulator:
  """Accumulates batches of features in their order.

  The sums are in float64, and independent of the sizes of the batches.
  """

  def __init__(self, outputs: Sequence[str], keep: int):
    """Begins an empty set.

    Args:
      outputs: Names of the outputs to keep rows of; the first also yields
        moments.
      keep: Number of rows to keep.
    """
    self._outputs = tuple(outputs)
    self._keep = keep
    self._rows: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    self._kept = 0
    self._count = 0
    self._pending: list[np.ndarray] = []
    self._shift = self._sum = self._products = np.zeros(0)

  def add(self, batch: Mapping[str, Float[np.ndarray, 'n _']]) -> None:
    """Adds the features of a batch by output.

    Raises:
      FloatingPointError: If features are not finite.
    """
    first = batch[self._outputs[0]]
    if not np.isfinite(first).all():
      raise FloatingPointError(
        'features must be finite, got NaN or infinity: check the weights of '
        'the feature network'
      )
    some = max(self._keep - self._kept, 0)
    if some:
      for name in self._outputs:
        self._rows[name].append(np.asarray(batch[name][:some], np.float32))
      self._kept += len(first[:some])
    self._pending.append(first)
    while sum(map(len, self._pending)) >= _BLOCK:
      rows = np.concatenate(self._pending)
      self._add_block(rows[:_BLOCK])
      self._pending = [rows[_BLOCK:]]

  def result(self) -> FeatureSet:
    """Returns the set.

    Raises:
      ValueError: If there are fewer than two images.
    """
    rest = np.concatenate(self._pending) if self._pending else np.zeros((0, 0))
    formulas.check_count(self._count + len(rest), 2, 'a covariance')
    if len(rest):
      self._add_block(rest)
      self._pending = []
    mean = self._sum / self._count
    cov = self._products / self._count - np.outer(mean, mean)
    rows = {
      name: np.concatenate(parts) for name, parts in self._rows.items() if parts
    }
    moments = formulas.Moments(self._count, mean + self._shift, cov)
    return FeatureSet(moments, rows)

  def _add_block(self, rows: np.ndarray) -> None:
    x = rows.astype(np.float64)
    if not self._count:
      # Sums of centred numbers lose no digits to their mean.
      self._shift = x.mean(0)
      self._sum = np.zeros(x.shape[1])
      self._products = np.zeros((x.shape[1], x.shape[1]))
    x -= self._shift
    self._count += len(x)
    self._sum += x.sum(0)
    self._products += x.T @ x
