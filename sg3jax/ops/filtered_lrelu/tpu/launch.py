"""Launches the TPU kernel: checks operands, builds matrices and the grid."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sg3jax.ops.filtered_lrelu.plan import Chain, round_up
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.ops.filtered_lrelu.tpu import kernel
from sg3jax.ops.filtered_lrelu.tpu import tiling as tpu_tiling
from sg3jax.ops.filtered_lrelu.tpu.tiling import LANES, Tiling, Window
from sg3jax.types import Array

_DTYPES = ('bfloat16', 'float32')


def unsupported(
  chain: Chain, *operands: Any, kind: str, scaling: Scaling = NONE
) -> str | None:
  """Returns why the kernel cannot compute a chain, or None if it can.

  Args:
    chain: Chain to compute.
    *operands: Arrays or their shapes and dtypes, [n, h, w, c].
    scaling: Ignored: every scaling is supported.
    kind: Device kind, see `run`.
  """
  del scaling
  x = operands[0]
  if jnp.dtype(x.dtype).name not in _DTYPES:
    return f'operands must be {" or ".join(_DTYPES)}, got {x.dtype}'
  if not chain.activation.gain > 0:
    return f'the gain must be positive, got {chain.activation.gain}'
  if tpu_tiling.generation_of(kind) is None:
    return f'it has no tiles for the device kind {kind}'
  if tiling(chain, x, kind) is None:
    return 'none of its tiles fits the vector memory'
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
  """Returns the result of the chain, in the dtype of the operands.

  Args:
    chain: Chain to compute, for which `unsupported` returns None.
    *operands: Arrays [n, h, w, c], bfloat16 or float32.
    scaling: Scaling. XLA applies it to the operands, fused with the operations
      that produce them and with the change of layout; the kernel applies it to
      the result.
    kind: Device kind in JAX ('TPU v5 lite'), or a key of
      `tpu.tiling.GENERATIONS`; 'cpu' selects the tiles of a v5e.
    interpret: Passed to `pl.pallas_call`: True or `pltpu.InterpretParams()`
      interprets the kernel on a CPU.
  """
  cut = tiling(chain, operands[0], kind)
  assert cut is not None
  operands, factors = scaling.enter(*operands), scaling.result
  with jax.enable_x64(False):  # Indices on a TPU have 32 bits.
    if not cut.pack:
      return launch(chain, cut, interpret, factors, *operands)
    n, c = operands[0].shape[0], operands[0].shape[-1]
    if factors is not None:
      factors = factors.reshape(1, n * c)
    y = launch(chain, cut, interpret, factors, *map(_pack, operands))
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


def launch(
  chain: Chain,
  tiling: Tiling,
  interpret: Any,
  factors: Array | None,
  *operands: Array,
) -> Array:
  """Returns the result of the chain, computed with given tiles.

  Args:
    chain: Chain to compute.
    tiling: The tiles.
    interpret: See `run`.
    factors: Factors on the result, [n, c], or None for 1.
    *operands: Arrays [n, h, w, c], with samples already packed into the lanes.
  """
  n, _, _, c = operands[0].shape
  dtype = operands[0].dtype
  h, w = tiling.h, tiling.w
  constants, specs = _matrices(chain, tiling, dtype)
  if factors is not None:
    constants.append(factors.astype(jnp.float32)[:, None])
    specs.append(pl.BlockSpec((1, 1, LANES), lambda n, k, i, j: (n, 0, k)))

  windows = list(zip(h.windows, w.windows, strict=True))
  if interpret:
    operands = tuple(
      # Values past the end of an operand are undefined: use the worst case.
      jnp.pad(
        x,
        ((0, 0), (0, wh.over), (0, ww.over), (0, -c % LANES)),
        constant_values=jnp.nan,
      )
      for x, (wh, ww) in zip(operands, windows, strict=True)
    )
  program = kernel.Program(chain, tiling, dtype, factors is not None)
  out_shape = jax.ShapeDtypeStruct(
    (n, *chain.out_size, c),
    dtype,
    # In `jax.shard_map`, the result varies over the same axes as the operands.
    manual_axis_type=jax.typeof(operands[0]).manual_axis_type,
  )
  return pl.pallas_call(
    lambda *refs: kernel.Step(program, *refs).run(),
    grid=(n, -(-c // LANES), h.tiles, w.tiles),
    in_specs=[_operand_spec(*pair, c, interpret) for pair in windows] + specs,
    out_specs=pl.BlockSpec(
      (1, h.tile, w.tile, LANES), lambda n, k, i, j: (n, i, j, k)
    ),
    out_shape=out_shape,
    scratch_shapes=[_scratch(*size) for size in program.line_sizes],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel',) * 4,
      vmem_limit_bytes=_vmem_limit(chain, tiling, dtype),
    ),
    cost_estimate=_cost(chain, n, c, dtype),
    interpret=interpret,
    name='filtered_lrelu',
  )(*operands, *constants)


def _operand_spec(
  window_h: Window, window_w: Window, channels: int, interpret: Any
) -> pl.BlockSpec:
  """Returns the block of an operand that a grid step reads."""
  # The interpreter allows no window past the end of an operand, so operands are
  # padded for it.
  pads = [0 if interpret else a.over for a in (window_h, window_w)]
  lanes = 0 if interpret else -channels % LANES
  return pl.BlockSpec(
    (
      pl.Element(1),
      pl.Element(window_h.size, (0, pads[0])),
      pl.Element(window_w.size, (0, pads[1])),
      pl.Element(LANES, (0, lanes)),
    ),
    lambda n, k, i, j: (
      n,
      kernel.window_start(window_h, i),
      kernel.window_start(window_w, j),
      k * LANES,
    ),
  )


def _vmem_limit(chain: Chain, tiling: Tiling, dtype: jnp.dtype) -> int:
  planned = tpu_tiling.vmem_bytes(chain, tiling, dtype.itemsize)
  return max(16 << 20, int(planned * 1.25) + (2 << 20))


def _scratch(lines: int, stride: int) -> Any:
  """Returns memory for lines of 128-lane vectors, `stride` vectors apart."""
  return pltpu.VMEM((round_up(lines * stride, 8), LANES), jnp.float32)


def _cost(chain: Chain, n: int, c: int, dtype: jnp.dtype) -> pl.CostEstimate:
  """Returns the FLOPs and bytes that XLA schedules with."""
  return pl.CostEstimate(
    flops=int(chain.flops * n * c),
    bytes_accessed=chain.samples * n * c * dtype.itemsize,
    transcendentals=0,
  )


def _matrices(
  chain: Chain, tiling: Tiling, dtype: jnp.dtype
) -> tuple[list[Array], list[pl.BlockSpec]]:
  """Returns the matrices in the order of the kernel, and the blocks of a tile.

  Each operand has a matrix [tiles, rank * middle_w, window_w], with the terms
  along the rows, and a matrix [tiles, middle_h, rank * window_h], with the
  terms along the columns. The result has [rank * rows, middle_h] and
  [tile_w, rank * middle_w].
  """
  arrays, specs = [], []
  contract = [tpu_tiling.passes(chain.contract, axis)[0] for axis in (0, 1)]
  for k, terms in enumerate(chain.expand):
    # The matrices of every operand include the gain: the mask compares the
    # first operand after the gain to the clamp, and the derivative multiplies
    # the second operand by the gain.
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
