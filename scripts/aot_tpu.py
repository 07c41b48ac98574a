"""Compiles the Pallas kernel for TPUs that are not there, and describes it.

Needs the TPU compiler, which `pip install 'jax[tpu]'` brings. It writes the
static schedule of a kernel as text, one line for each bundle of instructions
that are issued together: the sum over the kernel's loops of bundles times trips
is what a grid step takes at best, in clock cycles.
"""

import atexit
import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.ops.filtered_lrelu.tpu import kernel as tpu_kernel
from sg3jax.ops.filtered_lrelu.tpu import launch as tpu_launch
from sg3jax.ops.filtered_lrelu.tpu import tiling as tpu_tiling

_TOPOLOGIES = {
  'v4': 'v4:2x2x1',
  'v5e': 'v5e:1x1',
  'v5p': 'v5p:2x2x1',
  'v6e': 'v6e:1x1',
  'tpu7x': 'tpu7x:2x2x1',
}
_ENVIRONMENT = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # Several processes may compile.
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',  # These two keep it from asking
  'TPU_WORKER_HOSTNAMES': 'localhost',  # around for a machine with TPUs.
}
_LINE = re.compile(r'^\s*(?:0x[0-9a-f]+|\d+)\s+(LB|LH|LE|PB|PF|CT)?\s*:\s*(>*)')


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts of a compiled kernel.

  Attributes:
    generation: The TPU that it was compiled for.
    tile: Rows and columns of the result in a grid step.
    grid: Grid steps.
    bundles: Of each of the kernel's loops, in its order.
    trips: How often each of them runs in a grid step.
    seconds: What compiling took.
    temp_bytes: Memory of the device beside operands and result.
  """

  generation: str
  tile: tuple[int, int]
  grid: int
  bundles: tuple[int, ...]
  trips: tuple[int, ...]
  seconds: float
  temp_bytes: int

  @property
  def bundles_per_step(self) -> int:
    """The least number of cycles that a grid step takes."""
    return sum(b * t for b, t in zip(self.bundles, self.trips, strict=True))


def missing() -> str | None:
  """Returns what keeps `compile_facts` from working, or None."""
  if importlib.util.find_spec('libtpu') is None:
    return "the TPU compiler is not installed: pip install 'jax[tpu]'"
  return None


def devices(generation: str) -> Sequence[Any]:
  """Returns the devices of a small slice that need not exist.

  Raises:
    RuntimeError: The compiler is not installed.
  """
  if reason := missing():
    raise RuntimeError(reason)
  _dump_folder()
  options = {}
  if _TOPOLOGIES[generation].endswith(':1x1'):
    options['chips_per_host_bounds'] = (1, 1, 1)
  return topologies.get_topology_desc(
    platform='tpu', topology_name=_TOPOLOGIES[generation], **options
  ).devices


def compile_facts(
  chain: Chain, n: int, c: int, dtype: jnp.dtype, generation: str
) -> Facts:
  """Compiles a chain for one core and reads what came out.

  Args:
    chain: What to compute.
    n: Samples.
    c: Channels.
    dtype: Of the operands.
    generation: A key of `tpu.tiling.GENERATIONS`.

  Raises:
    RuntimeError: The compiler is not installed, or it wrote no schedule.
    NotImplementedError: The kernel cannot serve the chain.
  """
  device = devices(generation)[0]
  sharding = SingleDeviceSharding(device)
  operands = [
    jax.ShapeDtypeStruct((n, *size, c), dtype, sharding=sharding)
    for size in chain.in_sizes
  ]
  if reason := tpu_launch.unsupported(chain, *operands, kind=generation):
    raise NotImplementedError(reason)
  tiling = tpu_launch.tiling(chain, operands[0], generation)
  assert tiling is not None
  remove_dumps()
  start = time.perf_counter()
  mesh = Mesh(np.array([device]), ('one',))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    run = functools.partial(tpu_launch.run, chain, kind=generation)
    compiled = jax.jit(run).trace(*operands).lower(
      lowering_platforms=('tpu',)
    ).compile()  # fmt: skip
  seconds = time.perf_counter() - start
  trips = tpu_kernel.loop_trips(tiling)
  bundles = _matrix_loops()
  remove_dumps()
  if len(bundles) != len(trips):
    raise RuntimeError(
      f'{len(trips)} loops were expected in the schedule, found {bundles}'
    )
  memory = compiled.memory_analysis()
  assert memory is not None
  lanes = c * (n if tiling.pack else 1)
  blocks = (1 if tiling.pack else n) * -(-lanes // tpu_tiling.LANES)
  return Facts(
    generation,
    (tiling.h.tile, tiling.w.tile),
    blocks * tiling.h.tiles * tiling.w.tiles,
    bundles,
    trips,
    seconds,
    memory.temp_size_in_bytes,
  )


def remove_dumps() -> None:
  """Removes what the compiler has written: gigabytes, for a network."""
  for path in _dump_folder().iterdir():
    path.unlink()


@functools.cache
def _dump_folder() -> pathlib.Path:
  """Returns where the compiler writes; it reads its flags when it is loaded."""
  folder = tempfile.mkdtemp(prefix='sg3jax-tpu-')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  flags = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
  given = os.environ.get('LIBTPU_INIT_ARGS', '')
  os.environ['LIBTPU_INIT_ARGS'] = f'{given} {flags}'.strip()
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  return pathlib.Path(folder)


def _matrix_loops() -> tuple[int, ...]:
  """Returns the bundles of each inner loop with a product of matrices."""
  files = [
    path
    for path in _dump_folder().glob('*-final_bundles.txt')
    if 'filtered_lrelu' in path.name and 'analysis' not in path.name
  ]
  if not files:
    raise RuntimeError('the TPU compiler wrote no schedule of the kernel')
  text = max(files, key=lambda path: path.stat().st_size).read_text()
  loops: list[int] = []
  has_product: list[bool] = []
  for line in text.splitlines():
    if not (match := _LINE.match(line)):
      continue
    label, depth = match.group(1), len(match.group(2))
    if depth < 2:
      continue
    if label == 'LB':
      loops.append(0)
      has_product.append(False)
    if loops:
      loops[-1] += 1
      has_product[-1] |= 'vmat' in line
  return tuple(n for n, keep in zip(loops, has_product, strict=True) if keep)
