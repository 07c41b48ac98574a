"""Products with banded matrices as sums of scaled, shifted slices.

A CPU has no matrix unit, so zeros outside the band are not free as on a TPU.
Summing scaled slices costs a few multiply-adds per sample at any row length,
and XLA fuses a whole pass into one vectorised loop.

The upsampled signal never exists as one array. It stays split into its P
polyphase components; component p holds samples p, p + P, p + 2P, ... along an
axis. Upsampling computes each component from plain slices of the input, and
downsampling sums plain slices of the components. No sample is interleaved,
skipped by a stride or multiplied by an inserted zero. P is the least common
multiple of the two factors, so it suits the operator and its derivatives.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from sg3jax.ops import barrier
from sg3jax.ops.filtered_lrelu.plan import Pass, Terms
from sg3jax.types import Array

_H, _W = 1, 2

# phases[q][p]: polyphase component p along h and q along w, [n, h', w', c].
Phases = list[list[Array]]


def expand(terms: Terms, x: Array, phases: int) -> Phases:
  """Applies upsampling terms.

  Args:
    terms: Upsampling terms.
    x: Input [n, h, w, c].
    phases: Number P of polyphase components of the output along each axis, a
      multiple of every `up`.

  Returns:
    P x P polyphase components of the output.
  """
  total: Phases | None = None
  parts = _apply([x], [along_w for _, along_w in terms], _W, phases)
  for (along_h, _), columns in zip(terms, parts, strict=True):
    part = [_apply([x], [along_h], _H, phases)[0] for x in columns]
    total = part if total is None else jax.tree.map(jnp.add, total, part)
  assert total is not None
  return total


def contract(terms: Terms, y: Phases) -> Array:
  """Applies downsampling terms to components and returns [n, h, w, c]."""
  phases = len(y)
  down = terms[0][0].down
  steps = [along_h for along_h, _ in terms]
  # parts[q][r]: components along h under term r, for component q along w.
  parts = [_apply(column, steps, _H, phases // down) for column in y]
  total = None
  for r, (along_h, along_w) in enumerate(terms):
    columns = [_merge(part[r], along_h, _H) for part in parts]
    (rows,) = _apply(columns, [along_w], _W, phases // down)
    part = _merge(rows, along_w, _W)
    total = part if total is None else total + part
  assert total is not None
  return total


# One scaled slice of a pass: (tap, input component, first sample).
_Product: TypeAlias = tuple[float, int, int]


def _apply(
  xs: Sequence[Array], steps: Sequence[Pass], axis: int, out_phases: int
) -> list[list[Array]]:
  """Applies passes that differ only in their taps to one signal.

  Args:
    xs: Polyphase components of the signal along `axis`; out_phases * down is a
      multiple of len(xs) * up.
    steps: The passes.
    axis: Axis of the arrays.
    out_phases: Number of polyphase components of the output.

  Returns:
    The `out_phases` components of each pass.
  """
  if all(step.is_identity for step in steps) and len(xs) == out_phases:
    return [list(xs) for _ in steps]
  size = steps[0].out_size
  stride = out_phases * steps[0].down // (len(xs) * steps[0].up)
  lengths = [max(0, -(-(size - q) // out_phases)) for q in range(out_phases)]
  products = [
    [
      _products(step, q, len(xs)) if length else []
      for q, length in enumerate(lengths)
    ]
    for step in steps
  ]
  low, highs = _margins(xs, products, lengths, stride, axis)
  # Store the padded input of each pass. Otherwise XLA fuses its computation
  # into every slice that reads it, once per tap.
  xs = barrier.store(
    [_pad(x, axis, low, high) for x, high in zip(xs, highs, strict=True)]
  )

  def sum_of(length: int, terms: Sequence[_Product]) -> Array:
    total = None
    for tap, phase, start in terms:
      first = start + low
      last = first + stride * (length - 1)
      piece = lax.slice_in_dim(xs[phase], first, last + 1, stride, axis)
      piece = piece * jnp.asarray(tap, piece.dtype)
      total = piece if total is None else total + piece
    if total is None:  # No samples, or all taps fall on inserted zeros.
      shape = list(xs[0].shape)
      shape[axis] = length
      total = jnp.zeros(shape, xs[0].dtype)
    return total

  return [
    [sum_of(*pair) for pair in zip(lengths, of_step, strict=True)]
    for of_step in products
  ]


def _products(step: Pass, phase: int, in_phases: int) -> list[_Product]:
  """Returns the scaled slices that sum to one output component of a pass."""
  products = []
  for k, tap in enumerate(step.taps):
    sample, is_inserted = divmod(phase * step.down + k - step.low, step.up)
    if tap and not is_inserted:
      products.append((tap, sample % in_phases, sample // in_phases))
  return products


def _margins(
  xs: Sequence[Array],
  products: Sequence[Sequence[Sequence[_Product]]],
  lengths: Sequence[int],
  stride: int,
  axis: int,
) -> tuple[int, list[int]]:
  """Returns how many zeros to pad before all components and after each."""
  low, highs = 0, [0] * len(xs)
  for of_step in products:
    for length, terms in zip(lengths, of_step, strict=True):
      for _, phase, start in terms:
        stop = start + stride * (length - 1) + 1
        low = max(low, -start)
        highs[phase] = max(highs[phase], stop - xs[phase].shape[axis])
  return low, highs


def _pad(x: Array, axis: int, low: int, high: int) -> Array:
  if low == high == 0:
    return x
  padding = [(0, 0)] * x.ndim
  padding[axis] = (low, high)
  return jnp.pad(x, padding)


def _merge(xs: Sequence[Array], step: Pass, axis: int) -> Array:
  """Interleaves the output components of a pass along `axis`."""
  if len(xs) == 1:
    return xs[0]
  length = xs[0].shape[axis]
  xs = [_pad(x, axis, 0, length - x.shape[axis]) for x in xs]
  shape = list(xs[0].shape)
  shape[axis] = length * len(xs)
  merged = jnp.stack(xs, axis + 1).reshape(shape)
  return lax.slice_in_dim(merged, 0, step.out_size, axis=axis)
