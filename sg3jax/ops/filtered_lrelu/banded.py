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

from sg3jax.ops.filtered_lrelu import activation, diagonals, platform, vjp
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.plan import Pass, Plan, Terms
from sg3jax.types import Array

# More polyphase components than this along an axis (up 3 with down 4, say)
# unroll into programs that take long to compile; such rates use matrices.
_MAX_PHASES = 4

# A signal at the middle rate: one array or the polyphase components of one.
_Signal: TypeAlias = Any


class Spelling(NamedTuple):
  """How to apply U and D; both compute in and return float32 or wider."""

  expand: Callable[[Terms, Array], _Signal]
  contract: Callable[[Terms, _Signal], Array]


def forward(spelling: Spelling, plan: Plan, x: Array) -> Array:
  """Returns D act(U x)."""
  y = spelling.expand(plan.expand, x)
  z = jax.tree.map(functools.partial(activation.activate, plan), y)
  return spelling.contract(plan.contract, z).astype(x.dtype)


def backward(spelling: Spelling, plan: Plan, x: Array, g: Array) -> Array:
  """Returns U^T M(U x) D^T g."""
  y = spelling.expand(plan.expand, x)
  v = spelling.expand(plan_lib.transpose(plan.contract), g)
  z = jax.tree.map(functools.partial(_mask, plan), y, v)
  dx = spelling.contract(plan_lib.transpose(plan.expand), z)
  return dx.astype(g.dtype)


def tangent(spelling: Spelling, plan: Plan, x: Array, t: Array) -> Array:
  """Returns D M(U x) U t."""
  y = spelling.expand(plan.expand, x)
  v = spelling.expand(plan.expand, t)
  z = jax.tree.map(functools.partial(_mask, plan), y, v)
  return spelling.contract(plan.contract, z).astype(t.dtype)


def _mask(plan: Plan, y: Array, v: Array) -> Array:
  return activation.derivative(plan, y) * v


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


def _diagonal_spelling(plan: Plan, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling in shifted sums of polyphase components."""
  phases = math.lcm(plan.up, plan.down)

  def expand(terms: Terms, x: Array) -> diagonals.Phases:
    return diagonals.expand(terms, x.astype(dtype), phases)

  return Spelling(expand, diagonals.contract)


def spell(name: str, plan: Plan, dtype: jnp.dtype) -> Spelling:
  """Returns the spelling 'einsum', 'batched' or 'diagonals' for a plan."""
  wide = jnp.promote_types(dtype, jnp.float32)
  if name == 'batched':
    return _matrix_spelling(_batched_dot, dtype)
  if name == 'diagonals':
    if math.lcm(plan.up, plan.down) <= _MAX_PHASES:
      return _diagonal_spelling(plan, wide)
    return _matrix_spelling(_einsum, wide)
  return _matrix_spelling(_einsum, dtype)


def _spelled(kernel: Callable[..., Array]) -> Callable[..., Array]:
  """Returns `kernel` in the spelling of the platform it is compiled for."""

  def run(plan: Plan, *args: Array) -> Array:
    def spelled(name: str) -> Callable[..., Array]:
      return functools.partial(kernel, spell(name, plan, args[0].dtype), plan)

    return platform.by_platform(
      *args,
      cpu=spelled('diagonals'),
      gpu=spelled('batched'),
      tpu=spelled('einsum'),
    )

  run.__name__ = run.__qualname__ = f'filtered_lrelu_{kernel.__name__}'
  # Jitted so that equal layers share one trace, and profiles show the name.
  return jax.jit(run, static_argnums=0)


filtered_lrelu = vjp.differentiable(
  forward=_spelled(forward),
  backward=_spelled(backward),
  tangent=_spelled(tangent),
)
