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
units want it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from sg3jax.ops import barrier
from sg3jax.ops.filtered_lrelu import diagonals, platform, vjp
from sg3jax.ops.filtered_lrelu.plan import Chain, Pass, Terms
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.types import Array

# More polyphase components than this along an axis (up 3 with down 4, say)
# unroll into programs that take long to compile; such rates use matrices.
_MAX_PHASES = 4

# A CPU computes blocks of channels one after the other if the middle signal is
# larger than this, to bound the memory that high resolutions take. Blocks of
# fewer channels than that would waste its vector instructions.
_MAX_MIDDLE_BYTES = 2**27
_MIN_CHANNELS = 16

# A signal at the middle rate: one array or the polyphase components of one.
_Signal: TypeAlias = Any


class Spelling(NamedTuple):
  """How to apply U and D; both compute in and return float32 or wider."""

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
  multiply: Callable[..., Array], dtype: jnp.dtype
) -> Spelling:
  """Returns the spelling in dense matrices, operands rounded to `dtype`."""
  accumulator = jnp.promote_types(dtype, jnp.float32)
  options = {
    'precision': lax.Precision.HIGHEST,
    'preferred_element_type': accumulator,
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
    return functools.reduce(jnp.add, parts).astype(accumulator)

  return Spelling(expand, contract)


def _diagonal_spelling(phases: int, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling in shifted sums of polyphase components."""

  def expand(terms: Terms, x: Array) -> diagonals.Phases:
    return diagonals.expand(terms, x.astype(dtype), phases)

  return Spelling(expand, diagonals.contract)


def spell(name: str, chain: Chain, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling 'einsum', 'batched' or 'diagonals' for a chain."""
  wide = jnp.promote_types(dtype, jnp.float32)
  if name == 'batched':
    return _matrix_spelling(_batched_dot, dtype)
  if name == 'diagonals':
    rates = [terms[0][0].up for terms in chain.expand]
    phases = math.lcm(*rates, chain.contract[0][0].down)
    if phases <= _MAX_PHASES:
      return _diagonal_spelling(phases, wide)
    return _matrix_spelling(_einsum, wide)
  return _matrix_spelling(_einsum, dtype)


def _in_blocks(
  run: Callable[..., Array], chain: Chain, *operands: Array
) -> Array:
  """Runs a chain, a block of channels at a time if its signals are large."""
  n, _, _, c = operands[0].shape
  wide = jnp.promote_types(operands[0].dtype, jnp.float32)
  along_h, along_w = chain.contract[0]
  middle = n * along_h.in_size * along_w.in_size * c * wide.itemsize
  blocks = min(-(-middle // _MAX_MIDDLE_BYTES), c // _MIN_CHANNELS)
  if blocks <= 1:
    return run(*operands)
  channels = -(-c // blocks)
  edges = ((0, 0), (0, 0), (0, 0), (0, blocks * channels - c))
  operands = tuple(jnp.pad(x, edges) for x in operands)

  def block(start: Array) -> Array:
    slices = (lax.dynamic_slice_in_dim(x, start, channels, 3) for x in operands)
    return run(*slices)

  y = lax.map(block, channels * jnp.arange(blocks))
  return jnp.moveaxis(y, 0, 3).reshape(*y.shape[1:4], -1)[..., :c]


@functools.partial(jax.jit, static_argnums=0)
def run(chain: Chain, *operands: Array, scaling: Scaling = NONE) -> Array:
  """Returns the chain's result in the spelling of the compiled platform."""
  # Jitted so that equal layers share one trace.
  operands = scaling.enter(*operands)

  def spelled(name: str) -> Callable[..., Array]:
    spelling = spell(name, chain, operands[0].dtype)
    return functools.partial(evaluate, spelling, chain)

  def on_cpu(*xs: Array) -> Array:
    y = _in_blocks(spelled('diagonals'), chain, *xs)
    # Stored, as everything that reads it would compute the last pass anew.
    return barrier.store(scaling.leave(y))

  return platform.by_platform(
    *operands,
    cpu=on_cpu,
    gpu=lambda *xs: scaling.leave(spelled('batched')(*xs)),
    tpu=lambda *xs: scaling.leave(spelled('einsum')(*xs)),
  )


filtered_lrelu = vjp.differentiable(run)
