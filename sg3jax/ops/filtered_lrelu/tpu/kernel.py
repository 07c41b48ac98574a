"""`filtered_lrelu` as one Pallas kernel for TPUs, channels in the lanes.

A grid step computes a tile of the result for 128 channels in three loops, all
of them products on the matrix unit:

  rows     of each operand's window: expand along w, [m_w, w] @ [w, c]
  columns  of the middle signal: expand along h, [m_h, h] @ [h, c], combine the
           operands pointwise, contract along h, [t_h, m_h] @ [m_h, c]
  rows     of the result: contract along w, [t_w, m_w] @ [m_w, c]

Between the loops the signal turns from rows to columns and back in vector
memory: it is stored row after row, and a column is read with a stride. The
signal at the middle rate along both axes exists only as single columns, in
registers. Strides are odd, which spreads a column over the memory's banks.

Several terms (a radial filter) are stacked: along the rows of the matrix that
makes them, and along the contracted axis of the one that sums them.

Operands are bfloat16 or float32, products accumulate in float32; bfloat16 is
rounded before each of the four products, as the matrix unit takes it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.plan import Chain, round_up
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.ops.filtered_lrelu.tpu import tiling as tpu_tiling
from sg3jax.ops.filtered_lrelu.tpu.tiling import LANES, Tiling, Window
from sg3jax.types import Array

_DTYPES = ('bfloat16', 'float32')

# Rows or columns that one iteration of a loop takes, at most.
_UNROLL = 4


def unsupported(
  chain: Chain, *operands: Any, kind: str, scaling: Scaling = NONE
) -> str | None:
  """Returns why the kernel cannot compute a chain, or None if it can.

  Args:
    chain: What to compute.
    *operands: Arrays or their shapes and dtypes, [n, h, w, c].
    scaling: Any is served.
    kind: The kind of the device, see `run`.
  """
  del scaling
  x = operands[0]
  if jnp.dtype(x.dtype).name not in _DTYPES:
    return f'it takes {" and ".join(_DTYPES)}, not {x.dtype}'
  if not chain.activation.gain > 0:
    return f'it takes a positive gain, not {chain.activation.gain}'
  if tpu_tiling.generation_of(kind) is None:
    return f'it has no tiles for {kind}'
  if tiling(chain, x, kind) is None:
    return 'no tile of it fits the vector memory'
  return None


@functools.partial(
  jax.jit, static_argnums=0, static_argnames=('kind', 'interpret')
)
def run(
  chain: Chain,
  *operands: Array,
  scaling: Scaling = NONE,
  kind: str,
  interpret: Any = False,
) -> Array:
  """Returns the chain's result, of the operands' dtype.

  Args:
    chain: What to compute; `unsupported` must have no objection.
    *operands: [n, h, w, c] each, bfloat16 or float32.
    scaling: Applied to the operands by XLA, which fuses it into what makes them
      and relays them out in one go, and to the result by the kernel.
    kind: The device kind, as JAX names it ('TPU v5 lite'), or a key of
      `tpu.tiling.GENERATIONS`; 'cpu' takes the tiles of a v5e.
    interpret: As of `pl.pallas_call`: True or `pltpu.InterpretParams()` to run
      on a CPU.
  """
  cut = tiling(chain, operands[0], kind)
  assert cut is not None
  operands, factors = scaling.enter(*operands), scaling.result
  with jax.enable_x64(False):  # The TPU counts in 32 bits.
    if not cut.pack:
      return _call(chain, cut, interpret, factors, *operands)
    n, c = operands[0].shape[0], operands[0].shape[-1]
    if factors is not None:
      factors = factors.reshape(1, n * c)
    y = _call(chain, cut, interpret, factors, *map(_pack, operands))
    return jnp.moveaxis(y.reshape(*y.shape[1:3], n, c), 2, 0)


def _pack(x: Array) -> Array:
  n, h, w, c = x.shape
  return jnp.moveaxis(x, 0, 2).reshape(1, h, w, n * c)


def tiling(chain: Chain, x: Any, kind: str) -> Tiling | None:
  """Returns the tiles for operands like x, or None if none fits."""
  generation = tpu_tiling.generation_of(kind)
  if generation is None:
    return None
  itemsize = jnp.dtype(x.dtype).itemsize
  return tpu_tiling.choose(chain, x.shape[0], x.shape[-1], itemsize, generation)


def _call(
  chain: Chain,
  tiling: Tiling,
  interpret: Any,
  factors: Array | None,
  *operands: Array,
) -> Array:
  n, _, _, c = operands[0].shape
  dtype = operands[0].dtype
  h, w = tiling.h, tiling.w
  constants, specs = _matrices(chain, tiling, dtype)
  if factors is not None:
    constants.append(factors.astype(jnp.float32)[:, None])
    specs.append(pl.BlockSpec((1, 1, LANES), lambda n, k, i, j: (n, 0, k)))

  def operand_spec(window_h: Window, window_w: Window) -> pl.BlockSpec:
    # Interpreted, a window must not reach past its operand: padded there.
    pads = [0 if interpret else a.over for a in (window_h, window_w)]
    lanes = 0 if interpret else -c % LANES
    return pl.BlockSpec(
      (
        pl.Element(1),
        pl.Element(window_h.size, (0, pads[0])),
        pl.Element(window_w.size, (0, pads[1])),
        pl.Element(LANES, (0, lanes)),
      ),
      lambda n, k, i, j: (
        n,
        _start(window_h, i),
        _start(window_w, j),
        k * LANES,
      ),
    )

  windows = list(zip(h.windows, w.windows, strict=True))
  if interpret:
    operands = tuple(
      # What lies past an operand's end is undefined: be it the worst.
      jnp.pad(
        x,
        ((0, 0), (0, wh.over), (0, ww.over), (0, -c % LANES)),
        constant_values=jnp.nan,
      )
      for x, (wh, ww) in zip(operands, windows, strict=True)
    )
  rank = len(chain.contract)
  rows = round_up(h.tile, 8)
  scratch = [
    _scratch(wh.size, len(terms) * w.middle)
    for terms, (wh, _) in zip(chain.expand, windows, strict=True)
  ]
  out_shape = jax.ShapeDtypeStruct(
    (n, *chain.out_size, c),
    dtype,
    # Within `jax.shard_map`: the result varies over what the operands do.
    manual_axis_type=jax.typeof(operands[0]).manual_axis_type,
  )
  return pl.pallas_call(
    functools.partial(_kernel, chain, tiling, dtype, factors is not None),
    grid=(n, -(-c // LANES), h.tiles, w.tiles),
    in_specs=[operand_spec(*pair) for pair in windows] + specs,
    out_specs=pl.BlockSpec(
      (1, h.tile, w.tile, LANES), lambda n, k, i, j: (n, i, j, k)
    ),
    out_shape=out_shape,
    scratch_shapes=[*scratch, _scratch(w.middle, rank * rows)],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel',) * 4,
      vmem_limit_bytes=_vmem_limit(chain, tiling, dtype),
    ),
    cost_estimate=_cost(chain, n, c, dtype),
    interpret=interpret,
    name='filtered_lrelu',
  )(*operands, *constants)


def _start(window: Window, tile: Array) -> Array:
  """`Window.start` of a traced tile."""
  # Written as a product, so that the compiler sees the alignment.
  units = jnp.clip(window.step * tile - window.back, 0, window.last)
  return units * window.align


def _vmem_limit(chain: Chain, tiling: Tiling, dtype: jnp.dtype) -> int:
  planned = tpu_tiling.vmem_bytes(chain, tiling, dtype.itemsize)
  return max(16 << 20, int(planned * 1.25) + (2 << 20))


def _scratch(lines: int, length: int) -> Any:
  """Memory for lines of 128-lane vectors, an odd number of them apart."""
  return pltpu.VMEM((round_up(lines * (length + 1), 8), LANES), jnp.float32)


def _cost(chain: Chain, n: int, c: int, dtype: jnp.dtype) -> pl.CostEstimate:
  """What XLA should think the call costs: the filters' own multiply-adds."""
  return pl.CostEstimate(
    flops=int(chain.flops * n * c),
    bytes_accessed=chain.samples * n * c * dtype.itemsize,
    transcendentals=0,
  )


