"""Checks the kernels of `filtered_lrelu` on a device."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware import cases as cases_lib
from hardware import stages
from hardware.cases import Case
from sg3jax.ops.filtered_lrelu.plan import Chain, Terms
from sg3jax.ops.filtered_lrelu.scaling import Scaling
from sg3jax.types import Array

# Largest relative error (L2) against float32, by type and by direction. The
# rounding of a result alone is 3e-4 of float16 and 2.3e-3 of bfloat16 (uniform
# within half a unit in the last place, over values spread within an octave).
# Derivatives have the sign of a middle sample wrong where it is within the
# rounding of zero: of unit samples rounded to 5e-4 a part of 4e-4 of them, each
# of which changes by 0.8 of its own size, 2 % in the norm at most.
_TOLERANCES = {
  ('float16', 'forward'): 1e-3,
  ('float16', 'derivative'): 2e-2,
  ('bfloat16', 'forward'): 5e-3,
  ('bfloat16', 'derivative'): 2e-2,
  ('float32', 'forward'): 1e-5,
  ('float32', 'derivative'): 2e-3,
}
# A row, column, channel or image may be worse than all together by this much.
_LOCAL = 4.0

_FRESH = 3  # Number of fresh inputs, to find races.


def check_tasks(selected: Sequence[Case], batch: int) -> list[stages.Task]:
  """Returns a task for each case and type."""
  return [
    stages.Task(
      case.columns | {'dtype': dtype},
      functools.partial(_prepare_check, case, dtype, batch),
    )
    for dtype in ('bfloat16', 'float16', 'float32')
    for case in selected
    if dtype in cases_lib.dtypes(case)
  ]


def _prepare_check(case: Case, dtype: str, batch: int) -> stages.Measure:
  scaling, operands = case.structures(batch, dtype)
  shape = (batch, *case.chain.out_size, case.channels)
  result = jax.ShapeDtypeStruct(shape, dtype)
  with cases_lib.interpreting():
    # The result takes the memory of the first argument, full of NaN: what the
    # kernel leaves out stays NaN. (Channels that are no multiple of 8 are
    # copied out of an array of its own, which is not.)
    kernel = jax.jit(
      lambda poison, scaling, *x: cases_lib.run_kernel(case.chain, scaling, *x),
      donate_argnums=0,
      keep_unused=True,
    )
    kernel = kernel.lower(result, scaling, *operands).compile()
  sample = jax.jit(functools.partial(_sample, case, dtype, batch))
  sample = sample.lower(0, **dataclasses.asdict(Inputs())).compile()
  compare = _compiled_comparison(case, batch)
  return functools.partial(_check, case, dtype, kernel, compare, sample)


@functools.cache
def _compiled_comparison(case: Case, batch: int) -> Callable[..., Any]:
  """Returns (result twice, scaling, *operands) -> the errors, see `_errors`.

  All arrays are float32, so that one program serves all types.
  """
  scaling, operands = case.structures(batch, 'float32')
  result = jax.ShapeDtypeStruct(
    (batch, *case.chain.out_size, case.channels), jnp.float32
  )

  def run(first: Array, second: Array, scaling: Scaling, *operands: Array):
    return _errors(
      first, second, cases_lib.run_banded(case.chain, scaling, *operands)
    )

  return jax.jit(run).lower(result, result, scaling, *operands).compile()


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A kind of inputs: random ones, changed.

  Attributes:
    factor: Of the first operand.
    gradient_factor: Of the second.
    is_negative: Whether the first operand is.
    is_frame: Whether all but two pixels at each border are zero.
  """

  factor: float = 1.0
  gradient_factor: float = 1.0
  is_negative: bool = False
  is_frame: bool = False


_KINDS = {
  **{f'fresh {i}': Inputs() for i in range(_FRESH)},
  'beyond the bound': Inputs(factor=150.0),
  'zero': Inputs(factor=0.0),
  'negative': Inputs(is_negative=True),
  'frame': Inputs(is_frame=True),
  'small gradients': Inputs(gradient_factor=1e-7),
}


def _check(
  case: Case, dtype: str, kernel: Any, compare: Any, sample: Any
) -> Mapping[str, Any]:
  """Returns the errors of a kernel over all kinds of inputs."""
  is_forward = case.direction == 'forward'
  tolerance = _TOLERANCES[dtype, 'forward' if is_forward else 'derivative']
  errors, local, causes = {}, {}, []
  for number, (name, kind) in enumerate(_KINDS.items()):
    if kind.gradient_factor < 1 and (is_forward or dtype == 'float16'):
      continue  # float16 itself has no such numbers.
    scaling, operands, poisons = sample(number, **dataclasses.asdict(kind))
    first, second = (kernel(x, scaling, *operands) for x in poisons)
    wide = (x.astype(jnp.float32) for x in (first, second, *operands))
    first_wide, second_wide, *operands_wide = wide
    error, worst, is_same = compare(
      first_wide, second_wide, scaling, *operands_wide
    )
    errors[name], local[name] = float(error), float(worst)
    if not is_same:
      causes.append(f'{name}: two runs differ')
    # A NaN is above every bound.
    if not errors[name] <= tolerance or not local[name] <= _LOCAL * tolerance:
      causes.append(f'{name}: {errors[name]:.1e}, local {local[name]:.1e}')
    if number == 0:
      exact_error = _against_float64(case, scaling, operands, first)
      errors['float64'] = exact_error
      if not exact_error <= _LOCAL * tolerance:
        causes.append(f'float64: {exact_error:.1e}')
  row = {
    'L2': errors['fresh 0'],
    'worst L2': float(np.max([*errors.values()])),  # NaN if any is.
    'local': float(np.max([*local.values()])),
    'bound': tolerance,
    'ok': not causes,
  }
  return row | ({'error': '; '.join(causes)} if causes else {})


