"""Brings an operand of the Mosaic GPU kernel from memory into registers."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from sg3jax.ops.filtered_lrelu.gpu.geometry import CHANNELS, RowTaps, Stream
from sg3jax.ops.filtered_lrelu.gpu.mosaic import (
  add,
  along_rows,
  bitcast,
  pl,
  plgpu,
)
from sg3jax.types import Array


class Reader:
  """Copies rows of an operand by TMA to a ring in shared memory, and filters.

  Rows of a resident stream are loaded once and stay in registers as long as
  steps need them. Rows of other streams stay in shared memory, and each step
  loads them again, which takes fewer registers and more instructions.

  A step calls `begin`, then `filter` for each of its middle rows ("phases") in
  order, then `end`.
  """

  def __init__(
    self,
    stream: Stream,
    source: Any,
    buffer: Any,
    barriers: Any,
    *,
    row: Any,
    column: Any,
    channel: Any,
    count: int,
    inner: Any,
    factors: Array | None,
    bias: Array | None,
    size: tuple[int, int],
    border: int,
  ):
    self._stream = stream
    self._source, self._buffer, self._barriers = source, buffer, barriers
    self._row = row + stream.first_row
    self._column = column + stream.first_column
    self._channel, self._count = channel, count
    self._inner = inner
    self._factors, self._border, self._height = factors, border, size[0]
    self._bias = None
    if bias is not None:  # Mask it to the columns of the image.
      shape = (CHANNELS, stream.columns)
      index = self._column - border
      index = index + plgpu.broadcasted_iota(
        jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA
      )
      is_inside = (index >= 0) & (index < size[1])
      bias = lax.broadcast_in_dim(bias.astype(inner), shape, (0,))
      self._bias = jnp.where(is_inside, bias, jnp.zeros_like(bias))
    self._is_changed = buffer.dtype != inner or any(stream.arrival)
    # State of the step that is being traced: its first row, the number of its
    # rows that have arrived, its rows in registers, and the filtered rows of
    # the current group of phases.
    self._first: Any = 0
    self._arrived = 0
    self._alive: list[Array] = []
    self._group: list[list[Array | None]] = []

  def fetch(self) -> None:
    """Starts to copy the first rows, one into each slot."""
    for row in range(min(self._stream.slots, self._count)):
      self._copy(row, row)

  def start(self) -> tuple[Array, ...]:
    """Returns the carry for `begin` of the first step."""
    self._await(self._old)
    return tuple(self._alive)

  def begin(self, step: Any, carry: tuple[Array, ...]) -> None:
    """Begins a step with the carry that the previous `end` returned."""
    self._first = step * self._stream.advance
    self._arrived, self._alive = self._old, list(carry)

  def filter(self, phase: int) -> list[Array | None]:
    """Returns, for each term, a row [64, columns] filtered along h, or None.

    None stands for zero.
    """
    # Load rows only when they are needed, to keep few in registers.
    self._await(self._old + phase // self._stream.rate + 1)
    size = self._stream.group
    if phase % size == 0:
      self._group = self._filter(self._stream.row_taps[phase : phase + size])
    return self._group[phase % size]

  def end(self) -> tuple[Array, ...]:
    """Ends a step and returns the carry for `begin` of the next one."""
    self._await(self._stream.alive)
    advance = self._stream.advance
    if self._stream.is_resident:
      return tuple(self._alive[advance:])
    # All warps have read the rows, so TMA may overwrite their slots.
    plgpu.commit_smem()
    for i in range(advance):
      self._replace(self._first + i)
    return ()

  @property
  def _old(self) -> int:
    """Number of rows that have arrived before a step begins."""
    return self._stream.alive - self._stream.advance

  def _filter(
    self, row_taps: Sequence[Sequence[RowTaps]]
  ) -> list[list[Array | None]]:
    """Returns a row, or None for zero, for each given phase and each term."""
    sums: list[list[Array | None]] = [[None] * len(p) for p in row_taps]
    for i in sorted({i for p in row_taps for taps in p for i, _ in taps}):
      row = self._get(i)
      for p, terms in enumerate(row_taps):
        for t, taps in enumerate(terms):
          for j, tap in taps:
            if i == j:
              sums[p][t] = add(sums[p][t], row * jnp.asarray(tap, row.dtype))
    return sums

  def _await(self, count: int) -> None:
    """Waits until `count` rows of this step have arrived."""
    for i in range(self._arrived, count):
      row = self._first + i
      plgpu.barrier_wait(self._barriers.at[self._slot(row)])
      if self._stream.is_resident:
        self._alive.append(self._arrive(self._load(row), row))
        plgpu.commit_smem()
        self._replace(row)
      elif self._is_changed:
        # Convert the row once for all reads, and store the bits of float16 in
        # its place.
        value = self._arrive(self._load(row), row)
        buffer = self._buffer.at[self._slot(row)].T
        buffer[...] = bitcast(value, buffer.dtype)
    self._arrived = max(self._arrived, count)

  def _get(self, index: int) -> Array:
    """Returns a row of this step: [64, columns]."""
    if self._stream.is_resident:
      return self._alive[index]
    return bitcast(self._load(self._first + index), self._inner)

  def _load(self, row: Any) -> Array:
    # Load in the layout of operands of wgmma.
    ref = self._buffer.at[self._slot(row)].T
    return plgpu.load(ref, layout=plgpu.Layout.WGMMA)

  def _arrive(self, value: Array, row: Any) -> Array:
    """Returns a row, scaled and biased, in the dtype of the arithmetic."""
    if value.dtype != self._inner:
      value = value.astype(jnp.float32)
    if self._factors is not None:
      factors = self._factors.astype(value.dtype)
      value = value * along_rows(factors, value)
    value = value.astype(self._inner)
    if self._bias is not None:
      index = self._row + row - self._border
      is_inside = (index >= 0) & (index < self._height)
      value = value + self._bias * jnp.where(is_inside, 1.0, 0.0).astype(
        self._inner
      )
    return value

  def _replace(self, row: Any) -> None:
    """Copies a new row into the slot of a row that all warps have read."""
    new, slot = row + self._stream.slots, self._slot(row)
    pl.when(new < self._count)(lambda: self._copy(new, slot))

  def _slot(self, row: Any) -> Any:
    return lax.rem(jnp.int32(row), jnp.int32(self._stream.slots))

  def _copy(self, row: Any, slot: Any) -> None:
    # Tile only the channels: TMA cannot start outside of the array along a
    # tiled axis.
    plgpu.copy_gmem_to_smem(
      self._source.at[
        self._row + row,
        pl.ds(self._column, self._stream.columns),
        pl.ds(self._channel, CHANNELS),
      ],
      self._buffer.at[slot],
      self._barriers.at[slot],
      oob_mode=plgpu.OOBFillMode.ZEROS,
    )
