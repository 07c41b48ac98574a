"""Compiles a training step for absent machines, and estimates a run on them."""

import dataclasses

from jax.sharding import Mesh

from sg3jax import version
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.memory_estimate import gib
from sg3jax.train.planning import interconnect, topologies
from sg3jax.train.planning import program as program_lib
from sg3jax.train.step import trainer as trainer_lib

_COMPILERS = ('jax', 'libtpu', 'jax-cuda13-plugin', 'nvidia-cuda-nvcc')


@dataclasses.dataclass(frozen=True)
class StepPlan:
  """A step compiled for absent machines.

  Attributes:
    topology: The machines.
    kind: Their device kind in JAX.
    cost: Operations and memory of the step on one device.
    program: What the compiled step does on one device.
  """

  topology: topologies.Topology
  kind: str
  cost: memory_estimate.StepCost
  program: program_lib.Program

  @property
  def compute_seconds(self) -> float:
    """Estimated seconds in which a device computes a mean step.

    On TPUs, the compiler's cycles at the clock of the device, and for the
    kernels the longer of their operations and of their bytes at the rates of
    the data sheet. On GPUs, whose compiler estimates no time, the longer of all
    operations and of all bytes at those rates.
    """
    machine, program = self.topology.machine, self.program
    if program.cycles:
      return program.cycles / machine.clock + max(
        program.kernel_flops / machine.flops,
        program.kernel_bytes / machine.bandwidth,
      )
    return max(
      self.cost.flops / machine.flops, program.traffic / machine.bandwidth
    )

  @property
  def exchange_seconds(self) -> float:
    """Estimated seconds in which devices exchange data in a mean step."""
    return interconnect.seconds(
      self.program.sent, self.program.exchanges, self.topology
    )

  @property
  def seconds(self) -> float:
    """Estimated seconds of a mean step, if nothing overlaps."""
    return self.compute_seconds + self.exchange_seconds

  @property
  def seconds_per_kimg(self) -> float:
    """Estimated seconds of training on 1000 images."""
    return 1000 * self.seconds / self.cost.batch

  def report(self, total_kimg: float | int) -> str:
    """Returns the plan of a run of so many kimg as lines of text."""
    machine, program = self.topology.machine, self.program
    days = total_kimg * self.seconds_per_kimg / 86_400
    lines = [
      f'Topology:       {self.topology.name}: {self.topology.size} x '
      f'{self.kind}, {gib(machine.memory)} each',
      f'Compilers:      {compilers()}',
      self.cost.report(),
      f'Collectives:    {program.exchanges:.1f} in a mean step, '
      f'{_megabytes(sum(program.sent.values()))} of results on each device',
      *(
        f'  {kind:<14}{_megabytes(size)}' for kind, size in program.sent.items()
      ),
      'Estimate (nothing was run):',
      f'  computing     {self._computing()}',
      f'  exchanging    {1000 * self.exchange_seconds:.2f} ms, from bytes and '
      f'{machine.link / 1e9:g} GB/s of links'
      + (
        f', {machine.network / 1e9:g} GB/s between groups'
        if self.topology.groups > 1
        else ''
      )
      + '; not overlapped',
      f'  a mean step   {1000 * self.seconds:.1f} ms',
      f'  sec/kimg      {self.seconds_per_kimg:.3g}',
      f'  the run       {days:.2f} days for {total_kimg:g} kimg, without '
      'snapshots, metrics and waiting for data',
      'Real steps take longer: no device attains the rates of its data sheet.',
    ]
    return '\n'.join(lines)

  def _computing(self) -> str:
    machine, program = self.topology.machine, self.program
    duration = f'{1000 * self.compute_seconds:.1f} ms'
    if program.cycles:
      return (
        f'{duration}: {program.cycles / 1e6:.1f} million cycles, by the '
        f'compiler, at {machine.clock / 1e9:g} GHz, and {program.kernels:.0f} '
        f'kernels with {program.kernel_flops / 1e12:.3g} TFLOP, '
        f'{program.kernel_bytes / 1e9:.3g} GB'
      )
    return (
      f'{duration}: {self.cost.flops / 1e12:.3g} TFLOP at '
      f'{machine.flops / 1e12:g} TFLOP/s or {program.traffic / 1e9:.3g} GB at '
      f'{machine.bandwidth / 1e9:g} GB/s, whichever is longer '
      f'({program.kernels:.0f} kernels)'
    )


def make(
  trainer: trainer_lib.Trainer,
  topology: topologies.Topology,
  mesh: Mesh,
  batch: int,
  flops: float,
) -> StepPlan:
  """Compiles a step for absent machines. This may take many minutes.

  Args:
    trainer: Networks and recipe.
    topology: The machines.
    mesh: Their devices, from `topologies.mesh`.
    batch: Number of images per step, over all devices.
    flops: Operations of the step on one device; see `count_flops`.

  Raises:
    memory_estimate.TooLargeError: If it exceeds the memory of a device.
  """
  memory = topology.machine.memory
  step = memory_estimate.compile_step(trainer, mesh, batch, memory)
  cost = memory_estimate.cost_of(step, trainer, mesh, batch, flops)
  memory_estimate.check_memory(cost, memory)
  return StepPlan(
    topology,
    mesh.devices.flat[0].device_kind,
    cost,
    program_lib.read(step.program.as_text() or '', lazy_share(trainer)),
  )


def lazy_share(trainer: trainer_lib.Trainer) -> float:
  """Returns the share of the steps that have a lazy phase.

  It is that of the most frequent phase, and applied to all of them.
  """
  recipe = trainer.recipe
  intervals = [recipe.r1_interval]
  if recipe.pl_weight > 0:
    intervals.append(recipe.pl_interval)
  return 1 / min(intervals)


def count_flops(
  trainer: trainer_lib.Trainer, topology: topologies.Topology, batch: int
) -> float:
  """Returns the operations of a step on one device, with all lazy phases.

  They are those of the plain XLA form, lowered for one device of this machine,
  since compilers for absent ones do not count them.
  """
  generator = trainer.generator.clone(filtered_lrelu_implementation=None)
  trainer = dataclasses.replace(trainer, generator=generator)
  mesh = sharding.make_mesh(1)
  return memory_estimate.count_flops(trainer, mesh, batch // topology.size)


def compilers() -> str:
  """Returns the versions of the packages that compile."""
  found = version.versions(_COMPILERS)
  return ', '.join(f'{name} {number}' for name, number in found.items())


def _megabytes(size: float) -> str:
  return f'{size / 1e6:.1f} MB'
