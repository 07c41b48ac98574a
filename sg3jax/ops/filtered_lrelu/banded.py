"""`filtered_lrelu` as products with static banded matrices, in plain XLA.

One function in three spellings, because the compilers differ:

  TPU  einsum with dense matrices. The MXU makes the zeros cheap, and XLA picks
       layouts in which no pass transposes.
  GPU  batched dots, the matrix broadcast over the batch. Same numbers; einsum
       there costs a transposition of the feature map per pass.
  CPU  the diagonals of the matrices, shifted sums of polyphase components. Two
       to five times faster than a GEMM at 36 rows, and the cost per pixel does
       not grow with the row length.

Accumulation is in float32, in float64 for float64 inputs. A CPU computes 16-bit
inputs in float32 throughout; TPU and GPU round between passes as their matrix
units want it, and a GPU stores what is between passes in 16 bits. Where the
signals at the middle rate are large, a CPU or GPU computes a block of channels
after the other.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from sg3jax.ops import barrier
from sg3jax.ops.dtypes import widen
from sg3jax.ops.filtered_lrelu import diagonals, partition, platform, vjp
from sg3jax.ops.filtered_lrelu.plan import Chain, Pass, Terms
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.types import DATA_AXIS, Array

# More polyphase components than this along an axis (up 3 with down 4, say)
# unroll into programs that take long to compile; such rates use matrices.
_MAX_PHASES = 4

# Blocks of channels are computed one after the other if the signals at the
# middle rate are larger than this, to bound the memory that high resolutions
# take. Blocks of fewer channels than that would waste vector instructions.
_MAX_MIDDLE_BYTES = {'cpu': 2**27, 'gpu': 2**30}
_MIN_CHANNELS = 16

# A signal at the middle rate: one array or the polyphase components of one.
_Signal: TypeAlias = Any


class Spelling(NamedTuple):
  """How to apply U and D; both add up in and return float32 or wider."""

  expand: Callable[[Terms, Array], _Signal]
  contract: Callable[[Terms, _Signal], Array]


def evaluate(spelling: Spelling, chain: Chain, *operands: Array) -> Array:
  """Returns the chain's result, of the last operand's dtype."""
  expanded = map(spelling.expand, chain.expand, operands)
  middle = jax.tree.map(chain.activation.combine, *expanded)
  return spelling.contract(chain.contract, middle).astype(operands[-1].dtype)


def _einsum(m: Array, x: Array, axis: int, **options) -> Array:
  spec = {1: 'oh,nhwc->nowc', 2: 'ow,nhwc->nhoc'}[axis]
  return jnp.einsum(spec, m, x, **options)


def _batched_dot(m: Array, x: Array, axis: int, **options) -> Array:
  # [n, i, *] along h and [n * h, i, *] along w: the rows that a product
  # contracts are the major ones of a contiguous block, so nothing moves. The
  # broadcast is fused into the dot, not stored.
  n, h, w, c = x.shape
  batch, *block = (n, h, w * c) if axis == 1 else (n * h, w, c)
  y = lax.dot_general(
    jnp.broadcast_to(m, (batch, *m.shape)),
    x.reshape(batch, *block),
    (((2,), (1,)), ((0,), (0,))),
    **options,
  )
  return y.reshape((n, -1, w, c) if axis == 1 else (n, h, -1, c))


def _matrix_spelling(
  multiply: Callable[..., Array],
  dtype: jnp.dtype,
  stored: jnp.dtype | None = None,
) -> Spelling:
  """Returns the spelling in dense matrices.

  Args:
    multiply: Applies a matrix along an axis.
    dtype: What operands of products are rounded to.
    stored: Dtype in which results of products are stored; float32 or wider by
      default. Products and sums of terms accumulate in that in any case.
  """
  accumulator = widen(dtype)
  options = {
    'precision': lax.Precision.HIGHEST,
    'preferred_element_type': stored or accumulator,
  }

  def apply(x: Array, step: Pass, axis: int) -> Array:
    if step.is_identity:
      return x
    matrix = jnp.asarray(step.matrix, dtype)
    return multiply(matrix, x.astype(dtype), axis, **options)

  # The passes next to the activation see the most samples. They go along h,
  # where a row of an operand is a whole image row, w * c long.
  def expand(terms: Terms, x: Array) -> Array:
    return sum_(apply(apply(x, pw, 2), ph, 1) for ph, pw in terms)

  def contract(terms: Terms, y: Array) -> Array:
    return sum_(apply(apply(y, ph, 1), pw, 2) for ph, pw in terms)

  def sum_(parts) -> Array:
    return functools.reduce(jnp.add, (p.astype(accumulator) for p in parts))

  return Spelling(expand, contract)


def _diagonal_spelling(phases: int, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling in shifted sums of polyphase components."""

  def expand(terms: Terms, x: Array) -> diagonals.Phases:
    return diagonals.expand(terms, x.astype(dtype), phases)

  return Spelling(expand, diagonals.contract)


