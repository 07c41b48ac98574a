"""`filtered_lrelu` as products with static banded matrices, in plain XLA.

The function has three forms ("spellings"), because the compilers differ:

  TPU  Einsum with dense matrices. The MXU makes the zeros cheap, and XLA picks
       layouts in which no pass transposes.
  GPU  Batched dot products, with the matrix broadcast over the batch. Einsum
       would compute the same, but transpose the feature map in every pass.
  CPU  The diagonals of the matrices: shifted sums of polyphase components. They
       are two to five times faster than a GEMM at 36 rows, and the cost per
       pixel does not grow with the row length.

Sums accumulate in float32, or in float64 for float64 inputs. A CPU computes
16-bit inputs in float32 throughout. TPUs and GPUs round the operands of each
pass as their matrix units require, and a GPU stores the results between passes
in 16 bits. With filters of several terms, a CPU computes a few images at a
time. If the signals at the middle rate are still large, a CPU or GPU computes
one block of channels at a time.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from sg3jax.ops import barrier, blocks, explicit
from sg3jax.ops.dtypes import widen
from sg3jax.ops.filtered_lrelu import diagonals, platform, vjp
from sg3jax.ops.filtered_lrelu.plan import Chain, Pass, Terms
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.types import DATA_AXIS, Array

# More polyphase components than this along an axis (for example, up 3 with down
# 4) unroll into programs that compile slowly; such rates use matrices instead.
_MAX_PHASES = 4

# If the signals at the middle rate are larger than this, blocks of channels are
# computed one at a time, to bound the memory at high resolutions. Blocks of
# fewer than _MIN_CHANNELS channels would waste vector instructions.
_MAX_MIDDLE_BYTES = {'cpu': 2**27, 'gpu': 2**30}
_MIN_CHANNELS = 16

# A signal at the middle rate: an array, or its polyphase components.
_Signal: TypeAlias = Any


class Spelling(NamedTuple):
  """Functions that apply U and D; both sum in and return float32 or wider."""

  expand: Callable[[Terms, Array], _Signal]
  contract: Callable[[Terms, _Signal], Array]


def evaluate(spelling: Spelling, chain: Chain, *operands: Array) -> Array:
  """Returns the result of the chain, in the dtype of the last operand."""
  expanded = map(spelling.expand, chain.expand, operands)
  middle = jax.tree.map(chain.activation.combine, *expanded)
  return spelling.contract(chain.contract, middle).astype(operands[-1].dtype)


def _einsum(m: Array, x: Array, axis: int, **options) -> Array:
  spec = {1: 'oh,nhwc->nowc', 2: 'ow,nhwc->nhoc'}[axis]
  return jnp.einsum(spec, m, x, **options)


def _batched_dot(m: Array, x: Array, axis: int, **options) -> Array:
  # The operand is [n, i, *] along h and [n * h, i, *] along w: the axis that is
  # contracted is the major one of a contiguous block, so no data moves. The
  # broadcast is fused into the dot product, not stored.
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
  """Returns the spelling with dense matrices.

  Args:
    multiply: Applies a matrix along an axis.
    dtype: Dtype to which the operands of products are rounded.
    stored: Dtype in which the results of products are stored; float32 or wider
      by default. Products and sums of terms always accumulate in float32 or
      wider.
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

  # The passes next to the activation process the most samples. They run along
  # h, where a row of an operand is a whole image row, w * c long.
  def expand(terms: Terms, x: Array) -> Array:
    return sum_(apply(apply(x, pw, 2), ph, 1) for ph, pw in terms)

  def contract(terms: Terms, y: Array) -> Array:
    return sum_(apply(apply(y, ph, 1), pw, 2) for ph, pw in terms)

  def sum_(parts) -> Array:
    return functools.reduce(jnp.add, (p.astype(accumulator) for p in parts))

  return Spelling(expand, contract)


