"""Whether the kernels of `filtered_lrelu` are right on a device, and how fast.

Every distinct layer of the published designs in each direction that a training
step computes: forward, backward, and the tangent of second derivatives.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware import stages, timing
from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import (
  api,
  banded,
  interpreted,
  make_plan,
  measured,
  platform,
  reference,
)
from sg3jax.ops.filtered_lrelu.plan import Chain, Plan, Terms
from sg3jax.ops.filtered_lrelu.scaling import Scaling
from sg3jax.types import Array

DESIGNS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}
DIRECTIONS = ('forward', 'backward', 'tangent')
CLAMP = 256.0

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

# Bytes of operands that no cache holds.
_CACHED = 256 << 20

_FRESH = 3  # Number of fresh inputs, to find races.


@dataclasses.dataclass(frozen=True)
class Case:
  """One layer of a design in one direction.

  Attributes:
    design: Design and resolution, such as 't-256'.
    layer: Its name, L0 to L13.
    plan: The operator.
    direction: One of `DIRECTIONS`.
    channels: Channels.
  """

  design: str
  layer: str
  plan: Plan
  direction: str
  channels: int

  @property
  def chain(self) -> Chain:
    """What a kernel computes."""
    return getattr(self.plan, self.direction)

  @property
  def columns(self) -> dict[str, Any]:
    """What a table says of the case."""
    size = self.chain.in_sizes[0][0]
    return {
      'design': self.design,
      'layer': self.layer,
      'input': f'{size}x{size}x{self.channels}',
      'up': self.plan.up,
      'terms': len(self.plan.contract),
      'direction': self.direction,
      'kind': measured.kind_of(self.chain),
    }

  def shapes(self, batch: int) -> list[tuple[int, ...]]:
    """Returns the shapes of the operands."""
    return [(batch, *size, self.channels) for size in self.chain.in_sizes]

  def structures(self, batch: int, dtype: str) -> tuple[Scaling, list[Any]]:
    """Returns the scaling of a generator's layer and the operands, as shapes.

    Forward, these are the demodulation, the bias and the next layer's style; in
    derivatives the latter two belong to one operand each.
    """
    factors = jax.ShapeDtypeStruct((batch, self.channels), jnp.float32)
    bias = jax.ShapeDtypeStruct((self.channels,), jnp.float32)
    operands = [jax.ShapeDtypeStruct(s, dtype) for s in self.shapes(batch)]
    if len(operands) == 1:
      return Scaling((factors, None), bias, factors), operands
    return Scaling((factors, factors), bias), operands


def cases(
  design: str,
  resolution: int,
  directions: Sequence[str] = DIRECTIONS,
  **options: Any,
) -> list[Case]:
  """Returns the distinct layers of a design in each direction.

  Args:
    design: Of `DESIGNS`.
    resolution: Image size a side.
    directions: Of `DIRECTIONS`.
    **options: Of the design, such as `channel_base`.
  """
  kinds: dict[tuple[Any, ...], list[Case]] = {}
  for layer in DESIGNS[design](resolution, **options).layers:
    if layer.is_torgb:
      continue
    size = (layer.padded_size, layer.padded_size)
    plan = make_plan(size, jnp.float16, **layer.nonlinearity(), clamp=CLAMP)
    kind = (
      size, layer.out_channels, layer.up_factor, layer.padding,
      len(plan.contract),
    )  # fmt: skip
    kinds.setdefault(
      kind,
      [
        Case(f'{design}-{resolution}', layer.name, plan, d, layer.out_channels)
        for d in directions
      ],
    )
  return [case for cases in kinds.values() for case in cases]


def kernel_name() -> str:
  """Returns the name of the device's kernel; without one, an interpreted one.

  Raises:
    ValueError: If there is none for the device.
  """
  target, _ = platform.target()
  for name, (platform_name, _) in api.KERNELS.items():
    if platform_name == target:
      return name
  if target == 'cpu':
    return 'pallas_tpu'
  raise ValueError(f'there is no kernel for {target}')


def dtypes(case: Case) -> list[str]:
  """Returns the types in which the device's kernel serves a case."""
  _, module = api.KERNELS[kernel_name()]
  found = []
  for dtype in ('bfloat16', 'float16', 'float32'):
    scaling, operands = case.structures(1, dtype)
    _, kind = platform.target()
    if not module.unsupported(
      case.chain, *operands, scaling=scaling, kind=kind
    ):
      found.append(dtype)
  return found


def run_kernel(chain: Chain, scaling: Scaling, *operands: Array) -> Array:
  """Returns a chain's result by the device's kernel."""
  target, kind = platform.target()
  return api.KERNELS[kernel_name()][1].run(
    chain, *operands, scaling=scaling, kind=kind, interpret=target == 'cpu'
  )


def run_banded(chain: Chain, scaling: Scaling, *operands: Array) -> Array:
  """Returns a chain's result by `banded`."""
  return banded.run(chain, *operands, scaling=scaling)


def run_depthwise(plan: Plan, scaling: Scaling, *operands: Array) -> Array:
  """Returns the forward or backward result by depthwise convolutions."""
  (s, g_scale), bias, result = scaling
  if len(operands) == 1:
    return reference.filtered_lrelu(plan, operands[0], s, bias, result)
  x, g = operands
  _, pull = jax.vjp(
    lambda x: reference.filtered_lrelu(plan, x, s, bias, g_scale), x
  )
  return pull(g)[0]


