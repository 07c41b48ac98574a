"""Chooses the tile of the Mosaic GPU kernel, by estimates of its cost."""

import functools
import itertools
import math
from typing import NamedTuple

from sg3jax.ops.filtered_lrelu.gpu.geometry import (
  CHANNELS,
  RESIDENT,
  Arrival,
  Geometry,
  make_geometry,
)
from sg3jax.ops.filtered_lrelu.plan import Chain, round_up

# Multiprocessors of an H100, and the most shared memory of a block, in bytes.
_MULTIPROCESSORS = 132
_SHARED_MEMORY = 227 * 1024

_RATES = (1, 2, 4)
_MOST_TERMS = 4
_WIDTHS = (8, 16, 24, 32)

# Limit of the estimate `Geometry.registers`. A thread has 255 registers;
# programs compiled for an H100 spill above this estimate.
_MOST_REGISTERS = 238


class Tile(NamedTuple):
  """The size of a block's output, and how the block reads operands.

  Attributes:
    width: Number of output columns.
    rows: Number of output rows.
    reads: For each operand, when its rows are loaded from shared memory to
      registers: RESIDENT loads them once and keeps them in registers, 1 loads
      them for each middle row, 2 for each pair of middle rows.
  """

  width: int
  rows: int
  reads: tuple[int, ...]


def unsupported(
  chain: Chain, out_shape: tuple[int, ...], arrivals: tuple[Arrival, ...]
) -> str | None:
  """Returns why the kernel has no tile for a chain, or None if it has one.

  Args:
    chain: Chain to compute, from `simplify`.
    out_shape: Shape of the result, [n, h, w, c].
    arrivals: Conversion of the rows of each operand.
  """
  sums = (*chain.expand, chain.contract)
  passes = [p for terms in sums for term in terms for p in term]
  most_taps, most_terms = max(len(p.taps) for p in passes), max(map(len, sums))
  if most_terms > _MOST_TERMS:
    return f'a filter must have at most {_MOST_TERMS} terms, got {most_terms}'
  for terms in sums:
    rates = {rate for term in terms for p in term for rate in (p.up, p.down)}
    is_square = len({(p.up, p.down) for term in terms for p in term}) == 1
    if not is_square or not rates <= set(_RATES):
      found = ', '.join(map(str, sorted(rates)))
      return f'factors must be 1, 2 or 4, equal on both axes, got {found}'
    for axis in (0, 1):
      if len({(term[axis].low, len(term[axis].taps)) for term in terms}) > 1:
        return 'all terms of a filter must have equal padding and lengths'
  if most_taps == 1:
    return 'without filters XLA fuses it into its neighbours'
  if not all(_middle_is_covered(chain, axis) for axis in (0, 1)):
    return 'the result depends on undefined samples at the middle rate'
  if choose(chain, out_shape, arrivals) is None:
    return (
      f'filters of {most_taps} taps and {most_terms} terms need more registers '
      'or shared memory than a block has'
    )
  return None


def _middle_is_covered(chain: Chain, axis: int) -> bool:
  """Returns whether the signal at the middle rate needs no masking.

  The kernel computes the middle signal wherever the result reads it. Outside of
  the samples that a chain defines, the computed signal must be zero or must not
  be read. One of the two holds for each chain of a `Plan`.
  """
  reader, source = chain.contract[0][axis], chain.expand[-1][0][axis]
  first = -reader.low
  last = (reader.out_size - 1) * reader.down + len(reader.taps) - 1 + first
  # Middle samples that the last operand reaches.
  lowest = source.low - len(source.taps) + 1
  highest = (source.in_size - 1) * source.up + source.low
  return max(first, lowest) >= 0 and min(last, highest) < reader.in_size


@functools.cache
def choose(
  chain: Chain, out_shape: tuple[int, ...], arrivals: tuple[Arrival, ...]
) -> Tile | None:
  """Returns the cheapest tile whose block fits, or None if none does.

  The cost is the time of the whole grid: the rounds of concurrent blocks, times
  the steps of a block, times the cycles of a step.

  Args:
    chain: Chain to compute, from `simplify`.
    out_shape: Shape of the result, [n, h, w, c].
    arrivals: Conversion of the rows of each operand.
  """
  n, h, w, c = out_shape
  best, least = None, math.inf
  ways = itertools.product((RESIDENT, 1, 2), repeat=len(chain.expand))
  for reads, width in itertools.product(ways, _WIDTHS):
    geometry = make_geometry(chain, width, reads, arrivals)
    if not fits(geometry):
      continue
    # A single block cannot hide its latency: it takes as long as two at once.
    at_once = _MULTIPROCESSORS * geometry.blocks_each
    strips = n * -(-c // CHANNELS) * -(-w // width)
    for divisor in range(1, h + 1):
      rows = round_up(-(-h // divisor), geometry.row_unit)
      if divisor > 1 and rows < 2 * geometry.groups:
        break  # Most steps would only fill the ring of partial sums.
      rounds = -(-strips * -(-h // rows) // at_once)
      cost = rounds * (geometry.steps(rows) + 4) * geometry.cycles
      if cost < least:
        best, least = Tile(width, rows, reads), cost
  return best


def fits(geometry: Geometry) -> bool:
  """Returns whether a block compiles without spilling registers."""
  return (
    geometry.registers <= _MOST_REGISTERS
    and geometry.shared_bytes <= _SHARED_MEMORY
    # The hardware limits products and copies to a width of 256.
    and max(geometry.middle, geometry.rank * geometry.width) <= 256
    and max(s.columns for s in geometry.streams) <= 256
  )
