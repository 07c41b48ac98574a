"""Geometry of the Mosaic GPU kernel, in plain Python.

A block of the kernel computes a strip of the output, `width` columns by `rows`
rows, for 64 channels of one image, from top to bottom. A step reads
`Stream.advance` rows of each operand, computes `Geometry.phases` rows at the
middle rate and completes `Geometry.groups_per_step` rows of the output. All
positions below are relative to the first output sample of the strip. The
distance between the first samples of two strips is an integer number of samples
of every operand.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from sg3jax.ops.filtered_lrelu.plan import Chain, Pass, Terms, round_up

CHANNELS = 64
RESIDENT = 0

# Shared memory per block, in bytes, at which two blocks fit on a multiprocessor
# of an H100, with 1 KiB reserved for each.
_SHARED_MEMORY_OF_TWO = 113 * 1024

# A term weaker than this, relative to the first of its sum, is smaller than the
# rounding of the first term's taps to float16.
_WEAKEST_TERM = 3e-4

# Pairs (index among the live rows, tap) for one row at the middle rate.
RowTaps: TypeAlias = tuple[tuple[int, float], ...]


class Arrival(NamedTuple):
  """Describes how rows of an operand are converted when they reach registers.

  Attributes:
    is_wide: Whether the rows are bfloat16 and are converted to float16.
    is_scaled: Whether the rows are multiplied by a factor for each channel.
    is_biased: Whether a bias is added.
  """

  is_wide: bool = False
  is_scaled: bool = False
  is_biased: bool = False


class Stream(NamedTuple):
  """Describes how one operand is read and brought to the middle rate.

  Attributes:
    rate: Upsampling factor.
    advance: Number of rows that a step reads.
    first_row: First row that the strip needs.
    alive: Number of rows that a step needs at once.
    row_taps: Taps along h for each middle row of a step and each term.
    first_column: First column that the strip needs.
    columns: Number of columns that the strip needs, a multiple of 16.
    matrices: For each term, the pass along w: [middle, columns] float64.
    reads: How often rows are read, see `Tile`.
    arrival: Conversion of the rows when they reach registers.
    slots: Number of rows buffered in shared memory.
  """

  rate: int
  advance: int
  first_row: int
  alive: int
  row_taps: tuple[tuple[RowTaps, ...], ...]
  first_column: int
  columns: int
  matrices: tuple[np.ndarray, ...]
  reads: int
  arrival: Arrival
  slots: int

  @property
  def is_resident(self) -> bool:
    """Whether the live rows stay in registers."""
    return self.reads == RESIDENT

  @property
  def group(self) -> int:
    """Number of middle rows that are filtered along h at once."""
    return min(max(self.reads, 1), self.rate)

  @property
  def rank(self) -> int:
    """Number of terms of the operand's filter."""
    return len(self.matrices)

  @property
  def rows_read(self) -> int:
    """Number of rows that a step loads from shared memory."""
    if self.is_resident:
      return self.advance
    groups = [
      self.row_taps[i : i + self.group]
      for i in range(0, len(self.row_taps), self.group)
    ]
    return sum(
      len({i for terms in group for taps in terms for i, _ in taps})
      for group in groups
    )

  @property
  def rows_in_registers(self) -> float:
    """Number of rows in registers at the same time, as ptxas schedules them."""
    if self.is_resident:
      return 1.15 * self.alive
    return 2 if self.group == self.rank == 1 else self.alive


