"""Compiles the Pallas kernel without a TPU, and describes the result.

This needs the TPU compiler, from `pip install 'jax[tpu]'`. It writes the static
schedule of a kernel as text, with one line for each bundle of instructions that
are issued together. The sum over the kernel's loops of bundles times trips is
the minimum duration of a grid step in clock cycles.
"""

import atexit
import dataclasses
import functools
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
from jax.sharding import Mesh, SingleDeviceSharding

from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.ops.filtered_lrelu.tpu import kernel as tpu_kernel
from sg3jax.ops.filtered_lrelu.tpu import launch as tpu_launch
from sg3jax.ops.filtered_lrelu.tpu import tiling as tpu_tiling
from sg3jax.train.planning import topologies

# A small slice of each generation.
_SLICES = {
  'v4': 'v4:2x2x1',
  'v5e': 'v5e:1x1',
  'v5p': 'v5p:2x2x1',
  'v6e': 'v6e:1x1',
  'tpu7x': 'tpu7x:2x2x1',
}
_LINE = re.compile(r'^\s*(?:0x[0-9a-f]+|\d+)\s+(LB|LH|LE|PB|PF|CT)?\s*:\s*(>*)')


@dataclasses.dataclass(frozen=True)
class Facts:
  """Facts about a compiled kernel.

  Attributes:
    generation: The TPU generation that the kernel was compiled for.
    tile: Rows and columns of the result per grid step.
    grid: Number of grid steps.
    bundles: Number of instruction bundles of each loop of the kernel, in order.
    trips: Number of trips of each loop per grid step.
    seconds: Duration of the compilation in seconds.
    temp_bytes: Device memory in bytes besides operands and result.
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
    """Minimum number of cycles per grid step."""
    return sum(b * t for b, t in zip(self.bundles, self.trips, strict=True))


def devices(generation: str) -> Sequence[Any]:
  """Returns the devices of a small slice to compile for, without needing one.

  Raises:
    ImportError: If the compiler is not installed.
  """
  _dump_folder()
  topology = topologies.parse(_SLICES[generation])
  return list(topologies.mesh(topology).devices.flat)


def compile_facts(
  chain: Chain, n: int, c: int, dtype: jnp.dtype, generation: str
) -> Facts:
  """Compiles a chain for one core and returns facts about the result.

  Args:
    chain: The chain to compute.
    n: Number of samples.
    c: Number of channels.
    dtype: Dtype of the operands.
    generation: A key of `tpu.tiling.GENERATIONS`.

  Raises:
    ImportError: If the compiler is not installed.
    RuntimeError: If the compiler wrote no schedule.
    NotImplementedError: If the kernel does not support the chain.
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
      f'the schedule must have {len(trips)} loops, got the bundles {bundles}'
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
  """Removes the compiler's dumps, which take gigabytes for a network."""
  for path in _dump_folder().iterdir():
    path.unlink()


@functools.cache
def _dump_folder() -> pathlib.Path:
  """Returns the folder of the compiler's dumps, and sets the flags for it.

  This must run before libtpu is loaded, since libtpu reads its flags then.
  """
  folder = tempfile.mkdtemp(prefix='sg3jax-tpu-')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  flags = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
  given = os.environ.get('LIBTPU_INIT_ARGS', '')
  os.environ['LIBTPU_INIT_ARGS'] = f'{given} {flags}'.strip()
  topologies.prepare_environment()
  return pathlib.Path(folder)


def _matrix_loops() -> tuple[int, ...]:
  """Returns the number of bundles of each inner loop with a matrix product."""
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