def _diagonal_spelling(phases: int, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling with shifted sums of polyphase components."""

  def expand(terms: Terms, x: Array) -> diagonals.Phases:
    return diagonals.expand(terms, x.astype(dtype), phases)

  return Spelling(expand, diagonals.contract)


def spell(name: str, chain: Chain, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling 'einsum', 'batched' or 'diagonals' for a chain."""
  wide = widen(dtype)
  if name == 'batched':
    # XLA's GPU compiler does not fuse the activation into the products, so
    # their results are stored, and would be twice as large in float32.
    return _matrix_spelling(_batched_dot, dtype, stored=dtype)
  if name == 'diagonals':
    rates = [terms[0][0].up for terms in chain.expand]
    phases = math.lcm(*rates, chain.contract[0][0].down)
    if phases <= _MAX_PHASES:
      return _diagonal_spelling(phases, wide)
    return _matrix_spelling(_einsum, wide)
  return _matrix_spelling(_einsum, dtype)


def _middle_size(chain: Chain) -> int:
  """Returns the number of pixels at the middle rate."""
  along_h, along_w = chain.contract[0]
  return along_h.in_size * along_w.in_size


def _by_channels(
  run: Callable[..., Array],
  chain: Chain,
  most: int,
  itemsize: int,
  *operands: Array,
) -> Array:
  """Runs a chain, one block of channels at a time if its signals are large.

  Args:
    run: Function (*operands) -> result.
    chain: Chain that `run` computes.
    most: Largest number of bytes on a device for signals at the middle rate.
    itemsize: Bytes for each sample at the middle rate, all live signals
      together.
    *operands: Arrays [n, h, w, c].
  """
  n, _, _, c = operands[0].shape
  if not isinstance(n, int):  # A symbolic size, in an exported program.
    return run(*operands)
  middle = n * _middle_size(chain) * c * itemsize
  middle //= explicit.open_axes().get(DATA_AXIS, 1)
  count = min(-(-middle // most), c // _MIN_CHANNELS)
  if count <= 1:
    return run(*operands)
  channels = -(-c // count)

  def add_block(i: Array, y: Array) -> Array:
    # Slices are clamped to the array, so the last block may begin earlier and
    # compute some channels again.
    start = i * channels
    slices = (lax.dynamic_slice_in_dim(x, start, channels, 3) for x in operands)
    return lax.dynamic_update_slice_in_dim(y, run(*slices), start, 3)

  # Fill it with a value of an operand. Zeros depend on nothing, so XLA would
  # allocate them for all layers at the beginning of a program.
  last = operands[-1]
  y = jnp.full((n, *chain.out_size, c), last[0, 0, 0, 0], last.dtype)
  return lax.fori_loop(0, count, add_block, y)


@functools.partial(jax.jit, static_argnums=0)
def run(chain: Chain, *operands: Array, scaling: Scaling = NONE) -> Array:
  """Returns the result of the chain, in the spelling for the platform."""
  # Jitted so that equal layers share one trace.
  channels, dtype = operands[0].shape[-1], operands[0].dtype

  def spelled(name: str) -> Callable[..., Array]:
    return functools.partial(evaluate, spell(name, chain, dtype), chain)

  def on_cpu(*xs: Array) -> Array:
    itemsize, most = widen(dtype).itemsize, _MAX_MIDDLE_BYTES['cpu']
    factors, bias = scaling._replace(bias=None), scaling.bias

    def block(factors: Scaling, *xs: Array) -> Array:
      scaling = factors._replace(bias=bias)
      xs = scaling.enter(*xs)
      y = _by_channels(spelled('diagonals'), chain, most, itemsize, *xs)
      return scaling.leave(y)

    if max(map(len, (*chain.expand, chain.contract))) > 1:
      # Each term reads a signal again. With one, blocks would gain nothing.
      image_bytes = _middle_size(chain) * channels * itemsize
      y = blocks.map_images(block, image_bytes, factors, *xs)
    else:
      y = block(factors, *xs)
    # Store it: otherwise everything that reads it repeats the last pass.
    return barrier.store(y)

  def anew(*xs: Array) -> tuple[Array, ...]:
    # XLA recognizes that a derivative has the same middle signal as the forward
    # pass, and would keep those of all layers, gigabytes, instead of computing
    # each again with a product.
    return lax.optimization_barrier(xs) if len(xs) > 1 else xs

  def on_gpu(*xs: Array) -> Array:
    # Each term of an operand is a separate signal before the terms are summed.
    signals = sum(len(terms) for terms in chain.expand)
    itemsize, most = signals * dtype.itemsize, _MAX_MIDDLE_BYTES['gpu']
    xs = anew(*scaling.enter(*xs))
    y = _by_channels(spelled('batched'), chain, most, itemsize, *xs)
    return scaling.leave(y)

  def on_tpu(*xs: Array) -> Array:
    return scaling.leave(spelled('einsum')(*anew(*scaling.enter(*xs))))

  return platform.by_platform(*operands, cpu=on_cpu, gpu=on_gpu, tpu=on_tpu)


filtered_lrelu = vjp.differentiable(run)
