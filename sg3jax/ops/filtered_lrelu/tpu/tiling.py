"""Tiles of the TPU kernel: windows, matrices, their cost, and the choice.

Pure Python: nothing here needs a device. One grid step computes `tile` x `tile`
outputs of 128 channels. Along each axis it needs a stretch of the middle signal
and, for each operand, a window of samples; the passes become dense matrices
over these, one per tile, which hold the image's borders and any cropping, so
that no operand is padded or cropped outside of the kernel.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from sg3jax.ops.filtered_lrelu.plan import Chain, Pass, Terms, round_up

LANES = 128
# Rows of a matrix operand: a packed bfloat16 tile has 16 of them.
_ROWS = 16
# Where a window may begin along w: at whole tiles of sublanes.
_SUBLANES = 8
# Tiles of fewer outputs along an axis waste most of their windows on borders,
# those of more waste matrix products on the zeros outside of the band.
_LEAST_OUTPUTS, _MOST_OUTPUTS = 8, 192


@dataclasses.dataclass(frozen=True)
class Generation:
  """Describes one core of a TPU generation.

  Attributes:
    vmem: Bytes of vector memory that a kernel may plan with.
    mxu: Rows and columns of a matrix unit.
  """

  vmem: int
  mxu: int


# Of what the compiler lets a kernel allocate, three quarters at most: the rest
# is its own. 128 MiB are more than any tile wants.
GENERATIONS = {
  'v4': Generation(vmem=12 << 20, mxu=128),
  'v5e': Generation(vmem=48 << 20, mxu=128),
  'v5p': Generation(vmem=48 << 20, mxu=128),
  'v6e': Generation(vmem=48 << 20, mxu=256),
  'tpu7x': Generation(vmem=48 << 20, mxu=256),
}
# Parts of JAX's names of devices ('TPU v5 lite', 'TPU v6 lite'), in this order.
_KINDS = {
  'v4': 'v4',
  'v5 lite': 'v5e',
  'v5e': 'v5e',
  'v5': 'v5p',
  'v6': 'v6e',
  'tpu7': 'tpu7x',
  'v7': 'tpu7x',
  'cpu': 'v5e',  # To interpret.
}


def generation_of(kind: str) -> str | None:
  """Returns the key of `GENERATIONS` for a device kind, or None."""
  kind = kind.lower()
  return next((g for part, g in _KINDS.items() if part in kind), None)


@dataclasses.dataclass(frozen=True)
class Window:
  """The samples of one operand that a tile needs along one axis.

  Tile t reads `size` samples from start(t) = align * clip(step t - back, 0,
  last); some may lie past the end of the operand, where the matrix is zero.

  Attributes:
    size: Samples in a window.
    align: Every start is a multiple of it.
    step: Distance of tiles, in units of `align`.
    back: Where tile 0 would start before the operand, in units of `align`.
    last: Largest start, in units of `align`.
    over: Samples by which the last window exceeds the operand.
  """

  size: int
  align: int
  step: int
  back: int
  last: int
  over: int

  def start(self, tile: int) -> int:
    """Returns the first sample of a tile's window."""
    return self.align * min(max(self.step * tile - self.back, 0), self.last)


@dataclasses.dataclass(frozen=True)
class AxisTiling:
  """One axis of a chain, cut into tiles.

  Attributes:
    tile: Outputs in a tile.
    tiles: Tiles.
    middle: Samples of the middle signal in a tile, rounded up to matrix rows.
    windows: The window of each operand.
  """

  tile: int
  tiles: int
  middle: int
  windows: tuple[Window, ...]


@dataclasses.dataclass(frozen=True)
class Tiling:
  """How the kernel covers a chain.

  Attributes:
    h: Rows.
    w: Columns.
    pair: Whether two rows (or columns) of 128 channels go through the matrix
      unit side by side, where it is 256 wide.
    pack: Whether samples are packed into the lanes beside the channels.
  """

  h: AxisTiling
  w: AxisTiling
  pair: bool
  pack: bool


