"""Launches the Mosaic GPU kernel: checks, scales, pads, sets up the grid.

The kernel computes in float16. Operands whose range or alignment does not suit
it are scaled and padded here.
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
  if mosaic.plgpu is None or jax.__version_info__ < _OLDEST_JAX:
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
    NotImplementedError: The kernel cannot compute this; the message says why.
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
  """Returns the tile for a chain, `simplify`d, or None if there is none."""
  return tiling.choose(
    chain, _out_shape(chain, operands[-1]), _arrivals(operands, scaling)
  )


def geometry_of(
  chain: Chain, tile: Tile, *operands: Any, scaling: Scaling = NONE
) -> Geometry:
  """Returns how a block goes about a chain, `simplify`d, with a tile."""
  arrivals = _arrivals(operands, scaling)
  return make_geometry(chain, tile.width, tile.reads, arrivals)


def _out_shape(chain: Chain, operand: Any) -> tuple[int, ...]:
  return (operand.shape[0], *chain.out_size, operand.shape[-1])


def _arrivals(operands: Sequence[Any], scaling: Scaling) -> tuple[Arrival, ...]:
  """Returns what is done to each operand's rows first."""
  is_wide = operands[0].dtype == jnp.bfloat16
  return tuple(
    Arrival(
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
  chain = simplify(chain)
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
    chain: What to compute, `geometry.simplify`d.
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
  geometry = geometry_of(chain, tile, *operands, scaling=scaling)
  n, _, _, c = operands[0].shape
  outer = operands[0].dtype
  if outer == jnp.bfloat16 and len(operands) == 2:
    scaling = _fit_range(scaling, operands[1])
  # They are loaded from memory in whole blocks of channels.
  whole = round_up(c, CHANNELS)
  vectors, structure = jax.tree.flatten(
    jax.tree.map(lambda v: pad_channels(v.astype(jnp.float32), whole), scaling)
  )
  # The interpreter has no zeros in front of an array.
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
  """Returns how far strips begin above or left of an operand, at most."""
  streams = geometry.streams
  return max(
    0, *(-s.first_row for s in streams), *(-s.first_column for s in streams)
  )


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
