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
  selected: Sequence[Case],
  forms: Sequence[str],
  batch: int,
  dtype: str,
  bandwidth: float,
) -> list[stages.Task]:
  """Returns a task for each case and form.

  The forms alternate, so that the rows measured when the time is up can be
  compared.

  Args:
    selected: The cases.
    forms: Forms to time: 'kernel', 'banded' and 'depthwise'. Depthwise
      convolutions have no tangent.
    batch: Number of images per call.
    dtype: Dtype of the operands.
    bandwidth: Bytes per second of the device, which determine the floor.
  """
  return [
    stages.Task(
      case.columns | {'dtype': dtype, 'implementation': form},
      functools.partial(_prepare_bench, case, dtype, batch, bandwidth, form),
    )
    for case in selected
    for form in forms
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
  """Returns a line with the geometric mean of the kernel's speedups."""

  def times(form: str) -> dict[tuple[Any, ...], float]:
    return {
      tuple(row[k] for k in ('design', 'layer', 'direction', 'dtype')): row[
        'ms'
      ]
      for row in rows
      if row['implementation'] == form and 'ms' in row
    }

  kernel, banded = times('kernel'), times('banded')
  ratios = [banded[k] / ms for k, ms in kernel.items() if k in banded]
  if not ratios:
    return []
  return [
    f'The kernel is {np.exp(np.mean(np.log(ratios))):.2f} times faster than '
    f'banded in the geometric mean of {len(ratios)} cases, at least '
    f'{min(ratios):.2f} and at most {max(ratios):.2f} times.'
  ]