def _matrices(
  chain: Chain, tiling: Tiling, dtype: jnp.dtype
) -> tuple[list[Array], list[pl.BlockSpec]]:
  """Returns the matrices in the kernel's order and which part a tile sees.

  For each operand [tiles, rank * middle_w, window_w], whose terms lie along the
  rows, and [tiles, middle_h, rank * window_h], whose terms lie along the
  columns; for the result [rank * rows, middle_h] and [tile_w, rank * middle_w].
  """
  arrays, specs = [], []
  contract = [tpu_tiling.passes(chain.contract, axis)[0] for axis in (0, 1)]
  for k, terms in enumerate(chain.expand):
    # Every operand is seen after the gain: the mask compares it to the clamp,
    # and the second one is multiplied by it.
    expanded = [
      [
        tpu_tiling.expand_matrices(step, axis.windows[k], axis, contract[i])
        for step in tpu_tiling.passes(terms, i)
      ]
      for i, axis in enumerate((tiling.h, tiling.w))
    ]
    along_h = np.concatenate(expanded[0], axis=2) * chain.activation.gain
    along_w = np.concatenate(expanded[1], axis=1)
    arrays += [along_w, along_h]
    specs += [
      pl.BlockSpec((1, *along_w.shape[1:]), lambda n, k, i, j: (j, 0, 0)),
      pl.BlockSpec((1, *along_h.shape[1:]), lambda n, k, i, j: (i, 0, 0)),
    ]
  steps_h, steps_w = (tpu_tiling.passes(chain.contract, i) for i in (0, 1))
  rows = -tiling.h.tile % 8
  down_h = np.concatenate([
    np.pad(tpu_tiling.contract_matrix(step, tiling.h), ((0, rows), (0, 0)))
    for step in steps_h
  ])  # fmt: skip
  down_w = np.concatenate(
    [tpu_tiling.contract_matrix(step, tiling.w) for step in steps_w], axis=1
  )
  arrays += [down_h, down_w]
  for array in (down_h, down_w):
    specs.append(pl.BlockSpec(array.shape, lambda n, k, i, j: (0, 0)))
  return [jnp.asarray(a, dtype) for a in arrays], specs


