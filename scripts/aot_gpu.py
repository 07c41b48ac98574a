"""Compiles the Mosaic GPU kernel for GPUs that are not there, and describes it.

Needs the CUDA plugin of JAX and the CUDA compiler, `_REMEDY`; with nvdisasm
the instructions of the main loop are counted too.
"""

import contextlib
import importlib.util
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch
from sg3jax.ops.filtered_lrelu.gpu.geometry import CHANNELS, simplify
from sg3jax.ops.filtered_lrelu.gpu.tiling import Tile
from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling

# An H100 SXM, as XLA describes a device that it compiles for.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {
    major: 9
    minor: 0
    feature_extension: ACCELERATED_FEATURES
  }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 minor: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

_REMEDY = (
  "pip install 'jax[cuda13]', or, enough to compile: jax-cuda13-plugin of the "
  "version of jax, 'nvidia-cuda-nvcc>=13.2,<14' and nvidia-nvvm, and to count "
  'instructions nvidia-cuda-nvdisasm'
)


def missing() -> str | None:
  """Returns what keeps `compile_facts` from working, or None."""
  if jax.__version_info__ < (0, 11):
    return f'JAX {jax.__version__} is too old for the kernel, it needs 0.11'
  if importlib.util.find_spec('jax_cuda13_plugin') is None:
    return f'the CUDA plugin of JAX is not installed: {_REMEDY}'
  if not any(
    (pathlib.Path(root) / 'cu13' / 'bin' / 'ptxas').exists()
    for root in _nvidia_folders()
  ):
    return f'the CUDA compiler is not installed: {_REMEDY}'
  return None


