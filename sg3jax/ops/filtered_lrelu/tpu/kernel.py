"""`filtered_lrelu` as one Pallas kernel for TPUs, channels in the lanes.

A grid step computes a tile of the result for 128 channels in three loops, each
of which multiplies on the matrix unit:

  1. For each row of an operand's window, expand along w, [m_w, w] @ [w, c].
  2. For each column of the middle signal, expand along h, [m_h, h] @ [h, c],
     combine the operands pointwise, contract along h, [t_h, m_h] @ [m_h, c].
  3. For each row of the result, contract along w, [t_w, m_w] @ [m_w, c].

Between the loops, the signal is transposed from rows to columns and back in
vector memory: it is stored row by row, and a column is read with a stride. The
signal at the middle rate along both axes exists only as single columns, in
registers. Strides are odd, which spreads a column over the memory banks.

The terms of a radial filter are stacked along the rows of the matrix that
produces them, and along the contracted axis of the matrix that sums them.

Operands are bfloat16 or float32, and products accumulate in float32. For
bfloat16, the operands of each of the four products are rounded to bfloat16, as
the matrix unit requires.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.plan import Chain, round_up
from sg3jax.ops.filtered_lrelu.tpu.tiling import LANES, Tiling, Window
from sg3jax.types import Array

# Largest number of rows or columns in one iteration of a loop.
_UNROLL = 4


@dataclasses.dataclass(frozen=True)
class Program:
  """Holds the parameters that all steps of the grid share.

  Attributes:
    chain: Chain to compute.
    tiling: Tiles of the chain.
    dtype: Dtype of the operands, of the matrices and of the result.
    is_scaled: Whether the result is multiplied by factors.
  """

  chain: Chain
  tiling: Tiling
  dtype: jnp.dtype
  is_scaled: bool

  @property
  def wide(self) -> int:
    """Rows or columns that are multiplied side by side on the matrix unit."""
    return 2 if self.tiling.pair else 1

  @property
  def rows(self) -> int:
    """Rows of the result in a column of one term, padded to a multiple of 8."""
    return round_up(self.tiling.h.tile, 8)

  @property
  def line_sizes(self) -> list[tuple[int, int]]:
    """Number of lines of each stored signal, and vectors between two lines.

    The signals are the rows of each operand, expanded along w, then the columns
    of the middle signal, contracted along h. The distances are odd to avoid
    bank conflicts, see the module's docstring.
    """
    h, w = self.tiling.h, self.tiling.w
    rows = [
      (window.size, len(terms) * w.middle + 1)
      for terms, window in zip(self.chain.expand, h.windows, strict=True)
    ]
    return [*rows, (w.middle, len(self.chain.contract) * self.rows + 1)]


class Step:
  """One step of the grid: a tile of the result, for 128 channels."""

  def __init__(self, program: Program, *refs: Any):
    """Initializes the step from the arguments of the kernel.

    Args:
      program: Parameters that all steps share.
      *refs: The windows of the operands; the matrices of each operand along w
        and h; the matrices of the result along h and w; the factors of the
        result, if any; the result; the scratch memory of `Program.line_sizes`.
    """
    count = len(program.chain.expand)
    self._program = program
    self._operands, refs = refs[:count], refs[count:]
    self._expand_w, self._expand_h = (
      refs[: 2 * count : 2],
      refs[1 : 2 * count : 2],
    )
    self._contract_h, self._contract_w, *rest = refs[2 * count :]
    self._factors = rest.pop(0) if program.is_scaled else None
    self._out, *self._lines, self._columns = rest
    *self._line_strides, self._column_stride = (
      stride for _, stride in program.line_sizes
    )

  def run(self) -> None:
    """Computes the tile in three loops."""
    program = self._program
    wide, tiling = program.wide, program.tiling
    for k in range(len(self._operands)):
      self._expand_rows(k)
    _pipelined(
      tiling.w.middle, wide, self._middle_columns, self._contract_columns
    )
    _loop(tiling.h.tile, wide, self._contract_rows)

  def _expand_rows(self, k: int) -> None:
    """Expands the rows of operand k's window along w and stores them."""
    wide, tiling = self._program.wide, self._program.tiling
    along_h, along_w = tiling.h.windows[k], tiling.w.windows[k]
    size, operand = self._program.chain.in_sizes[k], self._operands[k]
    starts = [
      window_start(window, pl.program_id(i))
      for i, window in ((2, along_h), (3, along_w))
    ]
    # Values past the end of the operand are undefined, and zero times NaN is
    # NaN.
    inside = None
    if along_w.over:
      shape = (along_w.size, LANES)
      index = lax.broadcasted_iota(jnp.int32, shape, 0) + starts[1]
      inside = index < size[1]

    def row(at: Any) -> Array:
      x = operand[0, at]
      zero = jnp.zeros((), x.dtype)
      if inside is not None:
        x = jnp.where(inside, x, zero)
      if along_h.over:
        x = jnp.where(starts[0] + at < size[0], x, zero)
      return x

    def expand_rows(first: Any) -> None:
      rows = [row(first + e) for e in range(wide)]
      y = self._dot(self._expand_w[k][0], _beside(rows))
      stride = self._line_strides[k]
      self._put(self._lines[k], [(first + e) * stride for e in range(wide)], y)

    _loop(along_h.size, wide, expand_rows)

  def _middle_columns(self, first: Any) -> Array:
    """Returns `wide` columns of the middle signal, combined."""
    program = self._program
    middle = program.tiling.w.middle
    expanded = []
    for k, terms in enumerate(program.chain.expand):
      parts = [
        self._get(
          self._lines[k],
          [first + q * middle + e for e in range(program.wide)],
          program.tiling.h.windows[k].size,
          self._line_strides[k],
        )
        for q in range(len(terms))
      ]
      expanded.append(self._dot(self._expand_h[k][0], _above(parts)))
    combined = _combine(program.chain.activation, *expanded)
    return combined.astype(program.dtype)

  def _contract_columns(self, first: Any, y: Array) -> None:
    """Contracts `wide` columns along h and stores them."""
    z = self._dot(self._contract_h[...], y)
    starts = [
      (first + e) * self._column_stride for e in range(self._program.wide)
    ]
    self._put(self._columns, starts, z)

  def _contract_rows(self, row: Any) -> None:
    """Contracts `wide` rows along w and writes them to the result."""
    program = self._program
    parts = [
      self._get(
        self._columns,
        [row + e + q * program.rows for e in range(program.wide)],
        program.tiling.w.middle,
        self._column_stride,
      )
      for q in range(len(program.chain.contract))
    ]
    z = self._dot(self._contract_w[...], _above(parts))
    for e in range(program.wide):
      result = z[:, e * LANES : (e + 1) * LANES]
      if self._factors is not None:
        result = result * self._factors[0]
      self._out[0, row + e] = result.astype(self._out.dtype)

  def _dot(self, a: Array, b: Array) -> Array:
    # The matrix unit computes float32 as several bfloat16 products: request all
    # of them.
    is_exact = self._program.dtype == jnp.float32
    precision = lax.Precision.HIGHEST if is_exact else None
    return jnp.dot(
      a, b, preferred_element_type=jnp.float32, precision=precision
    )

  def _put(self, ref: Any, at: list[Any], x: Array) -> None:
    """Stores columns of 128 lanes, each beginning at a given vector."""
    for k, first in enumerate(at):
      part = x[:, k * LANES : (k + 1) * LANES]
      ref[pl.ds(first, x.shape[0]), :] = part

  def _get(self, ref: Any, at: list[Any], size: int, stride: int) -> Array:
    """Loads vectors `stride` apart, beginning at each of the given ones."""
    dtype = self._program.dtype
    return _beside(
      [ref[pl.ds(first, size, stride), :].astype(dtype) for first in at]
    )