def _sample(
  case: Case,
  dtype: str,
  batch: int,
  seed: int,
  factor: float,
  gradient_factor: float,
  is_negative: bool,
  is_frame: bool,
) -> tuple[Scaling, list[Array], list[Array]]:
  """Returns the scaling, the operands, and two arrays of NaN for results."""
  structures = case.structures(batch, dtype)
  leaves, treedef = jax.tree.flatten(structures)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  scaling, operands = jax.tree.unflatten(
    treedef,
    [
      jax.random.normal(key, x.shape, jnp.float32)
      for key, x in zip(keys, leaves, strict=True)
    ],
  )
  # Demodulations are positive; styles have either sign.
  first, second = scaling.operands
  scaling = scaling._replace(operands=(jnp.abs(first) + 0.1, second))
  operands[0] = jnp.where(is_negative, -jnp.abs(operands[0]), operands[0])
  factors = (factor, gradient_factor)
  operands = [
    jnp.asarray(x * jnp.where(is_frame, _frame(x.shape), 1) * f, dtype)
    for x, f in zip(operands, factors, strict=False)
  ]
  shape = (batch, *case.chain.out_size, case.channels)
  return scaling, operands, [jnp.full(shape, jnp.nan, dtype)] * 2


def _frame(shape: tuple[int, ...]) -> np.ndarray:
  """Returns 1 within two pixels of a border and 0 elsewhere, [h, w, 1]."""
  frame = np.ones((*shape[1:3], 1), np.float32)
  frame[2:-2, 2:-2] = 0
  return frame


def _errors(
  first: Array, second: Array, wanted: Array
) -> tuple[Array, Array, Array]:
  """Compares a result, computed twice, with what it should be.

  Returns:
    The relative error (L2); the largest of an image, row, column or channel,
    relative to the mean where that is larger, so that one that is small by
    chance does not count; whether the two are the same.
  """
  is_same = jnp.array_equal(first, second, equal_nan=True)
  squares = jnp.square(wanted)
  errors = jnp.square(first.astype(jnp.float32) - wanted)
  mean = jnp.mean(squares)
  worst = jnp.zeros(())
  for axis in range(4):
    others = tuple(i for i in range(4) if i != axis)
    scale = jnp.maximum(squares.mean(others), mean)
    worst = jnp.maximum(worst, jnp.max(_ratio(errors.mean(others), scale)))
  return jnp.sqrt(_ratio(errors.mean(), mean)), jnp.sqrt(worst), is_same


def _ratio(error: Array, scale: Array) -> Array:
  """Returns the relative error; the absolute one where all should be zero."""
  return error / jnp.where(scale > 0, scale, 1)


def _against_float64(
  case: Case, scaling: Scaling, operands: Sequence[Array], got: Array
) -> float:
  """Returns the relative error of a few maps against float64 on the host."""
  wanted, found = [], []
  for image, channel in ((0, 0), (len(got) - 1, case.channels - 1)):
    maps = [np.asarray(x[image, :, :, channel], np.float64) for x in operands]
    for i, factors in enumerate(scaling.operands[: len(maps)]):
      if factors is not None:
        maps[i] = maps[i] * float(factors[image, channel])
    maps[0] = maps[0] + float(scaling.bias[channel])
    result = exact(case.chain, *maps)
    if scaling.result is not None:
      result = result * float(scaling.result[image, channel])
    wanted.append(result)
    found.append(np.asarray(got[image, :, :, channel], np.float64))
  error = np.linalg.norm(np.stack(found) - np.stack(wanted))
  return float(error / np.linalg.norm(wanted))


def exact(chain: Chain, *maps: np.ndarray) -> np.ndarray:
  """Returns a chain's result on single maps [h, w], in float64."""

  def apply(terms: Terms, x: np.ndarray) -> np.ndarray:
    parts = [ph.matrix @ x @ pw.matrix.T for ph, pw in terms]
    return np.sum(parts, axis=0)

  y, *others = (apply(t, x) for t, x in zip(chain.expand, maps, strict=True))
  gain, slope = chain.activation.gain, chain.activation.slope
  slopes = np.where(y >= 0, gain, gain * slope)
  bound = chain.activation.clamp or math.inf
  if others:
    middle = others[0] * slopes * (np.abs(y * slopes) < bound)
  else:
    middle = np.clip(y * slopes, -bound, bound)
  return apply(chain.contract, middle)
