"""`filtered_lrelu` as one fused kernel for Hopper GPUs, in Mosaic GPU.

Nothing at the middle rate leaves the registers. A block (one warpgroup) owns 64
channels of a strip of the output and walks down its rows (`gpu.tiling`):

  read      a row [w, c] by TMA, zeros outside the image, into registers as
            [c, w]; multiply by the channels' factors, add the bias
  along h   of the rows alive, multiply-adds in packed halves
  along w   wgmma with a banded matrix, from registers, into the middle rate
  combine   the activation, or the product with its derivative
  along w   wgmma with a banded matrix again: an accumulator's layout is that of
            the next product's operand
  along h   multiply-adds in float32 into a ring of partial output rows
  write     times the channels' factors, by TMA, clipped at the border

Derivatives have the same form (`plan.Chain`). Arithmetic is in float16 with
float32 accumulators, for bfloat16 operands too: its 8 bits do not suffice for
the taps and for four roundings in a row. Of two operands, the one in which the
chain is linear is scaled to float16's range if its own is wider; the other, and
a single one, must fit it.
"""

import contextlib
import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.gpu import tiling as gpu_tiling
from sg3jax.ops.filtered_lrelu.gpu.tiling import CHANNELS, RowTaps, Stream, Tile
from sg3jax.ops.filtered_lrelu.plan import Chain, round_up
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.ops.modulated_conv import pad_channels
from sg3jax.types import AnyArray, Array

# Installations without Mosaic GPU can import this module too.
pl: Any = None
plgpu: Any = None
with contextlib.suppress(ImportError):
  pl = importlib.import_module('jax.experimental.pallas')
  plgpu = importlib.import_module('jax.experimental.pallas.mosaic_gpu')

_OLDEST_JAX = (0, 11)
_HOPPER = r'\bG?H(100|200|800|20)\b'
_LARGEST = 6e4  # A little below the largest float16.
_GAINS = (2.0**-6, 2.0**6)  # Leave float16's range to the signal.

# Power of two that the largest magnitude of a linear operand is scaled to.
_LINEAR_EXPONENT = 4


def unsupported(
  chain: Chain, *operands: Any, scaling: Scaling = NONE, kind: str = 'H100'
) -> str | None:
  """Returns why the kernel cannot compute a chain, or None if it can.

  Args:
    chain: What to compute.
    *operands: Arrays or their shapes and dtypes, [n, h, w, c].
    scaling: Factors and bias, likewise.
    kind: The kind of the device, as JAX names it; 'cpu' to interpret.
  """
  if plgpu is None or jax.__version_info__ < _OLDEST_JAX:
    return f'it needs JAX 0.11 or newer, here is {jax.__version__}'
  if kind != 'cpu' and not re.search(_HOPPER, kind):
    return f'it is for Hopper GPUs (H100, H200), here is {kind}'
  dtypes = {jnp.dtype(x.dtype).name for x in operands}
  if len(dtypes) > 1 or not dtypes <= {'float16', 'bfloat16'}:
    return f'it takes float16 or bfloat16, not {", ".join(sorted(dtypes))}'
  gain, slope = chain.activation.gain, chain.activation.slope
  if not 0 <= slope <= 1:
    return f'it takes a slope in [0, 1], not {slope}'
  if gain and not _GAINS[0] <= abs(gain) <= _GAINS[1]:
    return f'the gain {gain} takes signals out of the range of float16'
  chain = gpu_tiling.simplify(chain)
  return gpu_tiling.unsupported(
    chain, _out_shape(chain, operands[-1]), _arrivals(operands, scaling)
  )