# Correctness.


def check_tasks(selected: Sequence[Case], batch: int) -> list[stages.Task]:
  """Returns a task for each case and type."""
  return [
    stages.Task(
      case.columns | {'dtype': dtype},
      functools.partial(_prepare_check, case, dtype, batch),
    )
    for dtype in ('bfloat16', 'float16', 'float32')
    for case in selected
    if dtype in dtypes(case)
  ]


def _prepare_check(case: Case, dtype: str, batch: int) -> stages.Measure:
  scaling, operands = case.structures(batch, dtype)
  shape = (batch, *case.chain.out_size, case.channels)
  result = jax.ShapeDtypeStruct(shape, dtype)
  with _interpreting():
    # The result takes the memory of the first argument, full of NaN: what the
    # kernel leaves out stays NaN. (Channels that are no multiple of 8 are
    # copied out of an array of its own, which is not.)
    kernel = jax.jit(
      lambda poison, scaling, *x: run_kernel(case.chain, scaling, *x),
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
    return _errors(first, second, run_banded(case.chain, scaling, *operands))

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
    return sum(ph.matrix @ x @ pw.matrix.T for ph, pw in terms)

  y, *others = (apply(t, x) for t, x in zip(chain.expand, maps, strict=True))
  gain, slope = chain.activation.gain, chain.activation.slope
  slopes = np.where(y >= 0, gain, gain * slope)
  bound = chain.activation.clamp or math.inf
  if others:
    middle = others[0] * slopes * (np.abs(y * slopes) < bound)
  else:
    middle = np.clip(y * slopes, -bound, bound)
  return apply(chain.contract, middle)


@contextlib.contextmanager
def _interpreting() -> Iterator[None]:
  """Lets a kernel be interpreted where there is no device for one."""
  if platform.target()[0] != 'cpu':
    yield
    return
  with interpreted():
    yield


# Speed.


def bench_tasks(
  selected: Sequence[Case],
  batch: int,
  dtype: str,
  bandwidth: float,
  *,
  implementations: Sequence[str] = ('kernel', 'banded', 'depthwise'),
) -> list[stages.Task]:
  """Returns a task for each case and implementation.

  Args:
    selected: The cases; depthwise convolutions have no tangent.
    batch: Images a call.
    dtype: Of the operands.
    bandwidth: Bytes a second of the device, which the floor is made of.
    implementations: Of kernel, banded and depthwise.
  """
  return [
    stages.Task(
      case.columns | {'dtype': dtype, 'implementation': name},
      functools.partial(_prepare_bench, case, dtype, batch, bandwidth, name),
    )
    for name in implementations
    for case in selected
    if name != 'depthwise' or case.direction != 'tangent'
  ]


def _prepare_bench(
  case: Case, dtype: str, batch: int, bandwidth: float, name: str
) -> stages.Measure:
  call = {
    'kernel': functools.partial(run_kernel, case.chain),
    'banded': functools.partial(run_banded, case.chain),
    'depthwise': functools.partial(run_depthwise, case.plan),
  }[name]
  structures = case.structures(batch, dtype)
  with _interpreting():
    compiled = jax.jit(call).lower(structures[0], *structures[1]).compile()

  def measure() -> Mapping[str, Any]:
    size = case.chain.samples * batch * case.channels
    size *= jnp.dtype(dtype).itemsize
    sets = min(8, -(-_CACHED // size))
    arguments = [_random(case, structures, seed) for seed in range(sets)]
    ms, spread = timing.milliseconds(compiled, arguments)
    floor = 1e3 * size / bandwidth
    analysis = compiled.memory_analysis()
    return {
      'ms': ms,
      'spread': spread,
      'floor ms': floor,
      'of floor': floor / ms,
      'temporary MiB': analysis.temp_size_in_bytes / 2**20,
    }

  return measure


def _random(case: Case, structures: Any, seed: int) -> tuple[Any, ...]:
  scaling, operands = structures
  leaves, treedef = jax.tree.flatten((scaling, *operands))
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    treedef,
    [
      jax.random.normal(key, x.shape, x.dtype)
      for key, x in zip(keys, leaves, strict=True)
    ],
  )


def summarize_bench(rows: Sequence[stages.Row]) -> list[str]:
  """Returns how many times faster the kernel is, as geometric means."""

  def key(row: stages.Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ('design', 'layer', 'direction', 'dtype'))

  times = {
    name: {
      key(row): row['ms']
      for row in rows
      if row['implementation'] == name and 'ms' in row
    }
    for name in ('kernel', 'banded', 'depthwise')
  }
  lines = []
  for name in ('banded', 'depthwise'):
    ratios = [
      ms / times['kernel'][k]
      for k, ms in times[name].items()
      if k in times['kernel']
    ]
    if ratios:
      lines.append(
        f'The kernel is {np.exp(np.mean(np.log(ratios))):.2f} times faster '
        f'than {name} in the geometric mean of {len(ratios)} cases, at least '
        f'{min(ratios):.2f} and at most {max(ratios):.2f} times.'
      )
  return lines
