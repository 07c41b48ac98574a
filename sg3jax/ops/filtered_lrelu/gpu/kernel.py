"""`filtered_lrelu` as one fused kernel for Hopper GPUs, in Mosaic GPU.

Signals at the middle rate stay in registers. A block (one warpgroup) computes
64 channels of a strip of the output, from top to bottom (`gpu.tiling`):

  read      Copy a row [w, c] by TMA, with zeros outside the image, load it into
            registers as [c, w], multiply by the factors of the channels and add
            the bias.
  along h   Filter the live rows with multiply-adds in packed halves.
  along w   Multiply by a banded matrix with wgmma, from registers, to the
            middle rate.
  combine   Apply the activation, or multiply by its derivative.
  along w   Multiply by a banded matrix with wgmma again: an accumulator has the
            layout of the next product's operand.
  along h   Filter with multiply-adds in float32, into a ring of partial sums of
            output rows.
  write     Multiply by the factors of the channels and copy the row by TMA,
            clipped at the border.

Derivatives have the same form (`plan.Chain`). Arithmetic is in float16 with
float32 accumulators, also for bfloat16 operands: the 8 bits of bfloat16 are not
enough for the taps and for four consecutive roundings. If there are two
operands, the second, in which the chain is linear, is scaled to the range of
float16 if it is bfloat16. The first must be within that range.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.gpu import mosaic
from sg3jax.ops.filtered_lrelu.gpu.geometry import CHANNELS, Geometry
from sg3jax.ops.filtered_lrelu.gpu.mosaic import pl, plgpu
from sg3jax.ops.filtered_lrelu.gpu.reader import Reader
from sg3jax.ops.filtered_lrelu.gpu.tiling import Tile
from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.types import Array

_LARGEST = 6e4  # A little below the largest float16.


@dataclasses.dataclass(frozen=True)
class Program:
  """Holds the parameters that all blocks of a launch share.

  Attributes:
    chain: Chain to compute, from `geometry.simplify`.
    geometry: Geometry of the chain.
    tile: Columns and rows of a block.
    scaling: Tree structure of the `Scaling` whose arrays the kernel receives.
    inner: Dtype of the arithmetic.
    outer: Dtype of the operands and of the result.
    border: Rows and columns of zeros before the operands.
    is_interpreted: Whether the kernel is interpreted on a CPU.
  """

  chain: Chain
  geometry: Geometry
  tile: Tile
  scaling: Any
  inner: Any
  outer: Any
  border: int
  is_interpreted: bool

  @property
  def grid(self) -> tuple[int, int]:
    """Number of strips along h and along w."""
    height, width = self.chain.out_size
    return -(-height // self.tile.rows), -(-width // self.tile.width)

  @property
  def scratch(self) -> list[Any]:
    """The shared memory of a block, in the order of the arguments of `Block`.

    It holds rows of the operands, matrices, a row of the result, a barrier for
    each row and one barrier for all matrices.
    """
    streams, matrices = self.geometry.streams, self.geometry.matrices
    return [
      [mosaic.row_buffer(self.outer, s.slots, s.columns) for s in streams],
      [mosaic.matrix_buffer(m.shape, self.inner) for m in matrices],
      mosaic.row_buffer(self.outer, self.tile.width),
      [plgpu.Barrier(num_barriers=s.slots) for s in streams],
      plgpu.Barrier(num_arrivals=len(matrices)),
    ]


class Block:
  """One block of the grid, which computes a strip of the result.

  A step of the loop over rows is traced once. Its carry consists of the rows of
  the operands that stay in registers, and of partial sums of rows of the
  result: partial[g] is completed g groups after the current one.
  """

  def __init__(self, program: Program, *refs: Any):
    """Loads the values that all rows share, and starts to copy rows.

    Args:
      program: Parameters that all blocks share.
      *refs: The operands, the arrays of the scaling, the matrices and the
        result in global memory, then `Program.scratch`.
    """
    geometry, tile = program.geometry, program.tile
    self._program, self._geometry, self._tile = program, geometry, tile
    sources, vectors, matrices, (self._target, *scratch) = _split(
      refs,
      (
        len(geometry.streams),
        program.scaling.num_leaves,
        len(geometry.matrices),
        len(refs),
      ),
    )
    buffers, matrix_buffers, self._out_buffer, barriers, ready = scratch
    self._image = lax.axis_index('n')
    self._channel = lax.axis_index('c') * CHANNELS
    strip, strips = lax.axis_index('t'), program.grid[0]
    self._column, self._row = lax.div(strip, strips), lax.rem(strip, strips)
    self._scaling = jax.tree.unflatten(
      program.scaling,
      [mosaic.load_vector(v, self._image, self._channel) for v in vectors],
    )
    self._readers = [
      self._reader(i, sources[i], buffers[i], barriers[i])
      for i in range(len(geometry.streams))
    ]
    for reader in self._readers:
      reader.fetch()
    for source, buffer in zip(matrices, matrix_buffers, strict=True):
      plgpu.copy_gmem_to_smem(source, buffer, ready)
    plgpu.barrier_wait(ready)
    # Each operand has one matrix for each term.
    of_stream = iter(matrix_buffers)
    self._expand = [
      [next(of_stream) for _ in s.matrices] for s in geometry.streams
    ]
    (self._contract,) = of_stream

  def run(self) -> None:
    """Computes the rows of the strip from top to bottom."""
    rows = tuple(reader.start() for reader in self._readers)
    partial = (self._zeros(),) * (self._geometry.groups - 1)
    steps = self._geometry.steps(self._tile.rows)
    lax.fori_loop(0, steps, self._step, (rows, partial))
    plgpu.wait_smem_to_gmem(0)

  def _reader(self, i: int, source: Any, buffer: Any, barriers: Any) -> Reader:
    """Returns the reader of operand i."""
    geometry, tile = self._geometry, self._tile
    stream, border = geometry.streams[i], self._program.border
    steps = geometry.steps(tile.rows)
    return Reader(
      stream,
      source.at[self._image],
      buffer,
      barriers,
      row=self._row * (tile.rows * geometry.down // stream.rate) + border,
      column=self._column * (tile.width * geometry.down // stream.rate)
      + border,
      channel=self._channel,
      count=(steps - 1) * stream.advance + stream.alive,
      inner=self._program.inner,
      factors=self._scaling.operands[i],
      bias=self._scaling.bias if i == 0 else None,
      size=self._program.chain.in_sizes[i],
      border=border,
    )

  def _step(self, index: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
    """Reads rows of the operands and completes rows of the result."""
    geometry = self._geometry
    rows, partial = carry
    for reader, alive in zip(self._readers, rows, strict=True):
      reader.begin(index, alive)
    for group in range(geometry.groups_per_step):
      # The next group shifts the ring, which costs nothing at run time.
      partial = [*partial, None]
      for r in range(geometry.down):
        self._add_row(partial, r, self._middle_row(group * geometry.down + r))
      done, *partial = (self._zeros() if p is None else p for p in partial)
      row = index * geometry.groups_per_step + group - (geometry.groups - 1)
      self._write(row, done)
    return tuple(reader.end() for reader in self._readers), tuple(partial)

  def _middle_row(self, phase: int) -> Array | None:
    """Returns a combined row at the middle rate, [64, middle]; None if zero."""
    expanded = []
    for reader, buffers in zip(self._readers, self._expand, strict=True):
      pairs = [
        (row, buffer)
        for row, buffer in zip(reader.filter(phase), buffers, strict=True)
        if row is not None
      ]
      if not pairs:
        return None  # The combined row is zero too.
      expanded.append(
        self._multiply(pairs, self._geometry.middle).astype(self._program.inner)
      )
    return _combine(self._program.chain.activation, *expanded)

  def _add_row(
    self, partial: list[Array | None], r: int, y: Array | None
  ) -> None:
    """Adds row r of a group at the middle rate to the output rows it affects.

    Args:
      partial: The partial sums, changed in place.
      r: Index of the row in its group.
      y: The row, [64, middle], or None for zero.
    """
    if y is None:
      return
    geometry, width = self._geometry, self._geometry.width
    y = self._multiply([(y, self._contract)], geometry.rank * width)
    for g in range(geometry.groups):
      tap = (geometry.groups - 1 - g) * geometry.down + r
      for term, taps in enumerate(geometry.row_taps):
        if taps[tap]:
          part = y[:, term * width : (term + 1) * width]
          partial[g] = mosaic.add(partial[g], part * taps[tap])

  def _write(self, index: Any, value: Array) -> None:
    """Writes row `index` of the strip if it is within the strip and result."""
    rows, width = self._tile.rows, self._tile.width
    row = self._row * rows + index
    is_there = (index >= 0) & (index < rows)
    is_there &= row < self._program.chain.out_size[0]

    @pl.when(is_there)
    def _():
      plgpu.wait_smem_to_gmem(0, wait_read_only=True)
      result = value
      if self._scaling.result is not None:
        result = value * mosaic.along_rows(self._scaling.result, value)
      self._out_buffer.T[...] = result.astype(self._out_buffer.dtype)
      plgpu.commit_smem()
      plgpu.copy_smem_to_gmem(
        self._out_buffer,
        self._target.at[
          self._image,
          row,
          pl.ds(self._column * width, width),
          pl.ds(self._channel, CHANNELS),
        ],
      )

  def _multiply(self, pairs: Sequence[tuple[Array, Any]], size: int) -> Array:
    return mosaic.multiply(self._program.is_interpreted, pairs, size)

  def _zeros(self) -> Array:
    return mosaic.zeros(self._geometry.width)


def _combine(activation: Activation, *ys: Array) -> Array:
  """Returns the activation of y, or v times its derivative at y.

  y and v include the gain. Masks are computed by arithmetic, because selects on
  packed halves are slow.
  """
  y = ys[0]

  def constant(value: float) -> Array:
    return jnp.asarray(value, y.dtype)

  def saturate(value: Array) -> Array:
    return jnp.minimum(jnp.maximum(value, constant(0)), constant(1))

  clamp = activation.clamp
  if clamp is not None and clamp > _LARGEST:
    clamp = None
  slope = constant(activation.slope)
  steep = constant(2.0**15)
  if len(ys) == 1:
    y = jnp.maximum(y, y * slope)
    if clamp is None:
      return y
    return jnp.minimum(jnp.maximum(y, constant(-clamp)), constant(clamp))
  v = ys[1]
  if activation.slope != 1:
    # The factor is 1 at y >= 0 and `slope` at y <= -2^-15.
    is_positive = saturate(y * steep + constant(1))
    v = v * (is_positive * constant(1 - activation.slope) + slope)
  if clamp is not None:
    magnitude = jnp.maximum(y, y * -slope)
    v = v * saturate((constant(clamp) - magnitude) * steep)
  return v


def _split(values: Sequence[Any], sizes: Sequence[int]) -> list[Sequence[Any]]:
  """Splits values into consecutive parts of given sizes.

  The last part may be shorter.
  """
  ends = list(itertools.accumulate(sizes))
  return [values[i:j] for i, j in zip([0, *ends], ends, strict=False)]
