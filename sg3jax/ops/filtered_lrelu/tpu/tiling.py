"""Tiles of the TPU kernel: windows, matrices, costs, and the choice of a tile.

This is pure Python and needs no device. One grid step computes one tile of the
outputs for 128 channels. Along each axis it needs a stretch of the middle
signal and, for each operand, a window of samples. The passes become dense
matrices between these, one per tile. The matrices contain the borders of the
image and any cropping, so no operand is padded or cropped outside of the
kernel.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from sg3jax.ops.filtered_lrelu.plan import Chain, Pass, Terms, round_up

LANES = 128
# Rows in a packed bfloat16 tile of a matrix operand.
_ROWS = 16
# Windows begin at multiples of this along w: at tiles of sublanes.
_SUBLANES = 8
# Tiles with fewer outputs along an axis waste most of their windows on borders;
# tiles with more waste matrix products on the zeros outside of the band.
_LEAST_OUTPUTS, _MOST_OUTPUTS = 8, 192


@dataclasses.dataclass(frozen=True)
class Generation:
  """Describes one core of a TPU generation.

  Attributes:
    vmem: Bytes of vector memory that a kernel may use.
    mxu: Rows and columns of a matrix unit.
  """

  vmem: int
  mxu: int


# At most three quarters of the memory that the compiler lets a kernel allocate;
# the compiler needs the rest. No tile needs 128 MiB.
GENERATIONS = {
  'v4': Generation(vmem=12 << 20, mxu=128),
  'v5e': Generation(vmem=48 << 20, mxu=128),
  'v5p': Generation(vmem=48 << 20, mxu=128),
  'v6e': Generation(vmem=48 << 20, mxu=256),
  'tpu7x': Generation(vmem=48 << 20, mxu=256),
}
# Substrings of device kinds in JAX ('TPU v5 lite', 'TPU v6 lite'), tried in
# order.
_KINDS = {
  'v4': 'v4',
  'v5 lite': 'v5e',
  'v5e': 'v5e',
  'v5': 'v5p',
  'v6': 'v6e',
  'tpu7': 'tpu7x',
  'v7': 'tpu7x',
  'cpu': 'v5e',  # For the interpreter.
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
    size: Number of samples in a window.
    align: Number of which every start is a multiple.
    step: Distance between the windows of two tiles, in units of `align`.
    back: Distance by which the unclipped start of tile 0 precedes the operand,
      in units of `align`.
    last: Largest start, in units of `align`.
    over: Number of samples by which the last window exceeds the operand.
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
  """One axis of a chain, divided into tiles.

  Attributes:
    tile: Number of outputs in a tile.
    tiles: Number of tiles.
    middle: Number of samples of the middle signal in a tile, rounded up to
      matrix rows.
    windows: The window of each operand.
  """

  tile: int
  tiles: int
  middle: int
  windows: tuple[Window, ...]


@dataclasses.dataclass(frozen=True)
class Tiling:
  """The tiles with which the kernel computes a chain.

  Attributes:
    h: Tiling of the rows.
    w: Tiling of the columns.
    pair: Whether two rows (or columns) of 128 channels are multiplied side by
      side, on matrix units 256 wide.
    pack: Whether samples are packed into the lanes together with channels.
  """

  h: AxisTiling
  w: AxisTiling
  pair: bool
  pack: bool


def tile_axis(
  expand: Sequence[Pass], contract: Pass, tile: int, align: int
) -> AxisTiling | None:
  """Divides an axis into tiles, or returns None if windows would not align.

  Args:
    expand: The pass of each operand, down = 1.
    contract: The pass to the result, up = 1.
    tile: Number of outputs in a tile.
    align: Number of which every start of a window must be a multiple.
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
    # Round up to matrix rows; a window need not exceed the operand by more.
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
    AssertionError: If a window lacks a sample that a tile needs (a bug here).
  """
  matrices = np.zeros((axis.tiles, axis.middle, window.size))
  whole = step.matrix
  stretch = (axis.tile - 1) * contract.down + len(contract.taps)
  for t in range(axis.tiles):
    first = t * axis.tile * contract.down - contract.low
    # The slice is empty if all samples of a tile are cropped.
    rows = slice(max(first, 0), max(first + stretch, 0))
    start = window.start(t)
    columns = slice(start, min(start + window.size, step.in_size))
    part = whole[rows, columns]
    top = rows.start - first
    matrices[t, top : top + part.shape[0], : part.shape[1]] = part
    if np.count_nonzero(part) != np.count_nonzero(whole[rows]):
      raise AssertionError(f'the window of tile {t} lacks samples: {window}')
  return matrices


def contract_matrix(contract: Pass, axis: AxisTiling) -> np.ndarray:
  """Returns the matrix that all tiles share, float64 [tile, middle]."""
  matrix = np.zeros((axis.tile, axis.middle))
  for o in range(axis.tile):
    first = o * contract.down
    matrix[o, first : first + len(contract.taps)] = contract.taps
  return matrix


def passes(terms: Terms, axis: int) -> list[Pass]:
  """Returns the passes of the terms along h (0) or w (1)."""
  return [term[axis] for term in terms]


def matrix_passes(chain: Chain, tiling: Tiling, mxu: int) -> float:
  """Returns the work of one grid step, in 16-row passes of the matrix unit."""
  h, w = tiling.h, tiling.w

  def product(rows: int, contracted: int) -> float:
    # The constant accounts for loading the stationary operand into the unit.
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
  """Returns the bytes of vector memory, with double-buffered blocks."""
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
    # Yield the smallest tile of those that make this number of tiles and whose
    # windows align.
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
  """Returns the cheapest tiling that fits in memory, or None if none does.

  Args:
    chain: Chain to compute.
    n: Number of samples.
    c: Number of channels.
    itemsize: Bytes of an element.
    generation: A key of `GENERATIONS`.
  """
  target = GENERATIONS[generation]
  is_pair = target.mxu > LANES
  best, least = None, math.inf
  # Packing samples into idle lanes costs copies, and pays off only for the
  # narrowest layers. At 64 channels XLA keeps the layout of the convolutions
  # without a copy.
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
  """Returns the factor by which packing samples reduces the lane groups."""
  return n * math.ceil(c / LANES) / math.ceil(n * c / LANES)