def spell(name: str, chain: Chain, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling 'einsum', 'batched' or 'diagonals' for a chain."""
  wide = widen(dtype)
  if name == 'batched':
    # The compiler for GPUs does not fuse the activation into the products.
    # Their results are in memory, and would be twice as large.
    return _matrix_spelling(_batched_dot, dtype, stored=dtype)
  if name == 'diagonals':
    rates = [terms[0][0].up for terms in chain.expand]
    phases = math.lcm(*rates, chain.contract[0][0].down)
    if phases <= _MAX_PHASES:
      return _diagonal_spelling(phases, wide)
    return _matrix_spelling(_einsum, wide)
  return _matrix_spelling(_einsum, dtype)


def _in_blocks(
  run: Callable[..., Array],
  chain: Chain,
  most: int,
  itemsize: int,
  *operands: Array,
) -> Array:
  """Runs a chain, a block of channels at a time if its signals are large.

  Args:
    run: (*operands) -> the result.
    chain: What it computes.
    most: Bytes that what is alive at the middle rate may take on a device.
    itemsize: Bytes of that for each sample of a middle signal.
    *operands: [n, h, w, c] each.
  """
  n, _, _, c = operands[0].shape
  if not isinstance(n, int):  # Of an exported program.
    return run(*operands)
  along_h, along_w = chain.contract[0]
  middle = n * along_h.in_size * along_w.in_size * c * itemsize
  middle //= partition.open_axes().get(DATA_AXIS, 1)
  blocks = min(-(-middle // most), c // _MIN_CHANNELS)
  if blocks <= 1:
    return run(*operands)
  channels = -(-c // blocks)

  def add_block(i: Array, y: Array) -> Array:
    # The last block begins earlier, and computes some channels twice: slices
    # are moved to where they fit.
    start = i * channels
    slices = (lax.dynamic_slice_in_dim(x, start, channels, 3) for x in operands)
    return lax.dynamic_update_slice_in_dim(y, run(*slices), start, 3)

  # Filled with a value of an operand: the memory of zeros, which depend on
  # nothing, is taken for all layers at the beginning of a program.
  last = operands[-1]
  y = jnp.full((n, *chain.out_size, c), last[0, 0, 0, 0], last.dtype)
  return lax.fori_loop(0, blocks, add_block, y)


@functools.partial(jax.jit, static_argnums=0)
def run(chain: Chain, *operands: Array, scaling: Scaling = NONE) -> Array:
  """Returns the chain's result in the spelling of the compiled platform."""
  # Jitted so that equal layers share one trace.
  operands = scaling.enter(*operands)
  dtype = operands[0].dtype

  def spelled(name: str) -> Callable[..., Array]:
    return functools.partial(evaluate, spell(name, chain, dtype), chain)

  def on_cpu(*xs: Array) -> Array:
    itemsize = widen(dtype).itemsize
    most = _MAX_MIDDLE_BYTES['cpu']
    y = _in_blocks(spelled('diagonals'), chain, most, itemsize, *xs)
    # Stored, as everything that reads it would compute the last pass anew.
    return barrier.store(scaling.leave(y))

  def anew(*xs: Array) -> tuple[Array, ...]:
    # XLA recognises a derivative's middle signal as that of the forward pass
    # and would keep those of all layers, gigabytes, although a product makes
    # each again.
    return lax.optimization_barrier(xs) if len(xs) > 1 else xs

  def on_gpu(*xs: Array) -> Array:
    # Each term of an operand is a signal of its own before they are added.
    signals = sum(len(terms) for terms in chain.expand)
    itemsize, most = signals * dtype.itemsize, _MAX_MIDDLE_BYTES['gpu']
    y = _in_blocks(spelled('batched'), chain, most, itemsize, *anew(*xs))
    return scaling.leave(y)

  def on_tpu(*xs: Array) -> Array:
    return scaling.leave(spelled('einsum')(*anew(*xs)))

  return platform.by_platform(*operands, cpu=on_cpu, gpu=on_gpu, tpu=on_tpu)


filtered_lrelu = vjp.differentiable(run)
