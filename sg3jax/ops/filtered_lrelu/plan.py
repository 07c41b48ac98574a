"""Describes one `filtered_lrelu` call by hashable static values.

Along one axis, a FIR filter with zero insertion, padding and decimation is the
banded matrix of a `Pass`. A separable filter is one pass per axis (a `Term`),
and a 2-D filter is a sum of terms. A `Plan` is the whole operator

  y = D act(U x),   U, D sums of terms,

for one input shape. Transposing a pass exchanges its two rates and reverses its
taps, so the derivatives of the operator consist of the same parts. Each is a
`Chain`, and an implementation only has to compute chains.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from sg3jax.ops import filters
from sg3jax.ops.filtered_lrelu.activation import Activation

# The static arguments of a jitted function must hash and compare by value.
# Nested tuples do; NumPy arrays do not.
Taps: TypeAlias = tuple[float, ...]
Taps2D: TypeAlias = tuple[Taps, ...]
AxisPadding: TypeAlias = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Pass:
  """A resampling FIR filter along one axis: out = M in.

  M[o, i] = taps[i * up - o * down + low] if that index exists, else zero.

  Attributes:
    taps: Taps in the order of increasing input index, that is, flipped.
    up: Zero insertion factor.
    down: Decimation factor.
    low: Zeros before the first sample, after zero insertion.
    in_size: Number of input samples.
    out_size: Number of output samples.
  """

  taps: Taps
  up: int
  down: int
  low: int
  in_size: int
  out_size: int

  @property
  def transposed(self) -> 'Pass':
    """The pass of the transposed matrix."""
    return Pass(
      taps=self.taps[::-1],
      up=self.down,
      down=self.up,
      low=len(self.taps) - 1 - self.low,
      in_size=self.out_size,
      out_size=self.in_size,
    )

  @property
  def is_identity(self) -> bool:
    """Whether M is the identity matrix."""
    return (
      self.taps == (1.0,)
      and self.up == self.down == 1
      and self.low == 0
      and self.in_size == self.out_size
    )

  @property
  def matrix(self) -> np.ndarray:
    """M, float64 [out_size, in_size]."""
    rows = np.arange(self.out_size)[:, None] * self.down
    columns = np.arange(self.in_size)[None, :] * self.up
    index = columns - rows + self.low
    inside = (index >= 0) & (index < len(self.taps))
    return np.where(inside, np.asarray(self.taps)[index * inside], 0.0)


# (pass along h, pass along w).
Term: TypeAlias = tuple[Pass, Pass]
Terms: TypeAlias = tuple[Term, ...]


def round_up(value: int, multiple: int) -> int:
  """Returns the least multiple of a number that is at least the value."""
  return -(-value // multiple) * multiple


def transpose(terms: Terms) -> Terms:
  """Returns the terms of the transposed linear map."""
  return tuple((ph.transposed, pw.transposed) for ph, pw in terms)


def _cached_hash(self: Any) -> int:
  # Static arguments are hashed at every call, and these contain many floats.
  if '_hash' not in self.__dict__:
    fields = dataclasses.fields(self)
    self.__dict__['_hash'] = hash(tuple(getattr(self, f.name) for f in fields))
  return self.__dict__['_hash']


@dataclasses.dataclass(frozen=True)
class Chain:
  """Expands each operand, combines them pointwise and contracts the result.

  Attributes:
    expand: For each operand, the terms that bring it to the middle rate.
    activation: Combines the operands. It is applied to a single operand; of
      two, the second is multiplied by its derivative at the first.
    contract: Terms that bring the result from the middle rate to its own.
  """

  expand: tuple[Terms, ...]
  activation: Activation
  contract: Terms

  __hash__ = _cached_hash

  @property
  def in_sizes(self) -> tuple[tuple[int, int], ...]:
    """Height and width of each operand."""
    return tuple(
      (terms[0][0].in_size, terms[0][1].in_size) for terms in self.expand
    )

  @property
  def out_size(self) -> tuple[int, int]:
    """Height and width of the result."""
    along_h, along_w = self.contract[0]
    return along_h.out_size, along_w.out_size

  @property
  def flops(self) -> float:
    """Two for each multiply-add of the filters on one map, without zeros."""
    total = 0.0
    for terms in self.expand:  # Along w, then h.
      for along_h, along_w in terms:
        rows, columns = along_h.out_size, along_w.out_size
        total += along_h.in_size * columns * len(along_w.taps) / along_w.up
        total += rows * columns * len(along_h.taps) / along_h.up
    for along_h, along_w in self.contract:  # Along h, then w.
      rows, columns = along_h.out_size, along_w.out_size
      total += rows * along_w.in_size * len(along_h.taps)
      total += rows * columns * len(along_w.taps)
    return 2 * total

  @property
  def samples(self) -> int:
    """Number of samples in one map of every operand and of the result."""
    return sum(h * w for h, w in (*self.in_sizes, self.out_size))

  @property
  def is_pointwise(self) -> bool:
    """Whether every pass is the identity."""
    sums = (*self.expand, self.contract)
    return all(p.is_identity for terms in sums for term in terms for p in term)


@dataclasses.dataclass(frozen=True)
class Plan:
  """One `filtered_lrelu` operator on feature maps of one height and width.

  Attributes:
    fu: Taps of the upsampling filter, 1-D or 2-D, or None for the unit impulse.
    fd: Taps of the downsampling filter, likewise.
    up: Upsampling factor.
    down: Downsampling factor.
    padding: Samples added (cropped if negative) after zero insertion,
      ((top, bottom), (left, right)).
    activation: The leaky ReLU with its gain and clamp.
    expand: U as a sum of separable terms.
    contract: D as a sum of separable terms.
  """

  fu: Taps | Taps2D | None
  fd: Taps | Taps2D | None
  up: int
  down: int
  padding: tuple[AxisPadding, AxisPadding]
  activation: Activation
  expand: Terms
  contract: Terms

  __hash__ = _cached_hash

  @functools.cached_property
  def forward(self) -> Chain:
    """The chain (x) -> D act(U x)."""
    return Chain((self.expand,), self.activation, self.contract)

  @functools.cached_property
  def backward(self) -> Chain:
    """The chain (x, g) -> U^T M(U x) D^T g, with M the diagonal slope mask."""
    return Chain(
      (self.expand, transpose(self.contract)),
      self.activation,
      transpose(self.expand),
    )

  @functools.cached_property
  def tangent(self) -> Chain:
    """The chain (x, t) -> D M(U x) U t."""
    return Chain((self.expand, self.expand), self.activation, self.contract)


def make_plan(
  shape: Sequence[int],
  fu: np.ndarray | None,
  fd: np.ndarray | None,
  *,
  up: int,
  down: int,
  padding: tuple[AxisPadding, AxisPadding],
  activation: Activation,
  tolerance: float,
) -> Plan:
  """Builds the operator for inputs of one height and width.

  Args:
    shape: Height and width of the input.
    fu: Upsampling filter, [t], [t, t'] or None.
    fd: Downsampling filter, likewise.
    up: Upsampling factor.
    down: Downsampling factor.
    padding: ((top, bottom), (left, right)).
    activation: See `Plan`.
    tolerance: Largest singular value of a 2-D filter to discard, relative to
      the first.

  Raises:
    ValueError: If the padded input is smaller than a filter, so that the output
      is empty.
  """
  up_taps, down_taps = _separable(fu, tolerance), _separable(fd, tolerance)
  axes = []
  for axis, size in enumerate(shape):
    low, high = padding[axis]
    padded = size * up + low + high
    middle = padded - len(up_taps[0][axis]) + 1
    filtered = middle - len(down_taps[0][axis]) + 1
    if middle < 1 or filtered < 1:
      raise ValueError(
        f'filtered_lrelu: the padded input along {"hw"[axis]} must be at least '
        f'{padded - filtered + 1} samples for filters of '
        f'{len(up_taps[0][axis])} and {len(down_taps[0][axis])} taps, got '
        f'{size} samples x up {up} + padding ({low}, {high}) = {padded}. '
        'Increase the padding.'
      )
    axes.append((size, low, middle, math.ceil(filtered / down)))

  def expand(taps: np.ndarray, axis: int) -> Pass:
    size, low, middle, _ = axes[axis]
    # Zero insertion divides the mean by `up` along each axis: restore it.
    return Pass(_tuple(taps[::-1] * up), up, 1, low, size, middle)

  def contract(taps: np.ndarray, axis: int) -> Pass:
    _, _, middle, out_size = axes[axis]
    return Pass(_tuple(taps[::-1]), 1, down, 0, middle, out_size)

  return Plan(
    fu=None if fu is None else _tuple(fu),
    fd=None if fd is None else _tuple(fd),
    up=up,
    down=down,
    padding=padding,
    activation=activation,
    expand=tuple((expand(c, 0), expand(r, 1)) for c, r in up_taps),
    contract=tuple((contract(c, 0), contract(r, 1)) for c, r in down_taps),
  )


def _separable(
  f: np.ndarray | None, tolerance: float
) -> Sequence[tuple[np.ndarray, np.ndarray]]:
  """Returns a filter as (column, row) pairs whose outer products sum to it."""
  if f is None:
    return [(np.ones(1), np.ones(1))]
  if f.ndim == 1:
    return [(f, f)]
  return filters.split_low_rank(f, tolerance)


def _tuple(f: np.ndarray) -> Any:
  return tuple(f.tolist()) if f.ndim == 1 else tuple(map(tuple, f.tolist()))
