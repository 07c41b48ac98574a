"""Estimates the cost of a step from the compiler's counts, before it runs."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from sg3jax.nets import abstract
from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.train import sharding
from sg3jax.train.step import trainer as trainer_lib
from sg3jax.types import Tree

# Fraction of a device's memory for arrays and programs. The rest is left to the
# runtime and to fragmentation.
USABLE = 0.92

# Ratio of successive micro-batch counts to try.
_FACTOR = 2

# Sizes in errors of the TPU compiler, which words them in several ways: `Used
# 26.84G of 15.75G hbm`, `temporaries (19.39G) exceeds available HBM (15.75G)`.
_SIZE = re.compile(r'\b(\d+(?:\.\d+)?)([KMGT])\b')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class StepCost:
  """The cost of a step of one trainer on one mesh.

  Attributes:
    batch: Number of images per step.
    micro_batches: Number of parts in which gradients are computed.
    generator_parameters: Number of G's trained parameters.
    discriminator_parameters: Number of D's trained parameters.
    flops: Floating-point operations of a step on one device, according to the
      compiler, with all lazy phases. Kernels count what they declare. The
      number of micro-batches has no effect on it.
    memory: Bytes on one device, by category.
    checkpoint: Bytes of a checkpoint.
  """

  batch: int
  micro_batches: int
  generator_parameters: int
  discriminator_parameters: int
  flops: float
  memory: dict[str, int]
  checkpoint: int

  @property
  def peak(self) -> int:
    """Total bytes on one device."""
    return sum(self.memory.values())

  def report(self) -> str:
    """Returns the cost as lines of text."""
    micro = self.batch // self.micro_batches
    lines = [
      f'Parameters:     G {self.generator_parameters:,}, '
      f'D {self.discriminator_parameters:,}',
      f'Step:           {self.batch} images, {micro} at a time, '
      f'{self.flops / 1e12:.3g} TFLOP on each device',
      f'Memory:         {gib(self.peak)} on each device',
      *(f'  {name:<14}{gib(size)}' for name, size in self.memory.items()),
      f'Checkpoint:     {gib(self.checkpoint)}',
    ]
    return '\n'.join(lines)


class TooLargeError(ValueError):
  """A step does not fit into the memory of a device.

  Attributes:
    peak: Bytes that it takes on a device; without `cost`, it may take more.
    size: The same as text.
    cost: Its cost; None if the compiler gave up.
  """

  def __init__(self, peak: int, memory: int, cost: StepCost | None = None):
    self.peak = peak
    self.size = gib(peak) if cost else f'at least {gib(peak)}'
    super().__init__(
      f'a step takes {self.size} on each device, more than {USABLE:.0%} of '
      f'{gib(memory)}'
    )
    self.cost = cost


def program_bytes(program: jax.stages.Compiled) -> int | None:
  """Returns the bytes that a program takes while it runs, on one device.

  They are those of its arguments, of its results without those that replace
  arguments, and of intermediate values, but not of its code.

  Args:
    program: The program.

  Returns:
    The number of bytes; None if the compiler does not report it.
  """
  analysis = program.memory_analysis()
  if analysis is None:
    return None
  return (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
  )


def estimate(
  trainer: trainer_lib.Trainer,
  mesh: Mesh,
  batch: int,
  flops: float | None = None,
  memory: int | None = None,
) -> StepCost:
  """Compiles a step without running it or creating a state.

  Args:
    trainer: Networks and recipe.
    mesh: The devices.
    batch: Number of images per step.
    flops: Operations of the step, if they were already counted.
    memory: Bytes of memory of a device; None if it is unlimited.

  Raises:
    TooLargeError: If the step does not fit into the memory.
  """
  step = compile_step(trainer, mesh, batch, memory)
  if flops is None and trainer.recipe.micro_batches == 1:
    flops = _flops(step.lowered, mesh)
  elif flops is None:
    flops = count_flops(trainer, mesh, batch)
  cost = cost_of(step, trainer, mesh, batch, flops)
  if memory is not None:
    check_memory(cost, memory)
  return cost


def check_memory(cost: StepCost, memory: int) -> None:
  """Raises TooLargeError if a step does not fit into a device's memory."""
  if cost.peak > USABLE * memory:
    raise TooLargeError(cost.peak, memory, cost)


class CompiledStep(NamedTuple):
  """A step before and after compilation.

  Attributes:
    lowered: The step as it was given to the compiler.
    program: The step as it would run.
    state: Shapes of the state.
    images: Shapes of a batch.
  """

  lowered: jax.stages.Lowered
  program: jax.stages.Compiled
  state: Any
  images: Any


def compile_step(
  trainer: trainer_lib.Trainer,
  mesh: Mesh,
  batch: int,
  memory: int | None = None,
) -> CompiledStep:
  """Compiles a step for the devices of a mesh, which may be absent.

  Args:
    trainer: Networks and recipe.
    mesh: The devices.
    batch: Number of images per step.
    memory: Bytes of memory of a device, if known.

  Raises:
    TooLargeError: If `memory` is given, and the compiler finds that the step
      does not fit. Compilers for GPUs do not ask.
  """
  lowered, state, images = lower_step(trainer, mesh, batch)
  try:
    with jax.set_mesh(mesh):
      program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if memory is None or 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise TooLargeError(_peak_of(str(error), memory), memory) from error
  return CompiledStep(lowered, program, state, images)


def _peak_of(message: str, memory: int) -> int:
  """Returns the bytes that a program takes, which exceed a device's memory.

  They are the largest size in the compiler's error, which may leave out a part
  of the memory; so they are a lower bound, and at least what the device has.
  """
  sizes = (float(n) * _UNITS[unit] for n, unit in _SIZE.findall(message))
  return max(memory, int(max(sizes, default=0)))


