"""Launches the Mosaic GPU kernel: checks, scales, pads, sets up the grid.

The kernel computes in float16. This module scales operands outside of the range
of float16 and pads operands without the alignment that the kernel requires.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sg3jax.ops.filtered_lrelu.gpu import kernel, mosaic, tiling
from sg3jax.ops.filtered_lrelu.gpu.geometry import (
  CHANNELS,
  Arrival,
  Geometry,
  make_geometry,
  simplify,
)
from sg3jax.ops.filtered_lrelu.gpu.tiling import Tile
from sg3jax.ops.filtered_lrelu.plan import Chain, round_up
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.ops.modulated_conv import pad_channels
from sg3jax.types import AnyArray, Array

_OLDEST_JAX = (0, 11)
_HOPPER = r'\bG?H(100|200|800|20)\b'
_GAINS = (2.0**-6, 2.0**6)  # Larger gains would exceed the range of float16.

# Binary exponent to which the largest magnitude of a linear operand is scaled.
_LINEAR_EXPONENT = 4


def unsupported(
  chain: Chain, *operands: Any, scaling: Scaling = NONE, kind: str = 'H100'
) -> str | None:
  """Returns why the kernel cannot compute a chain, or None if it can.

  Args:
    chain: Chain to compute.
    *operands: Arrays or their shapes and dtypes, [n, h, w, c].
    scaling: Factors and bias: arrays, or their shapes and dtypes.
    kind: Device kind in JAX; 'cpu' for the interpreter.
  """
  if mosaic.plgpu is None or jax.__version_info__ < _OLDEST_JAX:
    return f'it needs JAX 0.11 or newer, got {jax.__version__}'
  if kind != 'cpu' and not re.search(_HOPPER, kind):
    return f'the device must be a Hopper GPU (H100, H200), got {kind}'
  dtypes = {jnp.dtype(x.dtype).name for x in operands}
  if len(dtypes) > 1 or not dtypes <= {'float16', 'bfloat16'}:
    return (
      f'operands must be float16 or bfloat16, got {", ".join(sorted(dtypes))}'
    )
  gain, slope = chain.activation.gain, chain.activation.slope
  if not 0 <= slope <= 1:
    return f'the slope must be in [0, 1], got {slope}'
  if gain and not _GAINS[0] <= abs(gain) <= _GAINS[1]:
    return (
      f'the magnitude of the gain must be in [{_GAINS[0]}, {_GAINS[1]}], got '
      f'{abs(gain)}'
    )
  chain = simplify(chain)
  return tiling.unsupported(
    chain, _out_shape(chain, operands[-1]), _arrivals(operands, scaling)
  )


def run(
  chain: Chain,
  *operands: AnyArray,
  scaling: Scaling = NONE,
  kind: str = 'H100',
  interpret: Any = None,
) -> Array:
  """Returns the result of a chain, computed by the kernel.

  Args:
    chain: Chain to compute.
    *operands: One or two arrays [n, h, w, c], float16 or bfloat16.
    scaling: Factors, in the range of float16, and bias.
    kind: Device kind in JAX; 'cpu' for the interpreter.
    interpret: None or False compiles for the GPU; True or
      `plgpu.InterpretGPUParams` interprets the kernel on the CPU, slowly.

  Returns:
    The result [n, h, w, c], in the dtype of the operands.

  Raises:
    NotImplementedError: If the kernel does not support the chain; the message
      contains the reason.
  """
  reason = unsupported(chain, *operands, scaling=scaling, kind=kind)
  if reason is not None:
    raise NotImplementedError(f'The Mosaic GPU kernel: {reason}.')
  if interpret is True:
    interpret = mosaic.plgpu.InterpretGPUParams()
  return _run(chain, interpret or None, scaling, *operands)


def choose_tile(
  chain: Chain, *operands: Any, scaling: Scaling = NONE
) -> Tile | None:
  """Returns the tile for a chain from `simplify`, or None if none fits."""
  return tiling.choose(
    chain, _out_shape(chain, operands[-1]), _arrivals(operands, scaling)
  )


def geometry_of(
  chain: Chain, tile: Tile, *operands: Any, scaling: Scaling = NONE
) -> Geometry:
  """Returns the geometry of a chain from `simplify`, for a tile."""
  arrivals = _arrivals(operands, scaling)
  return make_geometry(chain, tile.width, tile.reads, arrivals)


def _out_shape(chain: Chain, operand: Any) -> tuple[int, ...]:
  return (operand.shape[0], *chain.out_size, operand.shape[-1])


def _arrivals(operands: Sequence[Any], scaling: Scaling) -> tuple[Arrival, ...]:
  """Returns how the rows of each operand are converted."""
  is_wide = operands[0].dtype == jnp.bfloat16
  return tuple(
    Arrival(
      is_wide=is_wide,
      # The second operand is also scaled to the range of float16.
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
  chain = simplify(chain)
  c = operands[0].shape[-1]
  # TMA requires strides that are multiples of 16 bytes.
  spare = -c % 8
  if spare:
    operands, scaling = jax.tree.map(
      lambda v: pad_channels(v, c + spare), (operands, scaling)
    )
  tile = choose_tile(chain, *operands, scaling=scaling)
  assert tile is not None  # `unsupported` has checked it.
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
  """Returns the result of a chain, computed with a given tile.

  Args:
    chain: Chain to compute, from `geometry.simplify`.
    tile: Columns and rows of a block.
    *operands: Arrays [n, h, w, c], c a multiple of 8.
    scaling: Factors and bias, for c channels.
    interpret: None or `plgpu.InterpretGPUParams`.
    inner: Dtype of the arithmetic; float32 only with the interpreter, to test
      the geometry without rounding.

  Returns:
    The result [n, h, w, c], in the dtype of the operands.
  """
  with jax.enable_x64(False):  # Indices on the device have 32 bits.
    return _launch(chain, tile, operands, scaling, interpret, inner)


def _launch(
  chain: Chain,
  tile: Tile,
  operands: Sequence[Array],
  scaling: Scaling,
  interpret: Any,
  inner: Any,
) -> Array:
  geometry = geometry_of(chain, tile, *operands, scaling=scaling)
  n, _, _, c = operands[0].shape
  outer = operands[0].dtype
  if outer == jnp.bfloat16 and len(operands) == 2:
    scaling = _fit_range(scaling, operands[1])
  # Factors and bias are loaded in whole blocks of channels.
  whole = round_up(c, CHANNELS)
  vectors, structure = jax.tree.flatten(
    jax.tree.map(lambda v: pad_channels(v.astype(jnp.float32), whole), scaling)
  )
  # The interpreter does not read zeros before the start of an array.
  border = 0 if interpret is None else _border(geometry)
  edges = ((0, 0), (border, 0), (border, 0), (0, 0))
  if border:
    operands = [jnp.pad(x, edges) for x in operands]
  program = kernel.Program(
    chain=chain,
    geometry=geometry,
    tile=tile,
    scaling=structure,
    inner=inner,
    outer=outer,
    border=border,
    is_interpreted=interpret is not None,
  )
  strips_h, strips_w = program.grid
  call = mosaic.call(
    lambda *refs: kernel.Block(program, *refs).run(),
    jax.ShapeDtypeStruct((n, *chain.out_size, c), outer),
    program.scratch,
    grid=(-(-c // CHANNELS), strips_w * strips_h, n),
    grid_names=('c', 't', 'n'),
    **({} if interpret is None else {'interpret': interpret}),
  )
  matrices = [jnp.asarray(m, inner) for m in geometry.matrices]
  return call(*operands, *vectors, *matrices)


def _border(geometry: Geometry) -> int:
  """Returns the largest distance of a strip's start before an operand's."""
  streams = geometry.streams
  return max(
    0, *(-s.first_row for s in streams), *(-s.first_column for s in streams)
  )


def _fit_range(scaling: Scaling, x: Array) -> Scaling:
  """Returns a scaling that also brings x into the range of float16.

  Each image of x, the second operand, is multiplied by a power of two, and its
  result is divided by it.
  """
  # Gradients of a mean over pixels are smaller than the smallest float16.
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