def tile_axis(
  expand: Sequence[Pass], contract: Pass, tile: int, align: int
) -> AxisTiling | None:
  """Cuts an axis into tiles, or returns None where windows would not align.

  Args:
    expand: The pass of each operand, down = 1.
    contract: The pass to the result, up = 1.
    tile: Outputs in a tile.
    align: Multiple that every window must start at.
  """
  tiles = math.ceil(contract.out_size / tile)
  stretch = (tile - 1) * contract.down + len(contract.taps)
  windows = []
  for step in expand:
    moved, rest = divmod(tile * contract.down, step.up)
    if tiles > 1 and (rest or moved % align):
      return None
    first = [
      math.ceil((t * tile * contract.down - contract.low - step.low) / step.up)
      for t in range(tiles)
    ]
    needed = (
      stretch
      + len(step.taps)
      - 2
      - (first[0] * step.up + contract.low + step.low)
    ) // step.up + 1
    back = -(first[0] // align)
    size = needed + max(
      first[t] - align * (moved // align * t - back) for t in range(tiles)
    )
    # Whole matrix rows; a window need not exceed the operand by more.
    size = round_up(max(size, 1), _ROWS)
    last = max(round_up(step.in_size, align) - size, 0) // align
    window = Window(size, align, moved // align, back, last, 0)
    over = max(window.start(tiles - 1) + size - step.in_size, 0)
    windows.append(dataclasses.replace(window, over=over))
  return AxisTiling(tile, tiles, round_up(stretch, _ROWS), tuple(windows))


def expand_matrices(
  step: Pass, window: Window, axis: AxisTiling, contract: Pass
) -> np.ndarray:
  """Returns the matrix of each tile, float64 [tiles, middle, window].

  Raises:
    AssertionError: A window misses a sample that a tile needs (a bug here).
  """
  matrices = np.zeros((axis.tiles, axis.middle, window.size))
  whole = step.matrix
  stretch = (axis.tile - 1) * contract.down + len(contract.taps)
  for t in range(axis.tiles):
    first = t * axis.tile * contract.down - contract.low
    # Where all of a tile's samples are cropped, none.
    rows = slice(max(first, 0), max(first + stretch, 0))
    start = window.start(t)
    columns = slice(start, min(start + window.size, step.in_size))
    part = whole[rows, columns]
    top = rows.start - first
    matrices[t, top : top + part.shape[0], : part.shape[1]] = part
    if np.count_nonzero(part) != np.count_nonzero(whole[rows]):
      raise AssertionError(f'The window of tile {t} misses samples: {window}.')
  return matrices


def contract_matrix(contract: Pass, axis: AxisTiling) -> np.ndarray:
  """Returns the matrix of every tile, float64 [tile, middle]."""
  matrix = np.zeros((axis.tile, axis.middle))
  for o in range(axis.tile):
    first = o * contract.down
    matrix[o, first : first + len(contract.taps)] = contract.taps
  return matrix


def passes(terms: Terms, axis: int) -> list[Pass]:
  """Returns the passes of the terms along h (0) or w (1)."""
  return [term[axis] for term in terms]


def matrix_passes(chain: Chain, tiling: Tiling, mxu: int) -> float:
  """Returns the matrix work of one grid step: 16-row passes over the unit."""
  h, w = tiling.h, tiling.w

  def product(rows: int, contracted: int) -> float:
    # A fixed part stands for filling the unit with its stationary operand.
    return math.ceil(contracted / mxu) * (rows / _ROWS + 2)

  total = 0.0
  for terms, window_h, window_w in zip(
    chain.expand, h.windows, w.windows, strict=True
  ):
    rank = len(terms)
    total += window_h.size * product(rank * w.middle, window_w.size)
    total += w.middle * product(h.middle, rank * window_h.size)
  rank = len(chain.contract)
  total += w.middle * product(rank * round_up(h.tile, 8), h.middle)
  total += h.tile * product(w.tile, rank * w.middle)
  return total / 2 if tiling.pair else total


def vmem_bytes(chain: Chain, tiling: Tiling, itemsize: int) -> int:
  """Returns the vector memory of the kernel; blocks are double-buffered."""
  h, w = tiling.h, tiling.w
  blocks = h.tile * w.tile * LANES
  scratch = w.middle * (len(chain.contract) * round_up(h.tile, 8) + 1) * LANES
  matrices = len(chain.contract) * (h.tile * h.middle + w.tile * w.middle)
  for terms, window_h, window_w in zip(
    chain.expand, h.windows, w.windows, strict=True
  ):
    rank = len(terms)
    blocks += window_h.size * window_w.size * LANES
    scratch += window_h.size * (rank * w.middle + 1) * LANES
    matrices += rank * (h.middle * window_h.size + w.middle * window_w.size)
  return 2 * itemsize * (blocks + 2 * matrices) + 4 * scratch


def _candidates(chain: Chain, is_pair: bool, axis: int) -> Iterator[AxisTiling]:
  contract = passes(chain.contract, axis)[0]
  expand = [passes(terms, axis)[0] for terms in chain.expand]
  align = (1, _SUBLANES)[axis]
  unit = (2 if is_pair else 1, _SUBLANES)[axis]
  out_size = contract.out_size
  fewest = math.ceil(out_size / _MOST_OUTPUTS)
  seen = set()
  for tiles in range(fewest, max(fewest, out_size // _LEAST_OUTPUTS) + 1):
    # The least tile that makes this many tiles, if its windows align.
    tile = round_up(math.ceil(out_size / tiles), unit)
    while tile not in seen and math.ceil(out_size / tile) == tiles:
      seen.add(tile)
      if (cut := tile_axis(expand, contract, tile, align)) is not None:
        yield cut
        break
      tile += unit


@functools.lru_cache(maxsize=1024)
def choose(
  chain: Chain, n: int, c: int, itemsize: int, generation: str
) -> Tiling | None:
  """Returns the cheapest tiling that fits, or None if none does.

  Args:
    chain: What to compute.
    n: Samples.
    c: Channels.
    itemsize: Bytes of an element.
    generation: A key of `GENERATIONS`.
  """
  target = GENERATIONS[generation]
  is_pair = target.mxu > LANES
  best, least = None, math.inf
  # Moving samples into idle lanes costs copies: it pays for the narrowest only.
  # At 64 channels XLA keeps the layout of the convolutions without a copy.
  pack = n > 1 and c < LANES and packing_gain(n, c) > 2
  for h, w in itertools.product(
    _candidates(chain, is_pair, 0), list(_candidates(chain, is_pair, 1))
  ):
    tiling = Tiling(h, w, is_pair, pack)
    cost = h.tiles * w.tiles * matrix_passes(chain, tiling, target.mxu)
    if cost < least and vmem_bytes(chain, tiling, itemsize) <= target.vmem:
      best, least = tiling, cost
  return best


def packing_gain(n: int, c: int) -> float:
  """Returns how many times fewer lane groups packed samples take."""
  return n * math.ceil(c / LANES) / math.ceil(n * c / LANES)
