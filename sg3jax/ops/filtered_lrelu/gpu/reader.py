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
  """One operand on its way into registers: TMA, a ring in shared memory, rows.

  A resident stream's rows are read once and stay in registers while a step
  needs them. Those of another stay in shared memory and are read again by each
  step, which takes fewer registers and more instructions.

  A step calls `begin`, `filter` for each phase in turn and `end`.
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
    if bias is not None:  # Within the image's columns.
      shape = (CHANNELS, stream.columns)
      index = self._column - border
      index = index + plgpu.broadcasted_iota(
        jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA
      )
      is_inside = (index >= 0) & (index < size[1])
      bias = lax.broadcast_in_dim(bias.astype(inner), shape, (0,))
      self._bias = jnp.where(is_inside, bias, jnp.zeros_like(bias))
    self._is_changed = buffer.dtype != inner or any(stream.arrival)
    # Of the step that is being traced: its first row, how many of its rows have
    # arrived, those in registers, and the results for a group of phases.
    self._first: Any = 0
    self._arrived = 0
    self._alive: list[Array] = []
    self._group: list[list[Array | None]] = []

  def fetch(self) -> None:
    """Fetches as many rows as there are slots."""
    for row in range(min(self._stream.slots, self._count)):
      self._copy(row, row)

  def start(self) -> tuple[Array, ...]:
    """Returns what the first step's `begin` takes."""
    self._await(self._old)
    return tuple(self._alive)

  def begin(self, step: Any, carry: tuple[Array, ...]) -> None:
    """Begins a step, with what the one before returned at its end."""
    self._first = step * self._stream.advance
    self._arrived, self._alive = self._old, list(carry)

  def filter(self, phase: int) -> list[Array | None]:
    """Returns a row filtered along h for each term: [64, columns] or zero."""
    # Rows arrive when first needed: the fewer are alive the better.
    self._await(self._old + phase // self._stream.rate + 1)
    size = self._stream.group
    if phase % size == 0:
      self._group = self._filter(self._stream.row_taps[phase : phase + size])
    return self._group[phase % size]

  def end(self) -> tuple[Array, ...]:
    """Ends a step; returns what the next one's `begin` takes."""
    self._await(self._stream.alive)
    advance = self._stream.advance
    if self._stream.is_resident:
      return tuple(self._alive[advance:])
    # All warps have read the rows: TMA may overwrite their slots.
    plgpu.commit_smem()
    for i in range(advance):
      self._replace(self._first + i)
    return ()

  @property
  def _old(self) -> int:
    """Rows that a step finds arrived."""
    return self._stream.alive - self._stream.advance

  def _filter(
    self, row_taps: Sequence[Sequence[RowTaps]]
  ) -> list[list[Array | None]]:
    """Returns, for some phases and each term, a row or None for zero."""
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
        # Once for all reads, in place: the bits of float16 in 16 bits.
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
    # In the layout of wgmma's operands.
    ref = self._buffer.at[self._slot(row)].T
    return plgpu.load(ref, layout=plgpu.Layout.WGMMA)

  def _arrive(self, value: Array, row: Any) -> Array:
    """Returns a row of the operand in the dtype of the arithmetic, scaled."""
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
    """Fetches another row into the slot of one that all warps have read."""
    new, slot = row + self._stream.slots, self._slot(row)
    pl.when(new < self._count)(lambda: self._copy(new, slot))

  def _slot(self, row: Any) -> Any:
    return lax.rem(jnp.int32(row), jnp.int32(self._stream.slots))

  def _copy(self, row: Any, slot: Any) -> None:
    # Only the channels are tiled: along an axis that is, TMA cannot start
    # outside of the array.
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