def compile_facts(
  chain: Chain,
  operand_shapes: Sequence[Sequence[int]],
  dtype: Any,
  tile: Tile | None = None,
  is_scaled: bool = False,
) -> dict[str, Any]:
  """Compiles the kernel of a chain for an H100, which need not be there.

  Args:
    chain: What to compute.
    operand_shapes: [n, h, w, c] of each operand.
    dtype: Of the operands: float16 or bfloat16.
    tile: Columns and rows of a block, or None for the kernel's own choice.
    is_scaled: With the factors and the bias that a layer of a generator has.

  Returns:
    tile: The tile (columns, rows);
    registers, spill_bytes: a thread's, as ptxas reports them;
    shared_bytes: shared memory of a block;
    instructions: those of a step of the main loop, or None without nvdisasm;
    instructions_per_output: the same for each output a thread makes;
    hgmma: how many of them are tensor core products, or None;
    is_serialized: whether ptxas could not overlap those;
    estimated_registers, estimated_instructions: what `gpu.geometry` estimates;
    seconds: to trace, lower and compile.

  Raises:
    NotImplementedError: The kernel cannot serve the chain.
    RuntimeError: The compiler is missing, or its report is not understood.
  """
  reason = missing()
  if reason is not None:
    raise RuntimeError(f'Cannot compile for an H100: {reason}.')
  # As the kernel gets them: channels are padded to what TMA can stride over.
  operands = [
    jax.ShapeDtypeStruct((*s[:3], -(-s[3] // 8) * 8), dtype)
    for s in operand_shapes
  ]
  scaling = layer_scaling(operands) if is_scaled else NONE
  simple = simplify(chain)
  if tile is None:
    reason = gpu_launch.unsupported(chain, *operands, scaling=scaling)
    if reason is not None:
      raise NotImplementedError(
        f'The kernel cannot serve this chain: {reason}.'
      )
    tile = gpu_launch.choose_tile(simple, *operands, scaling=scaling)
    assert tile is not None

  def call(scaling, *arrays):
    return gpu_launch.launch(simple, tile, *arrays, scaling=scaling)

  start = time.perf_counter()
  reports = _compile(call, scaling, operands)
  seconds = time.perf_counter() - start
  geometry = gpu_launch.geometry_of(simple, tile, *operands, scaling=scaling)
  ptxas = reports.get('.ptxas', '')
  loop = _main_loop(reports.get('.sass_ctrl', ''))
  outputs = geometry.groups_per_step * tile.width * CHANNELS / 128
  return {
    'tile': tuple(tile),
    'registers': _number(r'Used (\d+) registers', ptxas),
    'spill_bytes': _number(r'(\d+) bytes spill stores', ptxas)
    + _number(r'(\d+) bytes spill loads', ptxas),
    'shared_bytes': _number(
      r'smem_scratch_bytes=(\d+)', reports.get('.resources.txt', '')
    ),
    'instructions': len(loop) if loop else None,
    'instructions_per_output': len(loop) / outputs if loop else None,
    'hgmma': sum('HGMMA' in line for line in loop) if loop else None,
    'is_serialized': 'serialized' in ptxas,
    'estimated_registers': round(geometry.registers),
    'estimated_instructions': round(geometry.instructions),
    'seconds': seconds,
  }


def layer_scaling(operands: Sequence[Any]) -> Scaling:
  """Returns the factors and the bias that a generator's layer has, as shapes.

  Forward, the demodulation, the bias and the next layer's style; in derivatives
  the latter two belong to one operand each.

  Args:
    operands: One or two arrays [n, h, w, c], or their shapes.
  """
  n, _, _, c = operands[0].shape
  factors = jax.ShapeDtypeStruct((n, c), jnp.float32)
  bias = jax.ShapeDtypeStruct((c,), jnp.float32)
  if len(operands) == 1:
    return Scaling((factors, None), bias, factors)
  return Scaling((factors, factors), bias)


def h100_mesh() -> Mesh:
  """Returns a mesh of one H100 to compile for."""
  topology = topologies.get_topology_desc(
    platform='cuda',
    topology_name='',
    topology='1x1x1',
    target_config=_H100,
  )
  return Mesh(np.array(topology.devices), ('data',))


def _compile(
  call: Any, scaling: Scaling, operands: Sequence[jax.ShapeDtypeStruct]
) -> dict[str, str]:
  """Compiles a kernel; returns the compiler's reports by file suffix."""
  mesh = h100_mesh()
  sharding = NamedSharding(mesh, PartitionSpec())
  arguments = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    (scaling, *operands),
  )
  with tempfile.TemporaryDirectory() as folder:
    with _environment(MOSAIC_GPU_DUMP_TO=folder):
      # The abstract mesh tells what is being lowered for.
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = jax.jit(call).lower(*arguments)
      lowered.compile()
    return {
      suffix: path.read_text()
      for suffix in ('.ptxas', '.resources.txt', '.sass_ctrl')
      for path in pathlib.Path(folder).glob(f'*{suffix}')
    }


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
  old = {name: os.environ.get(name) for name in values}
  os.environ.update(values)
  try:
    yield
  finally:
    for name, value in old.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def _number(pattern: str, report: str) -> int:
  match = re.search(pattern, report)
  if match is None:
    raise RuntimeError(
      f'The GPU compiler reported no {pattern!r}; it said: {report!r}.'
    )
  return int(match[1])


def _main_loop(sass: str) -> list[str]:
  """Returns the instructions of the loop that has the tensor core products.

  It is the shortest stretch from a label to a branch back to it around all of
  them; the loops that wait for a barrier have none.
  """
  labels, instructions = {}, []
  for line in sass.splitlines():
    label = re.match(r'(\.L_\S+):', line.strip())
    if label:
      labels[label[1]] = len(instructions)
    elif re.search(r'/\*[0-9a-f]{4,}\*/', line):
      instructions.append(line)
  loops = []
  for end, line in enumerate(instructions):
    target = re.search(r'BRA `\((\.L_\S+)\)', line)
    if target and labels.get(target[1], end + 1) <= end:
      loops.append(instructions[labels[target[1]] : end + 1])
  products = [sum('HGMMA' in line for line in loop) for loop in loops]
  best = [
    loop
    for loop, count in zip(loops, products, strict=True)
    if count and count == max(products)
  ]
  return min(best, key=len, default=[])


def _nvidia_folders() -> list[str]:
  spec = importlib.util.find_spec('nvidia')
  if spec is None or spec.submodule_search_locations is None:
    return []
  return list(spec.submodule_search_locations)
