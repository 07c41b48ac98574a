"""Every real layer's kernel compiles for an H100 without spilling registers.

No GPU is needed, but the packages of the CUDA compiler are. `-s` shows a table.
"""

import dataclasses
import itertools
from typing import Any

import aot_gpu
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.nets import spec
from sg3jax.ops import filters
from sg3jax.ops.filtered_lrelu import make_plan
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch
from sg3jax.ops.filtered_lrelu.gpu.geometry import RESIDENT, simplify
from sg3jax.ops.filtered_lrelu.gpu.tiling import Tile
from sg3jax.ops.filtered_lrelu.scaling import NONE

MISSING = aot_gpu.missing()
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]

IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Case:
  """A kernel to compile, and the layers that it stands for."""

  chain: plan_lib.Chain
  shapes: tuple[tuple[int, ...], ...]
  dtype: str
  is_scaled: bool = False
  names: list[str] = dataclasses.field(default_factory=list)

  @property
  def operands(self):
    return [jax.ShapeDtypeStruct(s, self.dtype) for s in self.shapes]

  def structure(self):
    """Returns what the code depends on beside numbers: taps and extents."""
    chain = simplify(self.chain)
    scaling = NONE
    if self.is_scaled:
      scaling = aot_gpu.layer_scaling(self.operands)
    tile = gpu_launch.choose_tile(chain, *self.operands, scaling=scaling)
    assert tile is not None
    geometry = gpu_launch.geometry_of(
      chain, tile, *self.operands, scaling=scaling
    )
    streams = [
      (
        stream.columns,
        [[[i for i, _ in t] for t in terms] for terms in stream.row_taps],
      )
      for stream in geometry.streams
    ]
    contract = [[tap != 0 for tap in taps] for taps in geometry.row_taps]
    return repr((self.dtype, tile.width, tile.reads, streams, contract))


def make_case(
  name,
  shape,
  fu,
  fd,
  up,
  down,
  padding,
  direction,
  dtype,
  c=64,
  is_scaled=False,
):
  plan = make_plan(
    shape,
    jnp.dtype(dtype),
    fu,
    fd,
    up=up,
    down=down,
    padding=padding,
    clamp=256.0,
  )
  chain = getattr(plan, direction)
  shapes = tuple((IMAGES, *size, c) for size in chain.in_sizes)
  return Case(chain, shapes, dtype, is_scaled, [f'{name}-{direction}'])


def real_layers(directions, dtype, resolutions):
  """Returns the cases of the layers that differ in more than numbers."""
  cases: dict[Any, Case] = {}
  for config, resolution in itertools.product('tr', resolutions):
    design = getattr(spec, f'stylegan3_{config}')(resolution)
    for layer in design.layers[:-1]:  # ToRGB is pointwise.
      size = layer.padded_size
      for direction in directions:
        case = make_case(
          f'{config}{resolution}-{layer.name}',
          (size, size),
          layer.up_filter(),
          layer.down_filter(),
          layer.up_factor,
          layer.down_factor,
          layer.padding,
          direction,
          dtype,
          layer.out_channels,
          is_scaled=True,  # As generators call it.
        )
        first = cases.setdefault(case.structure(), case)
        if first is not case:
          first.names.extend(case.names)
  return list(cases.values())


def all_rates(directions):
  """Returns cases of each pair of rates, with 6 taps a factor."""

  def lowpass(factor):
    if factor == 1:
      return None
    return filters.kaiser_lowpass(
      6 * factor, cutoff=0.4, half_width=0.4, sampling_rate=2.0 * factor
    )

  return [
    make_case(
      f'up{up}down{down}',
      (40, 48),
      lowpass(up),
      lowpass(down) if up * down > 1 else np.full(5, 0.2),
      up,
      down,
      ((6 * up, 6 * up), (5 * up, 6 * up)),
      direction,
      'float16',
      c=8,
    )
    for up, down in itertools.product((1, 2, 4), (1, 2, 4))
    for direction in directions
  ]


def cases():
  if MISSING is not None:
    return []
  return [
    *real_layers(('forward', 'backward'), 'float16', (256, 1024)),
    *real_layers(('forward', 'backward', 'tangent'), 'bfloat16', (256,)),
    *all_rates(('forward', 'backward')),
  ]


@pytest.mark.parametrize(
  'case', cases(), ids=lambda c: f'{c.names[0]}-{c.dtype}'
)
def test_compiles_without_spills(case):
  facts = aot_gpu.compile_facts(
    case.chain, case.shapes, case.dtype, is_scaled=case.is_scaled
  )
  chain = simplify(case.chain)
  width, rows, reads = facts['tile']
  terms = '+'.join(str(len(terms)) for terms in chain.expand)
  print(
    f'\n{case.names[0]:18} {len(case.names):2} alike, {case.dtype:8} '
    f'terms {terms}/{len(chain.contract)} T {width:2} rows {rows:3} '
    f'{reads!s:6} '
    f'registers {facts["registers"]} (est. {facts["estimated_registers"]}) '
    f'spills {facts["spill_bytes"]} '
    f'shared {facts["shared_bytes"] / 1024:.0f} KiB '
    f'instructions {facts["instructions"]} '
    f'(est. {facts["estimated_instructions"]}), '
    f'{facts["instructions_per_output"] or 0:.0f} an output, '
    f'{facts["seconds"]:.1f} s',
    end='',
  )
  assert facts['spill_bytes'] == 0
  assert not facts['is_serialized']
  # Two blocks share a multiprocessor; each reserves 1 KiB.
  assert 2 * (facts['shared_bytes'] + 1024) <= 228 * 1024


def test_a_spill_is_seen():
  layer = spec.stylegan3_t(256).layers[3]
  case = make_case(
    layer.name,
    (38, 38),
    layer.up_filter(),
    layer.down_filter(),
    4,
    2,
    layer.padding,
    'backward',
    'float16',
  )
  # Wider than what the kernel would choose.
  tile = Tile(32, 24, (RESIDENT,) * 2)
  facts = aot_gpu.compile_facts(case.chain, case.shapes, case.dtype, tile)
  assert facts['spill_bytes'] > 1000


def test_the_compiler_is_for_another_device_than_this_one():
  assert jax.default_backend() == 'cpu'
  assert 'H100' in aot_gpu.h100_mesh().devices.flat[0].device_kind