class Geometry(NamedTuple):
  """All values of a chain and a strip width that are static when tracing.

  Attributes:
    width: Number of columns of the strip.
    middle: Middle samples along w, padded to a multiple of 16.
    phases: Number of middle rows that a step computes.
    down: Decimation factor of the result, and middle rows in a group.
    groups: Number of groups that are summed to an output row.
    groups_per_step: Number of output rows that a step completes.
    streams: One stream for each operand.
    row_taps: For each term of the result, its taps along h, zero-padded to
      groups * down taps.
    matrix: The passes of all terms along w: [terms * width, middle] float64.
  """

  width: int
  middle: int
  phases: int
  down: int
  groups: int
  groups_per_step: int
  streams: tuple[Stream, ...]
  row_taps: tuple[tuple[float, ...], ...]
  matrix: np.ndarray

  @property
  def rank(self) -> int:
    """Number of terms of the result."""
    return len(self.row_taps)

  @property
  def matrices(self) -> tuple[np.ndarray, ...]:
    """All matrices: those of each operand, then that of the result."""
    return (*(m for s in self.streams for m in s.matrices), self.matrix)

  @property
  def row_unit(self) -> int:
    """Number of which the rows of a strip must be a multiple."""
    rates = [stream.rate // self.down for stream in self.streams]
    return max(1, *rates)

  def steps(self, rows: int) -> int:
    """Returns the number of steps for a strip with a number of rows."""
    return -(-(rows + self.groups - 1) // self.groups_per_step)

  @property
  def shared_bytes(self) -> int:
    """Shared memory of a block, in bytes."""
    rows = sum(s.slots * s.columns for s in self.streams) + self.width
    constants = sum(m.size for m in self.matrices)
    return 2 * (rows * CHANNELS + constants) + 1024

  @property
  def blocks_each(self) -> int:
    """Number of blocks that a multiprocessor runs at once."""
    return 2 if self.shared_bytes <= _SHARED_MEMORY_OF_TWO else 1

  @property
  def registers(self) -> float:
    """Estimate of the registers per thread, fitted to the usage by ptxas."""
    # A row of 64 channels x n columns takes n / 4 registers of two halves, and
    # an accumulator n / 2 of one float32 each. If several sums read the same
    # rows, ptxas loads all of them before it adds the first.
    rows = sum(s.columns / 4 * s.rows_in_registers for s in self.streams)
    partial = (self.groups - 1) * self.width / 2
    middle = len(self.streams) * self.middle / 4
    results = self.groups_per_step * self.rank * self.width / 2
    overhead = 20 + 6.5 * max(self.phases - 2, 0)
    for s in self.streams:
      # A bias that is masked to the image is as large as a row.
      overhead += 2 * s.arrival.is_scaled + s.arrival.is_biased * s.columns / 4
    return overhead + rows + 0.95 * partial + 1.35 * middle + 1.4 * results

  @property
  def instructions(self) -> float:
    """Estimate of the instructions that a thread issues in a step."""
    cost = 60.0 * self.groups_per_step
    for s in self.streams:
      # Barriers, then the loads of rows from shared memory.
      cost += s.advance * 12
      cost += s.rows_read * s.columns / 8
      is_wide, is_scaled, is_biased = s.arrival
      cost += s.advance * s.columns * (is_wide + (is_scaled + is_biased) / 4)
      # Taps along h in packed halves; zeroing and rounding an accumulator.
      taps = sum(len(t) for terms in s.row_taps for t in terms)
      cost += taps * s.columns / 4 + self.phases * self.middle * 0.75
      cost += self.phases * s.rank * s.columns / 16
    # Pointwise on packed halves, then the product and the taps along h.
    pointwise = (4 if len(self.streams) == 1 else 9) * self.middle / 4
    product = self.middle / 16 + self.rank * self.width / 2
    sums = self.groups * self.rank * self.width / 2
    cost += self.phases * (pointwise + product + sums)
    # Rows that stay in registers together with rows of another operand are
    # moved between registers often.
    is_moved = len(self.streams) > 1 and any(
      s.is_resident for s in self.streams
    )
    return cost * (1.22 if is_moved else 1)

  @property
  def shared_traffic(self) -> int:
    """Bytes that a step reads from or writes to shared memory."""
    rows = sum(s.columns * (s.advance + s.rows_read) for s in self.streams)
    rows += 2 * self.groups_per_step * self.width
    matrices = sum(m.size for m in self.matrices)
    return 2 * (CHANNELS * rows + self.phases * matrices)

  @property
  def cycles(self) -> float:
    """Estimate of the cycles that a multiprocessor needs for a step.

    The limit is the instruction issue (four warps on four schedulers) or shared
    memory (128 bytes per cycle), not the tensor cores. The efficiencies are
    guesses.
    """
    issue = self.instructions / 0.75
    return max(issue, self.shared_traffic / 128 / 0.85)


def significant(terms: Terms) -> Terms:
  """Returns the terms of a sum that are significant in 16-bit arithmetic."""

  def weight(term: tuple[Pass, Pass]) -> float:
    return math.prod(float(np.linalg.norm(p.taps)) for p in term)

  strongest = max(map(weight, terms))
  return tuple(t for t in terms if weight(t) >= _WEAKEST_TERM * strongest)


def simplify(chain: Chain) -> Chain:
  """Returns the chain without terms that are insignificant in 16 bits."""
  return dataclasses.replace(
    chain,
    expand=tuple(map(significant, chain.expand)),
    contract=significant(chain.contract),
  )


@functools.cache
def make_geometry(
  chain: Chain,
  width: int,
  reads: tuple[int, ...],
  arrivals: tuple[Arrival, ...],
) -> Geometry:
  """Returns the geometry of a chain for tiles of one width and `reads`.

  The magnitude of the gain is multiplied into the matrices of the operands,
  because the activation clamps after the gain. Its sign is multiplied into the
  taps of the result.
  """
  contract_h, contract_w = chain.contract[0]
  down = contract_h.down
  phases = max(down, *(terms[0][0].up for terms in chain.expand))
  middle = down * (width - 1) + len(contract_w.taps)
  padded = round_up(middle, 16)
  groups = -(-len(contract_h.taps) // down)
  streams = tuple(
    _stream(terms, chain, phases, middle, padded, how, arrival)
    for terms, how, arrival in zip(chain.expand, reads, arrivals, strict=True)
  )
  sign = math.copysign(1.0, chain.activation.gain)
  return Geometry(
    width=width,
    middle=padded,
    phases=phases,
    down=down,
    groups=groups,
    groups_per_step=phases // down,
    streams=streams,
    row_taps=tuple(
      tuple(sign * t for t in _padded(ph.taps, groups * down))
      for ph, _ in chain.contract
    ),
    matrix=np.concatenate(
      [_band(pw.taps, 0, width, padded, 1, down) for _, pw in chain.contract]
    ),
  )


def _stream(
  terms: Terms,
  chain: Chain,
  phases: int,
  middle: int,
  padded: int,
  reads: int,
  arrival: Arrival,
) -> Stream:
  (along_h, along_w), (to_h, to_w) = terms[0], chain.contract[0]
  rate = along_h.up
  advance = phases // rate
  # Middle sample m of the strip is sum_i taps[i rate - m + shift] in[i].
  shift = along_h.low + to_h.low
  first_row = -(shift // rate)
  row_taps = tuple(
    tuple(
      tuple(
        (i - first_row, tap)
        for k, tap in enumerate(ph.taps)
        if tap and (k + phase - shift) % rate == 0
        for i in [(k + phase - shift) // rate]
      )
      for ph, _ in terms
    )
    for phase in range(phases)
  )
  alive = (len(along_h.taps) - 1 + phases - 1 - shift) // rate - first_row + 1
  shift = along_w.low + to_w.low
  first_column = -(shift // rate)
  last_column = (len(along_w.taps) - 1 + middle - 1 - shift) // rate
  columns = round_up(last_column - first_column + 1, 16)
  gain = abs(chain.activation.gain)
  return Stream(
    rate=rate,
    advance=advance,
    first_row=first_row,
    alive=alive,
    row_taps=row_taps,
    first_column=first_column,
    columns=columns,
    matrices=tuple(
      gain
      * _padded_rows(
        _band(pw.taps, shift + first_column * rate, middle, columns, rate, 1),
        padded,
      )
      for _, pw in terms
    ),
    reads=reads,
    arrival=arrival,
    # While a step runs, the rows of the next one or two steps are copied.
    slots=2 * advance + 2 if reads == RESIDENT else alive + advance,
  )


def _band(
  taps: Sequence[float], shift: int, rows: int, columns: int, up: int, down: int
) -> np.ndarray:
  """Returns [rows, columns]: taps[column * up - row * down + shift]."""
  return Pass(tuple(taps), up, down, shift, columns, rows).matrix


def _padded(taps: Sequence[float], size: int) -> tuple[float, ...]:
  return (*taps, *(0.0,) * (size - len(taps)))


def _padded_rows(matrix: np.ndarray, rows: int) -> np.ndarray:
  return np.pad(matrix, ((0, rows - len(matrix)), (0, 0)))
