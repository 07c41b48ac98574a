"""The implementations of `filtered_lrelu`, and the choice among them.

A caller names one or gets the best that is available: the kernel of the
platform if it supports the chain and, on GPUs, if `measured` reports that it is
faster; otherwise `banded`. The choice is logged once per shape.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging

from sg3jax.ops.filtered_lrelu import (
  banded,
  measured,
  partition,
  platform,
  reference,
  vjp,
)
from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch
from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.ops.filtered_lrelu.tpu import launch as tpu_launch
from sg3jax.ops.filtered_lrelu.tpu import tiling as tpu_tiling
from sg3jax.types import Array

# For each kernel, its platform and the module with its `unsupported` and `run`.
KERNELS: dict[str, tuple[str, Any]] = {
  'pallas_tpu': ('tpu', tpu_launch),
  'pallas_gpu': ('cuda', gpu_launch),
}


def implementations() -> tuple[str, ...]:
  """Returns the names that `filtered_lrelu` accepts as `implementation`."""
  return tuple(IMPLEMENTATIONS)


def implementation_of(name: str | None) -> Callable[..., Array]:
  """Returns the operator with a name; the best one if the name is None.

  Raises:
    ValueError: If the name is unknown.
  """
  if name is None:
    return _default
  if name not in IMPLEMENTATIONS:
    raise ValueError(
      'filtered_lrelu: implementation must be one of '
      f'{", ".join(map(repr, IMPLEMENTATIONS))}, got {name!r}.'
    )
  return IMPLEMENTATIONS[name]


def default_implementation(platform_name: str) -> str:
  """Returns the implementation that `None` selects on a platform.

  On GPUs, 'pallas' selects the kernel where `measured` reports that it is
  faster; on TPUs, unless it reports that compilers estimate it to be slower.

  Args:
    platform_name: Name of the platform in JAX: cpu, gpu (or cuda), tpu.
  """
  if platform_name in ('gpu', 'cuda') and measured.is_proven('pallas_gpu'):
    return 'pallas'
  return 'pallas' if platform_name == 'tpu' else 'banded'


def _kernel_refusal(
  name: str, chain: Chain, *operands: Any, scaling: Scaling
) -> str | None:
  """Returns why a kernel cannot compute a chain here, or None if it can."""
  platform_name, module = KERNELS[name]
  actual, kind = platform.target()
  if actual != platform_name and not platform.interpret():
    return f'the platform must be {platform_name}, got {actual}'
  reason = module.unsupported(chain, *operands, scaling=scaling, kind=kind)
  return reason or partition.obstacle()


def _run_kernel(
  name: str, chain: Chain, *operands: Array, scaling: Scaling = NONE
) -> Array:
  if chain.is_pointwise:  # XLA fuses it with its neighbours: nothing to gain.
    return banded.run(chain, *operands, scaling=scaling)
  if reason := _kernel_refusal(name, chain, *operands, scaling=scaling):
    raise NotImplementedError(f'filtered_lrelu: {name}: {reason}.')
  _, kind = platform.target()
  run = functools.partial(
    KERNELS[name][1].run, interpret=platform.interpret(), kind=kind
  )
  return partition.over_batch(run)(chain, *operands, scaling=scaling)


def _run_pallas(
  chain: Chain, *operands: Array, scaling: Scaling = NONE
) -> Array:
  """Computes a chain by the target's kernel if possible, else by `banded`."""
  platform_name, kind = platform.target()
  name = _kernel_of(platform_name)
  if name is None:
    return _run_banded(chain, *operands, scaling=scaling)
  reason = _kernel_refusal(name, chain, *operands, scaling=scaling)
  if chain.is_pointwise:
    reason = 'without filters XLA fuses it'
  if reason:
    return _run_banded(
      chain, *operands, scaling=scaling, note=f' ({name}: {reason})'
    )
  _announce(chain, operands, name)

  def run(chain: Chain, *parts: Array, scaling: Scaling) -> Array:
    # The parts of a program that run on the host of an accelerator use
    # `banded`.
    kernel = functools.partial(KERNELS[name][1].run, kind=kind)
    branches = {'default': banded.run, platform_name: kernel}
    return jax.lax.platform_dependent(
      scaling,
      *parts,
      **{
        key: lambda scaling, *parts, call=call: call(
          chain, *parts, scaling=scaling
        )
        for key, call in branches.items()
      },
    )

  return partition.over_batch(run)(chain, *operands, scaling=scaling)


def _run_banded(
  chain: Chain, *operands: Array, scaling: Scaling = NONE, note: str = ''
) -> Array:
  _announce(chain, operands, 'banded' + note)
  return banded.run(chain, *operands, scaling=scaling)


def _run_default(
  chain: Chain, *operands: Array, scaling: Scaling = NONE
) -> Array:
  platform_name, kind = platform.target()
  if platform_name == 'tpu':
    generation = tpu_tiling.generation_of(kind)
    ratio = measured.estimated_times_faster(generation, chain)
    if ratio is None or ratio > 1:  # Where nothing is known, the kernel.
      return _run_pallas(chain, *operands, scaling=scaling)
    note = (
      f' (pallas_tpu: {measured.kind_of(chain)} is {ratio:.2f} times as fast, '
      f'by the estimate of the compiler for {generation})'
    )
    return _run_banded(chain, *operands, scaling=scaling, note=note)
  if platform_name != 'cuda':
    return _run_banded(chain, *operands, scaling=scaling)
  ratio = measured.times_faster('pallas_gpu', chain)
  if ratio is not None and ratio > 1:
    return _run_pallas(chain, *operands, scaling=scaling)
  speed = 'not measured' if ratio is None else f'{ratio:.2f} times as fast'
  note = f' (pallas_gpu: {measured.kind_of(chain)} is {speed})'
  return _run_banded(chain, *operands, scaling=scaling, note=note)


def _kernel_of(platform_name: str) -> str | None:
  names = (name for name, (p, _) in KERNELS.items() if p == platform_name)
  return next(names, None)


def _announce(chain: Chain, operands: Sequence[Array], choice: str) -> None:
  x = operands[-1]
  direction = 'forward' if len(operands) == 1 else 'derivative'
  _say_once(
    f'{direction} {list(x.shape)} {x.dtype} to {list(chain.out_size)} on '
    f'{platform.target()[0]}: {choice}'
  )


@functools.cache
def _say_once(message: str) -> None:
  logging.info('filtered_lrelu %s', message)


# Each function takes (plan, x, input scale, bias, output scale) and is
# differentiable to any order. For a call that it does not support it raises
# NotImplementedError with the reason.
IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
  'banded': banded.filtered_lrelu,
  'reference': reference.filtered_lrelu,
  'pallas': vjp.differentiable(_run_pallas),
  **{
    name: vjp.differentiable(functools.partial(_run_kernel, name))
    for name in KERNELS
  },
}

_default = vjp.differentiable(_run_default)