def window_start(window: Window, tile: Array) -> Array:
  """Returns `Window.start` for a traced tile index."""
  # Written as a product, from which the compiler infers the alignment.
  units = jnp.clip(window.step * tile - window.back, 0, window.last)
  return units * window.align


def _combine(activation: Activation, *ys: Array) -> Array:
  """Returns `Activation.combine` of float32 arrays that include the gain."""
  y, slope, clamp = ys[0], activation.slope, activation.clamp
  if len(ys) == 1:
    # A maximum, where it is equivalent, takes one instruction less than a
    # select.
    is_maximum = 0 <= slope <= 1
    y = jnp.maximum(y, slope * y) if is_maximum else _bend(y, y, slope)
    return y if clamp is None else jnp.clip(y, -clamp, clamp)
  v = _bend(y, ys[1], slope)
  if clamp is None:
    return v
  low = -clamp / abs(slope) if slope else -math.inf
  return jnp.where((y < clamp) & (y > low), v, 0.0)


def _bend(y: Array, v: Array, slope: float) -> Array:
  return jnp.where(y >= 0, v, slope * v)


def _beside(parts: Sequence[Array]) -> Array:
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)


def _above(parts: Sequence[Array]) -> Array:
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, 0)


def _group(count: int, wide: int, most: int) -> int:
  """Returns the steps to unroll: a divisor of `count`, a multiple of `wide`."""
  return max(k for k in range(wide, most + 1, wide) if count % k == 0)


def loop_trips(tiling: Tiling) -> tuple[int, ...]:
  """Returns the number of iterations of each loop of a grid step, in order."""
  wide = 2 if tiling.pair else 1

  def trips(count: int) -> int:
    return count // _group(count, wide, _UNROLL)

  rows = [trips(window.size) for window in tiling.h.windows]
  # The pipelined loop over columns has one iteration less.
  return (*rows, trips(tiling.w.middle) - 1, trips(tiling.h.tile))


def _loop(count: int, wide: int, body: Callable[[Any], None]) -> None:
  """Calls body(first) for every `wide` of `count`, several per iteration."""
  group = _group(count, wide, _UNROLL)

  def step(k: Any, _: Any) -> int:
    for first in range(0, group, wide):
      body(k * group + first)
    return 0

  lax.fori_loop(0, count // group, step, 0)


def _pipelined(
  count: int,
  wide: int,
  produce: Callable[[Any], Array],
  consume: Callable[[Any, Array], None],
) -> None:
  """Produces each group of items while consuming the previous group."""
  group = _group(count, wide, _UNROLL)

  def produced(k: Any) -> tuple[Array, ...]:
    return tuple(produce(k * group + i) for i in range(0, group, wide))

  def consumed(k: Any, items: tuple[Array, ...]) -> None:
    for i, item in zip(range(0, group, wide), items, strict=True):
      consume(k * group + i, item)

  def step(k: Any, items: tuple[Array, ...]) -> tuple[Array, ...]:
    new = produced(k)
    consumed(k - 1, items)
    return new

  items = lax.fori_loop(1, count // group, step, produced(0))
  consumed(count // group - 1, items)