def cost_of(
  step: CompiledStep,
  trainer: trainer_lib.Trainer,
  mesh: Mesh,
  batch: int,
  flops: float,
) -> StepCost:
  """Returns the cost of a compiled step.

  Args:
    step: The step.
    trainer: The trainer that it belongs to.
    mesh: The devices that it was compiled for.
    batch: Number of images per step.
    flops: Operations of the step on one device.
  """
  analysis = step.program.memory_analysis()
  assert analysis is not None
  state, images = step.state, step.images
  return StepCost(
    batch=batch,
    micro_batches=trainer.recipe.micro_batches,
    generator_parameters=abstract.count(state.generator['params']),
    discriminator_parameters=abstract.count(state.discriminator['params']),
    flops=flops,
    memory={
      'state': _bytes_on_device(state, trainer, mesh),
      # Each step in flight holds a batch, and one more is handed over next.
      'batch': (trainer_lib.STEPS_IN_FLIGHT + 1) * _bytes(images) // mesh.size,
      # The new state replaces the old one.
      'results': analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
      'temporary': analysis.temp_size_in_bytes,
      'program': analysis.generated_code_size_in_bytes,
    },
    checkpoint=_bytes(state),
  )


def count_flops(trainer: trainer_lib.Trainer, mesh: Mesh, batch: int) -> float:
  """Returns the number of operations of a step on one device.

  They are counted for an undivided batch, because XLA counts only one iteration
  of a loop over micro-batches.
  """
  recipe = dataclasses.replace(trainer.recipe, micro_batches=1)
  whole = dataclasses.replace(trainer, recipe=recipe)
  return _flops(lower_step(whole, mesh, batch)[0], mesh)


def _flops(lowered: jax.stages.Lowered, mesh: Mesh) -> float:
  cost = lowered.cost_analysis()
  assert isinstance(cost, dict)
  return float(cost['flops']) / mesh.size


def lower_step(
  trainer: trainer_lib.Trainer, mesh: Mesh, batch: int
) -> tuple[jax.stages.Lowered, Any, Any]:
  """Returns the lowered step, and the shapes of the state and of a batch."""
  with jax.set_mesh(mesh):
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(trainer.init, key)
    images = _batch(trainer, batch)
    lowered = trainer_lib.jit_step(trainer, mesh).lower(state, images, key)
  return lowered, state, images


def fit(
  trainer: trainer_lib.Trainer,
  mesh: Mesh,
  batch: int,
  memory: int,
  log: Callable[[str], None] = lambda line: None,
) -> StepCost:
  """Returns the cost with the largest micro-batches that fit into memory.

  Args:
    trainer: Networks and recipe; its number of micro-batches is ignored.
    mesh: The devices.
    batch: Number of images per step.
    memory: Bytes of memory of a device.
    log: Receives a line of text for each number of micro-batches tried.

  Raises:
    ValueError: If none fits. The message states what the smallest needs.
  """
  flops, images, failure = None, batch, None
  for count in micro_batch_counts(trainer, mesh, batch):
    images = batch // count
    recipe = dataclasses.replace(trainer.recipe, micro_batches=count)
    parted = dataclasses.replace(trainer, recipe=recipe)
    try:
      cost = estimate(parted, mesh, batch, flops, memory)
    except TooLargeError as error:
      log(f'{images:6} images at a time: {error.size}')
      flops = error.cost.flops if error.cost else flops
      failure = error
      continue
    log(f'{images:6} images at a time: {gib(cost.peak)}')
    return cost
  assert failure is not None
  raise ValueError(
    f'no micro-batch fits: {images} images at a time are too many ({failure}). '
    'Use model.remat=True, a smaller mbstd_group, more devices, 16-bit '
    'model.precision or a smaller model'
  )


def micro_batch_counts(
  trainer: trainer_lib.Trainer, mesh: Mesh, batch: int
) -> Iterator[int]:
  """Yields micro-batch counts that keep groups whole, in ascending order."""
  group = discriminator_lib.images_in_group(
    batch, trainer.discriminator.mbstd_group
  )
  count = 1
  while batch % (count * group) == 0 and batch // count % mesh.size == 0:
    yield count
    count *= _FACTOR


def device_memory(mesh: Mesh) -> int | None:
  """Returns the bytes of memory of a mesh's device, or None if unknown."""
  device = mesh.local_devices[0] if mesh.local_devices else None
  stats = device.memory_stats() if device is not None else None
  return stats.get('bytes_limit') if stats else None


def _batch(
  trainer: trainer_lib.Trainer, n: int
) -> dict[str, jax.ShapeDtypeStruct]:
  spec, label_dim = trainer.generator.spec, trainer.generator.label_dim
  shape = (n, *spec.image_shape)
  batch = {'image': jax.ShapeDtypeStruct(shape, 'uint8')}
  if label_dim:
    labels = jax.ShapeDtypeStruct((n, label_dim), 'float32')
    batch |= dict.fromkeys(('label', 'g_label', 'd_label'), labels)
  return batch


def _bytes(tree: Tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _bytes_on_device(
  state: Tree, trainer: trainer_lib.Trainer, mesh: Mesh
) -> int:
  """Returns the bytes of a state that one device stores."""
  stored = sharding.state_shardings(state, mesh, trainer.layout)
  return sum(
    math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize
    for x, where in zip(
      jax.tree.leaves(state), jax.tree.leaves(stored), strict=True
    )
  )


def gib(size: float | int) -> str:
  """Returns a number of bytes as text, in GiB."""
  return f'{size / 2**30:.3f} GiB'
