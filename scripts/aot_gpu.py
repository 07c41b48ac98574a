"""Compiles the Mosaic GPU kernel without a GPU, and describes the result.

This needs the CUDA compiler (`pip install 'sg3jax[compile]'`). If nvdisasm is
installed too, it also counts the instructions of the main loop.
"""

import contextlib
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch
from sg3jax.ops.filtered_lrelu.gpu.geometry import CHANNELS, simplify
from sg3jax.ops.filtered_lrelu.gpu.tiling import Tile
from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.train.planning import topologies


def missing() -> str | None:
  """Returns the reason why `compile_facts` cannot work here, or None."""
  if jax.__version_info__ < (0, 11):
    return f'JAX must be 0.11 or newer for the kernel, got {jax.__version__}'
  return topologies.missing_gpu()


def compile_facts(
  chain: Chain,
  operand_shapes: Sequence[Sequence[int]],
  dtype: Any,
  tile: Tile | None = None,
  is_scaled: bool = False,
) -> dict[str, Any]:
  """Compiles the kernel of a chain for an H100, without needing one.

  Args:
    chain: The chain to compute.
    operand_shapes: Shape [n, h, w, c] of each operand.
    dtype: Dtype of the operands: float16 or bfloat16.
    tile: Columns and rows of a block, or None for the kernel's own choice.
    is_scaled: Whether to include the factors and the bias of a generator's
      layer.

  Returns:
    tile: The tile (columns, rows);
    registers, spill_bytes: per thread, as reported by ptxas;
    shared_bytes: shared memory per block;
    instructions: per step of the main loop, or None without nvdisasm;
    instructions_per_output: the same, per output of a thread;
    hgmma: the number of them that are tensor core products, or None;
    is_serialized: whether ptxas failed to overlap the tensor core products;
    estimated_registers, estimated_instructions: the estimates of
      `gpu.geometry`;
    seconds: the time to trace, lower and compile.

  Raises:
    NotImplementedError: If the kernel does not support the chain.
    RuntimeError: If the compiler is missing, or its report cannot be parsed.
  """
  reason = missing()
  if reason is not None:
    raise RuntimeError(f'Cannot compile for an H100: {reason}.')
  # The kernel's operands have channels padded to a stride that TMA supports.
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
  """Returns the shapes of the factors and the bias of a generator's layer.

  In the forward direction these are the demodulation, the bias and the next
  layer's style. In derivatives, demodulation and style scale one operand each.

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
  return topologies.mesh(topologies.parse('h100:1'))


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
      # The abstract mesh defines the target of the lowering.
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
  """Returns the instructions of the loop with the tensor core products.

  The loop is the shortest range from a label to a branch back to it with the
  largest number of tensor core products. Loops that wait for a barrier contain
  no such products.
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
