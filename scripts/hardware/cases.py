"""Defines cases of `filtered_lrelu`: layers of the published designs.

There is a case for every distinct layer in each direction that a training step
computes: forward, backward, and the tangent of second derivatives.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import aot_gpu
import jax
import layer_shapes

from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import (
  banded,
  dispatch,
  interpreted,
  measured,
  platform,
  reference,
)
from sg3jax.ops.filtered_lrelu.plan import Chain, Plan
from sg3jax.ops.filtered_lrelu.scaling import Scaling
from sg3jax.types import Array

DESIGNS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}
DIRECTIONS = ('forward', 'backward', 'tangent')


@dataclasses.dataclass(frozen=True)
class Case:
  """One layer of a design in one direction.

  Attributes:
    design: Design and resolution, such as 't-256'.
    layer: Name of the layer, L0 to L13.
    plan: The operator's plan.
    direction: One of `DIRECTIONS`.
    channels: Number of channels.
  """

  design: str
  layer: str
  plan: Plan
  direction: str
  channels: int

  @property
  def chain(self) -> Chain:
    """The chain that a kernel computes."""
    return getattr(self.plan, self.direction)

  @property
  def columns(self) -> dict[str, Any]:
    """The cells of the case's row in a table."""
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
    """Returns the shapes of the scaling and the operands in a generator.

    See `aot_gpu.layer_scaling`.
    """
    operands = [jax.ShapeDtypeStruct(s, dtype) for s in self.shapes(batch)]
    return aot_gpu.layer_scaling(operands), operands


def cases(
  design: str,
  resolution: int,
  directions: Sequence[str] = DIRECTIONS,
  **options: Any,
) -> list[Case]:
  """Returns the distinct layers of a design in each direction.

  Args:
    design: One of `DESIGNS`.
    resolution: Width and height of the images in pixels.
    directions: Members of `DIRECTIONS`.
    **options: Options of the design, such as `channel_base`.
  """
  spec = DESIGNS[design](resolution, **options)
  return [
    Case(f'{design}-{resolution}', layer.name, plan, d, layer.out_channels)
    for layer, plan in layer_shapes.distinct_layers(spec, 'float16')
    for d in directions
  ]


def kernel_name() -> str:
  """Returns the name of the device's kernel; on a CPU, one to interpret.

  Raises:
    ValueError: If there is no kernel for the device.
  """
  target, _ = platform.target()
  for name, (platform_name, _) in dispatch.KERNELS.items():
    if platform_name == target:
      return name
  if target == 'cpu':
    return 'pallas_tpu'
  raise ValueError(f'there is no kernel for {target}')


def dtypes(case: Case) -> list[str]:
  """Returns the dtypes in which the device's kernel supports a case."""
  _, module = dispatch.KERNELS[kernel_name()]
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
  """Returns the result of a chain, computed by the device's kernel."""
  target, kind = platform.target()
  return dispatch.KERNELS[kernel_name()][1].run(
    chain, *operands, scaling=scaling, kind=kind, interpret=target == 'cpu'
  )


def run_banded(chain: Chain, scaling: Scaling, *operands: Array) -> Array:
  """Returns the result of a chain, computed by `banded`."""
  return banded.run(chain, *operands, scaling=scaling)


def run_depthwise(plan: Plan, scaling: Scaling, *operands: Array) -> Array:
  """Returns the forward or backward result of depthwise convolutions."""
  (s, g_scale), bias, result = scaling
  if len(operands) == 1:
    return reference.filtered_lrelu(plan, operands[0], s, bias, result)
  x, g = operands
  _, pull = jax.vjp(
    lambda x: reference.filtered_lrelu(plan, x, s, bias, g_scale), x
  )
  return pull(g)[0]


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
  """Allows kernels to be interpreted if the platform is a CPU."""
  if platform.target()[0] != 'cpu':
    yield
    return
  with interpreted():
    yield
