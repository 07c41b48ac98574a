"""Prints what a training run costs before it starts: `sg3jax train --plan`."""

import functools
import time

from absl import flags

from sg3jax import launch, text
from sg3jax.cli import common
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.planning import fitting, topologies
from sg3jax.train.planning import plan as plan_lib
from sg3jax.train.step import build
from sg3jax.types import Config

PLAN = flags.DEFINE_bool(
  'plan',
  False,
  'Compile a training step, print its cost and memory, and exit.',
)
PLAN_MEMORY = flags.DEFINE_float(
  'plan_memory',
  None,
  'Memory of a device in GiB, for which --plan finds the largest micro-batch '
  'that fits; by default the amount that the device reports.',
  lower_bound=0.0,
)
TOPOLOGY = flags.DEFINE_string(
  'topology',
  None,
  'Machines that --plan compiles for instead of this one, which need not be '
  'there: v5e:16x16, v5p:4x4x4, v5e:16x16*4 (four slices), h100:8, h100:4x8 '
  '(hosts x GPUs) and so on.',
)


def check() -> None:
  """Checks the flags that only --plan uses.

  Raises:
    ValueError: If they are given without it.
  """
  if TOPOLOGY.value is not None and not PLAN.value:
    raise ValueError(
      f'--topology={TOPOLOGY.value} is of --plan, which compiles for machines '
      'that are not there: add --plan, or leave it out to train on this machine'
    )


def run(config: Config) -> None:
  """Prints the plan that the flags ask for.

  Raises:
    ValueError: If the flags contradict each other, or no step fits.
    ImportError: If the compiler for --topology is not installed.
  """
  if TOPOLOGY.value is None:
    _plan_here(config)
    return
  for flag in (PLAN_MEMORY, common.DEVICES):
    if flag.present:
      raise ValueError(
        f'--{flag.name} must not be given with --topology={TOPOLOGY.value}, '
        'which says what devices there are: leave it out'
      )
  _plan_elsewhere(config, topologies.parse(TOPOLOGY.value))


def _plan_here(config: Config) -> None:
  """Prints the cost of a step, and the micro-batches that fit in memory."""
  mesh = sharding.make_mesh(common.DEVICES.value)
  trainer, _ = build.prepare(config, launch.open_source(config), mesh)
  batch = config.train.batch
  memory = memory_estimate.device_memory(mesh)
  try:
    cost = memory_estimate.estimate(trainer, mesh, batch, memory=memory)
  except memory_estimate.TooLargeError as error:
    if error.cost is None:  # Without it, micro-batches are tried at once.
      print(error)
    cost = error.cost
  if cost is not None:
    print(cost.report(), flush=True)
  if PLAN_MEMORY.value is not None:
    memory = int(PLAN_MEMORY.value * 2**30)
  if memory is None:
    print('--plan_memory=GIB finds the largest micro-batch that fits')
    return
  chosen = memory_estimate.fit(
    trainer, mesh, batch, memory, functools.partial(print, flush=True)
  )
  print(
    f'{memory / 2**30:g} GiB hold {batch // chosen.micro_batches} images at a '
    f'time: --config.train.micro_batches={chosen.micro_batches}'
  )


def _plan_elsewhere(config: Config, topology: topologies.Topology) -> None:
  """Prints the plan of a run on machines that are not there."""
  mesh = topologies.mesh(topology)
  channels, label_dim = 3, 0
  if config.data.source is None:
    print('Data:           not given; colour images without labels are assumed')
  else:
    source = launch.open_source(config)
    channels, label_dim = source.channels, source.label_dim
  trainer, _ = build.prepare_for(
    config, mesh, img_channels=channels, label_dim=label_dim
  )
  batch = config.train.batch
  print(
    f'Compiling a step for {topology.size} x {mesh.devices.flat[0].device_kind}'
    '; this may take many minutes',
    flush=True,
  )
  flops = plan_lib.count_flops(trainer, topology, batch)
  start = time.monotonic()
  try:
    plan = plan_lib.make(trainer, topology, mesh, batch, flops)
  except memory_estimate.TooLargeError as error:
    if error.cost is not None:
      print(error.cost.report())
    print(f'{error}: smaller ones are tried', flush=True)
    found = fitting.search(
      config, topology, mesh, flops, error, lambda line: print(line, flush=True)
    )
    if found is None:
      raise ValueError(
        f'{error}, and neither micro-batches, train.sharding=fsdp nor '
        'model.remat=True suffice: use a smaller train.batch, more devices or '
        'a smaller model'
      ) from error
    changes, plan = found
    print(f'The plan with {fitting.flags(changes)}:')
    print(plan.report(config.train.total_kimg))
    raise ValueError(f'{error}: use {fitting.flags(changes)}') from error
  print(plan.report(config.train.total_kimg))
  print(f'Compiled in {text.format_duration(time.monotonic() - start)}')
