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

# Maximum relative error (L2) against float32, by dtype and direction. Rounding
# the result alone causes an error of 3e-4 in float16 and 2.3e-3 in bfloat16
# (uniform within half a unit in the last place, for values that spread over an
# octave). In derivatives, a middle sample within rounding of zero may have the
# wrong sign: among unit normal samples rounded to 5e-4 this is a fraction of
# 4e-4, each of which changes by 0.8 of its size, or 2 % in the norm at most.
_TOLERANCES = {
  ('float16', 'forward'): 1e-3,
  ('float16', 'derivative'): 2e-2,
  ('bfloat16', 'forward'): 5e-3,
  ('bfloat16', 'derivative'): 2e-2,
  ('float32', 'forward'): 1e-5,
  ('float32', 'derivative'): 2e-3,
}
# Factor by which the error of a single row, column, channel or image may exceed
# the tolerance.
_LOCAL = 4.0

_FRESH = 3  # Number of different random inputs, to find races.


def check_tasks(selected: Sequence[Case], batch: int) -> list[stages.Task]:
  """Returns a task for each case and supported dtype.

  In each dtype, one case of each kind comes first, since a kernel is used by
  default for the kinds that were checked.
  """
  kinds: set[str] = set()
  first, others = [], []
  for case in selected:
    kind = case.columns['kind']
    (others if kind in kinds else first).append(case)
    kinds.add(kind)
  return [
    stages.Task(
      case.columns | {'dtype': dtype},
      functools.partial(_prepare_check, case, dtype, batch),
    )
    for dtype in ('bfloat16', 'float16', 'float32')
    for case in (*first, *others)
    if dtype in cases_lib.dtypes(case)
  ]


def _prepare_check(case: Case, dtype: str, batch: int) -> stages.Measure:
  scaling, operands = case.structures(batch, dtype)
  shape = (batch, *case.chain.out_size, case.channels)
  result = jax.ShapeDtypeStruct(shape, dtype)
  with cases_lib.interpreting():
    # The result reuses the memory of the first argument, which is full of NaN,
    # so that values that the kernel does not write stay NaN. This fails if the
    # number of channels is not a multiple of 8: the kernel then writes to a
    # padded array, which is copied.
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
  """Returns a function (result, result, scaling, *operands) -> `_errors`.

  All arrays are float32, so that one program serves all dtypes.
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
  """A kind of inputs: modifications of random operands.

  Attributes:
    factor: Factor of the first operand.
    gradient_factor: Factor of the second operand.
    is_negative: Whether the first operand is made negative.
    is_frame: Whether all but the two pixels at each border are set to zero.
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
      continue  # float16 cannot represent numbers this small.
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
    # `not <=` also catches NaN.
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
  """Returns random scaling and operands, and two arrays of NaN for results."""
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
  """Compares a result, computed twice, with the expected result.

  Returns:
    The relative error (L2); the largest relative error of an image, row, column
    or channel; and whether the two results are the same. The second is relative
    to the mean of all if that is larger, so that parts that are small by chance
    do not count.
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
  """Returns the relative error, or the absolute error if the scale is 0."""
  return error / jnp.where(scale > 0, scale, 1)


def _against_float64(
  case: Case, scaling: Scaling, operands: Sequence[Array], got: Array
) -> float:
  """Returns the relative error of two maps against float64 on the host."""
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
  """Returns the result of a chain on single maps [h, w], in float64."""

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
