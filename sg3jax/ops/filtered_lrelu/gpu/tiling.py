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

# Multiprocessors of an H100, and bytes of shared memory that a block can have.
_MULTIPROCESSORS = 132
_SHARED_MEMORY = 227 * 1024

_RATES = (1, 2, 4)
_MOST_TERMS = 4
_WIDTHS = (8, 16, 24, 32)

# Of `Geometry.registers`, an estimate: the spilling begins above, as compiling
# for an H100 shows; a thread has 255.
_MOST_REGISTERS = 238


class Tile(NamedTuple):
  """The size of a block's part, and how the block reads operands.

  Attributes:
    width: Output columns.
    rows: Output rows.
    reads: For each operand, how its rows get from shared memory to registers:
      RESIDENT, once, and they stay there while alive; 1, again for each middle
      row; 2, again for each pair of middle rows. Registers are scarce.
  """

  width: int
  rows: int
  reads: tuple[int, ...]


def unsupported(
  chain: Chain, out_shape: tuple[int, ...], arrivals: tuple[Arrival, ...]
) -> str | None:
  """Returns why the kernel's geometry has no place for a chain, or None.

  Args:
    chain: What to compute, `simplify`d.
    out_shape: Shape of the result, [n, h, w, c].
    arrivals: What is done to each operand first.
  """
  sums = (*chain.expand, chain.contract)
  passes = [p for terms in sums for term in terms for p in term]
  most_taps, most_terms = max(len(p.taps) for p in passes), max(map(len, sums))
  if most_terms > _MOST_TERMS:
    return f'it takes sums of {_MOST_TERMS} terms, not {most_terms}'
  for terms in sums:
    rates = {rate for term in terms for p in term for rate in (p.up, p.down)}
    is_square = len({(p.up, p.down) for term in terms for p in term}) == 1
    if not is_square or not rates <= set(_RATES):
      found = ', '.join(map(str, sorted(rates)))
      return f'it takes the rates 1, 2 and 4, equal on both axes, not {found}'
    for axis in (0, 1):
      if len({(term[axis].low, len(term[axis].taps)) for term in terms}) > 1:
        return 'the terms of a sum differ in padding or number of taps'
  if most_taps == 1:
    return 'without filters XLA fuses it into its neighbours'
  if not all(_middle_is_covered(chain, axis) for axis in (0, 1)):
    return 'the result depends on samples outside of the middle rate'
  if choose(chain, out_shape, arrivals) is None:
    return (
      f'filters of {most_taps} taps and {most_terms} terms take more registers '
      'or shared memory than there are'
    )
  return None


def _middle_is_covered(chain: Chain, axis: int) -> bool:
  """Whether the zeros outside of the middle rate's samples need no masking.

  The kernel computes the middle rate wherever the result looks at it. Outside
  of the samples that a chain defines it must come out as zero by itself or not
  be looked at. One of both holds for each chain of a `Plan`.
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
  """Returns the cheapest tile whose block fits, or None if there is none.

  The cost is the time of the whole grid: rounds of blocks that run at once,
  times the steps of a block, times the cycles of a step.

  Args:
    chain: What to compute, `simplify`d.
    out_shape: Shape of the result, [n, h, w, c].
    arrivals: What is done to each operand first.
  """
  n, h, w, c = out_shape
  best, least = None, math.inf
  ways = itertools.product((RESIDENT, 1, 2), repeat=len(chain.expand))
  for reads, width in itertools.product(ways, _WIDTHS):
    geometry = make_geometry(chain, width, reads, arrivals)
    if not fits(geometry):
      continue
    # A block alone cannot hide its waiting: it takes as long as two at once.
    at_once = _MULTIPROCESSORS * geometry.blocks_each
    strips = n * -(-c // CHANNELS) * -(-w // width)
    for divisor in range(1, h + 1):
      rows = round_up(-(-h // divisor), geometry.row_unit)
      if divisor > 1 and rows < 2 * geometry.groups:
        break  # Mostly warm-up.
      rounds = -(-strips * -(-h // rows) // at_once)
      cost = rounds * (geometry.steps(rows) + 4) * geometry.cycles
      if cost < least:
        best, least = Tile(width, rows, reads), cost
  return best


def fits(geometry: Geometry) -> bool:
  """Whether a block compiles without spilling registers."""
  return (
    geometry.registers <= _MOST_REGISTERS
    and geometry.shared_bytes <= _SHARED_MEMORY
    # The widest product and the widest copy there are.
    and max(geometry.middle, geometry.rank * geometry.width) <= 256
    and max(s.columns for s in geometry.streams) <= 256
  )
