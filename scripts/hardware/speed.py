"""Measures the speed of the forms of `filtered_lrelu` on a device."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware import cases as cases_lib
from hardware import stages, timing
from hardware.cases import Case

# Bytes of operands that exceed every cache.
_CACHED = 256 << 20


def bench_tasks(
  selected: Sequence[Case], batch: int, dtype: str, bandwidth: float
) -> list[stages.Task]:
  """Returns tasks for the kernel, `banded` and depthwise convolutions.

  The kernel and `banded` alternate, so that the rows measured when the time is
  up can be compared. The depthwise form, forward and backward, comes last.

  Args:
    selected: The cases.
    batch: Number of images per call.
    dtype: Dtype of the operands.
    bandwidth: Bytes per second of the device, which determine the floor.
  """
  pairs = [(case, form) for case in selected for form in ('kernel', 'banded')]
  pairs += [
    (case, 'depthwise') for case in selected if case.direction != 'tangent'
  ]
  return [
    stages.Task(
      case.columns | {'dtype': dtype, 'implementation': form},
      functools.partial(_prepare_bench, case, dtype, batch, bandwidth, form),
    )
    for case, form in pairs
  ]


def _prepare_bench(
  case: Case, dtype: str, batch: int, bandwidth: float, name: str
) -> stages.Measure:
  call = {
    'kernel': functools.partial(cases_lib.run_kernel, case.chain),
    'banded': functools.partial(cases_lib.run_banded, case.chain),
    'depthwise': functools.partial(cases_lib.run_depthwise, case.plan),
  }[name]
  structures = case.structures(batch, dtype)
  with cases_lib.interpreting():
    compiled = jax.jit(call).lower(structures[0], *structures[1]).compile()

  def measure() -> Mapping[str, Any]:
    size = case.chain.samples * batch * case.channels
    size *= jnp.dtype(dtype).itemsize
    sets = min(8, -(-_CACHED // size))
    arguments = [_random(case, structures, seed) for seed in range(sets)]
    ms, spread = timing.milliseconds(compiled, arguments)
    floor = 1e3 * size / bandwidth
    analysis = compiled.memory_analysis()
    assert analysis is not None
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
  """Returns lines with the geometric mean of the kernel's speed-ups."""

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