def _kernel(
  chain: Chain,
  tiling: Tiling,
  dtype: jnp.dtype,
  is_scaled: bool,
  *refs: Any,
) -> None:
  count = len(chain.expand)
  operands, refs = refs[:count], refs[count:]
  up_refs, refs = refs[: 2 * count], refs[2 * count :]
  (down_h, down_w, *factors), refs = (
    refs[: 2 + is_scaled],
    refs[2 + is_scaled :],
  )
  out, *lines, columns = refs
  h, w = tiling.h, tiling.w
  wide = 2 if tiling.pair else 1

  def dot(a: Array, b: Array) -> Array:
    # float32 on the matrix unit is made of bfloat16 products: ask for them all.
    exact = lax.Precision.HIGHEST if dtype == jnp.float32 else None
    return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=exact)

  def put(ref: Any, at: list[Any], x: Array) -> None:
    for k, first in enumerate(at):
      part = x[:, k * LANES : (k + 1) * LANES]
      ref[pl.ds(first, x.shape[0]), :] = part

  def get(ref: Any, at: list[Any], size: int, stride: int) -> Array:
    parts = [ref[pl.ds(first, size, stride), :].astype(dtype) for first in at]
    return _beside(parts)

  for k, (terms, size) in enumerate(
    zip(chain.expand, chain.in_sizes, strict=True)
  ):
    _expand_rows(
      operands[k], up_refs[2 * k][0], lines[k], size,
      (h.windows[k], w.windows[k]), len(terms) * w.middle, wide, dot, put,
    )  # fmt: skip

  rank = len(chain.contract)
  rows = round_up(h.tile, 8)
  stride = rank * rows + 1

  def expand_columns(first: Any) -> Array:
    """Returns `wide` columns of the middle signal, combined."""
    expanded = []
    for k, terms in enumerate(chain.expand):
      parts = [
        get(
          lines[k],
          [first + q * w.middle + e for e in range(wide)],
          h.windows[k].size,
          len(terms) * w.middle + 1,
        )
        for q in range(len(terms))
      ]
      expanded.append(dot(up_refs[2 * k + 1][0], _above(parts)))
    return _combine(chain.activation, *expanded).astype(dtype)

  def contract_columns(first: Any, y: Array) -> None:
    z = dot(down_h[...], y)
    put(columns, [(first + e) * stride for e in range(wide)], z)

  _pipelined(w.middle, wide, expand_columns, contract_columns)

  def contract_rows(row: Any) -> None:
    parts = [
      get(
        columns,
        [row + e + q * rows for e in range(wide)],
        w.middle,
        stride,
      )
      for q in range(rank)
    ]
    z = dot(down_w[...], _above(parts))
    for e in range(wide):
      result = z[:, e * LANES : (e + 1) * LANES]
      if is_scaled:
        result = result * factors[0][0]
      out[0, row + e] = result.astype(out.dtype)

  _loop(h.tile, wide, contract_rows)


def _expand_rows(
  operand: Any,
  matrix: Array,
  lines: Any,
  size: tuple[int, int],
  windows: tuple[Window, Window],
  length: int,
  wide: int,
  dot: Callable[[Array, Array], Array],
  put: Callable[[Any, list[Any], Array], None],
) -> None:
  """Expands the rows of a window along w and stores them as lines."""
  along_h, along_w = windows
  starts = [
    _start(window, pl.program_id(i))
    for i, window in ((2, along_h), (3, along_w))
  ]
  # What lies past the operand's end is undefined, and zero times NaN is NaN.
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
    y = dot(matrix, _beside([row(first + e) for e in range(wide)]))
    put(lines, [(first + e) * (length + 1) for e in range(wide)], y)

  _loop(along_h.size, wide, expand_rows)


def _combine(activation: Activation, *ys: Array) -> Array:
  """`Activation.combine` of float32 arrays that hold the gain already."""
  y, slope, clamp = ys[0], activation.slope, activation.clamp
  if len(ys) == 1:
    # A maximum is one instruction less than a selection, where it is the same.
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
  """Returns how many of `count` steps to unroll: a divisor, a multiple."""
  return max(k for k in range(wide, most + 1, wide) if count % k == 0)


def loop_trips(tiling: Tiling) -> tuple[int, ...]:
  """Returns how often each loop of a grid step runs, in their order."""
  wide = 2 if tiling.pair else 1

  def trips(count: int) -> int:
    return count // _group(count, wide, _UNROLL)

  rows = [trips(window.size) for window in tiling.h.windows]
  # The pipelined loop over columns has one trip less.
  return (*rows, trips(tiling.w.middle) - 1, trips(tiling.h.tile))


def _loop(count: int, wide: int, body: Callable[[Any], None]) -> None:
  """Calls body(first) for every `wide` of `count`, a few an iteration."""
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
  """Produces a group of items while it consumes the group before."""
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