def run(
  chain: Chain,
  *operands: AnyArray,
  scaling: Scaling = NONE,
  kind: str = 'H100',
  interpret: Any = None,
) -> Array:
  """Returns the chain's result, computed by the kernel.

  Args:
    chain: What to compute.
    *operands: One or two arrays [n, h, w, c], float16 or bfloat16.
    scaling: Factors, in the range of float16, and bias.
    kind: The kind of the device, as JAX names it; 'cpu' to interpret.
    interpret: None or False compiles for the GPU; True or
      `plgpu.InterpretGPUParams` runs on the CPU, slowly.

  Returns:
    The result [n, h, w, c], of the operands' dtype.

  Raises:
    NotImplementedError: The kernel cannot compute this; says why.
  """
  reason = unsupported(chain, *operands, scaling=scaling, kind=kind)
  if reason is not None:
    raise NotImplementedError(f'The Mosaic GPU kernel: {reason}.')
  if interpret is True:
    interpret = plgpu.InterpretGPUParams()
  return _run(chain, interpret or None, scaling, *operands)


def choose_tile(
  chain: Chain, *operands: Any, scaling: Scaling = NONE
) -> Tile | None:
  """Returns the tile for a chain, `simplify`d, or None if there is none."""
  return gpu_tiling.choose(
    chain, _out_shape(chain, operands[-1]), _arrivals(operands, scaling)
  )


def geometry(
  chain: Chain, tile: Tile, *operands: Any, scaling: Scaling = NONE
) -> gpu_tiling.Geometry:
  """Returns how a block goes about a chain, `simplify`d, with a tile."""
  arrivals = _arrivals(operands, scaling)
  return gpu_tiling.geometry(chain, tile.width, tile.reads, arrivals)


def _out_shape(chain: Chain, operand: Any) -> tuple[int, ...]:
  return (operand.shape[0], *chain.out_size, operand.shape[-1])


def _arrivals(
  operands: Sequence[Any], scaling: Scaling
) -> tuple[gpu_tiling.Arrival, ...]:
  """Returns what is done to each operand's rows first."""
  is_wide = operands[0].dtype == jnp.bfloat16
  return tuple(
    gpu_tiling.Arrival(
      is_wide=is_wide,
      # The second one is also brought into the range of float16.
      is_scaled=factors is not None or (is_wide and i == 1),
      is_biased=i == 0 and scaling.bias is not None,
    )
    for i, (_, factors) in enumerate(
      zip(operands, scaling.operands, strict=False)
    )
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
  chain: Chain, interpret: Any, scaling: Scaling, *operands: Array
) -> Array:
  # Jitted so that equal layers share one trace.
  chain = gpu_tiling.simplify(chain)
  c = operands[0].shape[-1]
  # The strides of an array that TMA reads are multiples of 16 bytes.
  spare = -c % 8
  if spare:
    operands, scaling = jax.tree.map(
      lambda v: pad_channels(v, c + spare), (operands, scaling)
    )
  tile = choose_tile(chain, *operands, scaling=scaling)
  assert tile is not None  # `unsupported` has asked.
  y = launch(chain, tile, *operands, scaling=scaling, interpret=interpret)
  return y[..., :c] if spare else y


def launch(
  chain: Chain,
  tile: Tile,
  *operands: Array,
  scaling: Scaling = NONE,
  interpret: Any = None,
  inner: Any = jnp.float16,
) -> Array:
  """Returns the chain's result, for one choice of tile.

  Args:
    chain: What to compute, `tiling.simplify`d.
    tile: Columns and rows of a block.
    *operands: Arrays [n, h, w, c], c a multiple of 8.
    scaling: Factors and bias of as many channels.
    interpret: None or `plgpu.InterpretGPUParams`.
    inner: Dtype of the arithmetic; float32 only when interpreting, to test the
      geometry without rounding.

  Returns:
    The result [n, h, w, c], of the operands' dtype.
  """
  with jax.enable_x64(False):  # Indices are 32 bits wide on the device.
    return _launch(chain, tile, operands, scaling, interpret, inner)


def _launch(
  chain: Chain,
  tile: Tile,
  operands: Sequence[Array],
  scaling: Scaling,
  interpret: Any,
  inner: Any,
) -> Array:
  plan = geometry(chain, tile, *operands, scaling=scaling)
  n, _, _, c = operands[0].shape
  height, width = (p.out_size for p in chain.contract[0])
  outer = operands[0].dtype
  steps, strips = plan.steps(tile.rows), -(-height // tile.rows)
  if outer == jnp.bfloat16 and len(operands) == 2:
    scaling = _fit_range(scaling, operands[1])
  # They are loaded from memory in whole blocks of channels.
  whole = round_up(c, CHANNELS)
  vectors = jax.tree.map(
    lambda v: pad_channels(v.astype(jnp.float32), whole), scaling
  )
  leaves, treedef = jax.tree.flatten(vectors)

  constants = [
    jnp.asarray(m, inner) for stream in plan.streams for m in stream.matrices
  ]
  constants.append(jnp.asarray(plan.matrix, inner))
  arrays, offset = list(operands), 0
  if interpret is not None:
    # The interpreter has no zeros in front of an array.
    lows = [(-s.first_row, -s.first_column) for s in plan.streams]
    offset = max(0, *(low for pair in lows for low in pair))
    arrays = [
      jnp.pad(x, ((0, 0), (offset, 0), (offset, 0), (0, 0))) for x in arrays
    ]

  def body(*refs):
    groups = (len(arrays), len(leaves), len(constants), len(refs))
    sources, vectors, matrices, (target, *scratch) = _split(refs, groups)
    buffers, matrix_buffers, out_buffer, barriers, ready = scratch
    image, channel = lax.axis_index('n'), lax.axis_index('c') * CHANNELS
    strip = lax.axis_index('t')
    column, row = lax.div(strip, strips), lax.rem(strip, strips)
    scaling = jax.tree.unflatten(
      treedef, [_load_vector(v, image, channel) for v in vectors]
    )

    readers = [
      _Reader(
        stream,
        sources[i].at[image],
        buffers[i],
        barriers[i],
        row=row * (tile.rows * plan.down // stream.rate) + offset,
        column=column * (tile.width * plan.down // stream.rate) + offset,
        channel=channel,
        count=(steps - 1) * stream.advance + stream.alive,
        inner=inner,
        factors=scaling.operands[i],
        bias=scaling.bias if i == 0 else None,
        size=chain.in_sizes[i],
        border=offset,
      )
      for i, stream in enumerate(plan.streams)
    ]
    for reader in readers:
      reader.fetch()
    for source, buffer in zip(matrices, matrix_buffers, strict=True):
      plgpu.copy_gmem_to_smem(source, buffer, ready)
    plgpu.barrier_wait(ready)
    carry = tuple(reader.start() for reader in readers)
    multiply = functools.partial(_multiply, interpret is not None)
    # The matrices of each operand, of which there is one for each term.
    of_stream = iter(matrix_buffers)
    expand = [[next(of_stream) for _ in s.matrices] for s in plan.streams]
    (contract,) = of_stream

    def write(index, value):
      """Writes row `index` of the strip, if there is such a row."""

      @pl.when(
        (index >= 0) & (index < tile.rows) & (row * tile.rows + index < height)
      )
      def _():
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        result = value
        if scaling.result is not None:
          result = value * _along_rows(scaling.result, value)
        out_buffer.T[...] = result.astype(outer)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(
          out_buffer,
          target.at[
            image,
            row * tile.rows + index,
            pl.ds(column * tile.width, tile.width),
            pl.ds(channel, CHANNELS),
          ],
        )

    def middle_row(phase):
      """Returns a row at the middle rate, combined: [64, middle], or zero."""
      expanded = []
      for reader, buffers in zip(readers, expand, strict=True):
        pairs = [
          (row, buffer)
          for row, buffer in zip(reader.filter(phase), buffers, strict=True)
          if row is not None
        ]
        if not pairs:
          return None  # And so is what becomes of it.
        expanded.append(multiply(pairs, plan.middle).astype(inner))
      return _combine(chain.activation, *expanded)

    def step(index, carry):
      rows, partial = carry
      for reader, alive in zip(readers, rows, strict=True):
        reader.begin(index, alive)
      for group in range(plan.groups_per_step):
        # partial[g] is the output row that g groups after this one complete;
        # passing to the next group shifts the ring, which costs nothing.
        partial = [*partial, None]
        for r in range(plan.down):
          y = middle_row(group * plan.down + r)
          if y is None:
            continue
          y = multiply([(y, contract)], plan.rank * plan.width)
          for g in range(plan.groups):
            tap = (plan.groups - 1 - g) * plan.down + r
            for term, taps in enumerate(plan.row_taps):
              if taps[tap]:
                part = y[:, term * plan.width : (term + 1) * plan.width]
                partial[g] = _add(partial[g], part * taps[tap])
        done, *partial = (
          _zeros(plan.width) if p is None else p for p in partial
        )
        write(index * plan.groups_per_step + group - (plan.groups - 1), done)
      return tuple(reader.end() for reader in readers), tuple(partial)

    lax.fori_loop(
      0,
      steps,
      step,
      (
        carry,
        (_zeros(plan.width),) * (plan.groups - 1),
      ),
    )
    plgpu.wait_smem_to_gmem(0)

  scratch = [
    [_row_buffer(outer, s.slots, s.columns) for s in plan.streams],
    [_matrix_buffer(m) for m in constants],
    _row_buffer(outer, tile.width),
    [plgpu.Barrier(num_barriers=s.slots) for s in plan.streams],
    plgpu.Barrier(num_arrivals=len(constants)),
  ]
  grid = (-(-c // CHANNELS), -(-width // tile.width) * strips, n)
  call = _kernel(
    body,
    jax.ShapeDtypeStruct((n, height, width, c), outer),
    scratch,
    grid=grid,
    grid_names=('c', 't', 'n'),
    **({} if interpret is None else {'interpret': interpret}),
  )
  return call(*arrays, *leaves, *constants)


class _Reader:
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
              sums[p][t] = _add(sums[p][t], row * jnp.asarray(tap, row.dtype))
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
        buffer[...] = _bitcast(value, buffer.dtype)
    self._arrived = max(self._arrived, count)

  def _get(self, index: int) -> Array:
    """Returns a row of this step: [64, columns]."""
    if self._stream.is_resident:
      return self._alive[index]
    return _bitcast(self._load(self._first + index), self._inner)

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
      value = value * _along_rows(factors, value)
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


def _multiply(
  is_interpreted: bool, pairs: Sequence[tuple[Array, Any]], size: int
) -> Array:
  """Returns the sum of a @ b^T: [64, size] float32, b in shared memory."""
  if is_interpreted:  # It has no wgmma from registers.
    return functools.reduce(
      jnp.add,
      [
        jnp.dot(
          a.astype(jnp.float32),
          b[...].T.astype(jnp.float32),
          precision='highest',
        )
        for a, b in pairs
      ],
    )

  def accumulate(sums):
    for a, b in pairs:
      plgpu.wgmma(sums, a, b.T)
    return sums[...]

  return pl.run_scoped(accumulate, plgpu.ACC((CHANNELS, size), jnp.float32))


def _combine(activation: Activation, *ys: Array) -> Array:
  """Returns the activation of y, or v times its derivative at y.

  Gains have been multiplied into y and v. Masks are made by arithmetic: selects
  on packed halves are slow.
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
    # One at y >= 0, `slope` at y <= -2^-15.
    is_positive = saturate(y * steep + constant(1))
    v = v * (is_positive * constant(1 - activation.slope) + slope)
  if clamp is not None:
    magnitude = jnp.maximum(y, y * -slope)
    v = v * saturate((constant(clamp) - magnitude) * steep)
  return v


def _fit_range(scaling: Scaling, x: Array) -> Scaling:
  """Returns it with a power of two for each image that fits x to float16.

  x, the second operand, is multiplied by it, the result is divided by it.
  """
  # Gradients of a mean over pixels are below float16's smallest.
  largest = jnp.max(jnp.abs(x), axis=(1, 2)).astype(jnp.float32)
  factors = scaling.operands[1]
  if factors is None:
    factors = jnp.ones((), jnp.float32)
  else:
    largest = largest * jnp.abs(factors)
  largest = jnp.max(largest, axis=1, keepdims=True)
  _, exponent = jnp.frexp(largest)
  exponent = jnp.clip(_LINEAR_EXPONENT - exponent, -100, 100)
  power = jnp.where(largest > 0, jnp.exp2(exponent.astype(jnp.float32)), 1)
  result = 1.0 if scaling.result is None else scaling.result
  shape = (x.shape[0], x.shape[-1])
  return scaling._replace(
    operands=(scaling.operands[0], jnp.broadcast_to(factors * power, shape)),
    result=jnp.broadcast_to(result / power, shape),
  )


def _split(values: Sequence[Any], sizes: Sequence[int]) -> list[Sequence[Any]]:
  """Returns consecutive parts of the sizes; the last may be shorter."""
  ends = list(itertools.accumulate(sizes))
  return [values[i:j] for i, j in zip([0, *ends], ends, strict=False)]


def _load_vector(vector: Any, image: Any, channel: Any) -> Array:
  """Returns a block's part of factors [n, c] or of a bias [c]: [64]."""
  if len(vector.shape) == 2:
    vector = vector.at[image]
  layout = plgpu.Layout.WGMMA.reduce(1)
  vector = vector.at[pl.ds(channel, CHANNELS)]
  return plgpu.load(vector, layout=layout, optimized=False)


def _along_rows(vector: Array, like: Array) -> Array:
  """Returns a vector [64] repeated in columns, like an array [64, w]."""
  return lax.broadcast_in_dim(vector, like.shape, (0,))


def _bitcast(x: Array, dtype: Any) -> Array:
  return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def _add(a: Array | None, b: Array) -> Array:
  return b if a is None else a + b


def _zeros(width: int) -> Array:
  zeros = jnp.zeros((CHANNELS, width), jnp.float32)
  return plgpu.layout_cast(zeros, plgpu.Layout.WGMMA)


def _row_buffer(dtype: Any, *shape: int) -> Any:
  """Returns a buffer for rows [..., w, 64]."""
  return _buffer((*shape, CHANNELS), dtype, plgpu.SwizzleTransform(128))


def _matrix_buffer(matrix: Array) -> Any:
  swizzle = next(s for s in (128, 64, 32) if matrix.shape[1] % (s // 2) == 0)
  return _buffer(
    matrix.shape,
    matrix.dtype,
    plgpu.TilingTransform((8, swizzle // 2)),
    plgpu.SwizzleTransform(swizzle),
  )


def _buffer(shape: tuple[int, ...], dtype: Any, *transforms: Any) -> Any:
  # The interpreter alone computes in float32, and ignores them.
  is_narrow = jnp.dtype(dtype).itemsize == 2
  return plgpu.SMEM(shape, dtype, transforms=transforms if is_narrow else ())


def _kernel(
  body: Callable[..., None], out_type: Any, scratch: Any, **options: Any
) -> Callable[..., Array]:
  """Calls `plgpu.kernel`, whose arguments JAX has renamed."""
  names = ('out_type', 'scratch_types')
  if names[0] not in inspect.signature(plgpu.kernel).parameters:
    names = ('out_shape', 'scratch_shapes')
  return plgpu.kernel(
    body, **dict(zip(names, (out_type, scratch), strict=True)), **options
  )
