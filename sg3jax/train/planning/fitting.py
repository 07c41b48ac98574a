"""Finds the smallest change to a configuration with which a step fits."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from sg3jax.train import memory_estimate
from sg3jax.train.config import fields
from sg3jax.train.memory_estimate import gib
from sg3jax.train.planning import plan as plan_lib
from sg3jax.train.planning import topologies
from sg3jax.train.step import build
from sg3jax.types import Config

Changes = Mapping[str, Any]


def search(
  config: Config,
  topology: topologies.Topology,
  mesh: Mesh,
  flops: float,
  error: memory_estimate.TooLargeError,
  log: Callable[[str], None],
) -> tuple[Changes, plan_lib.StepPlan] | None:
  """Returns the smallest change with which a step fits, and its plan.

  Changes are tried from the one that costs least: more micro-batches; then also
  the parts of the state spread over the devices; then also layers that are
  computed again in gradients. Counts of micro-batches that cannot suffice are
  left out, by what the step is known to take. Each try compiles a step.

  Args:
    config: The resolved configuration, which does not fit.
    topology: The machines.
    mesh: Their devices.
    flops: Operations of the step on one device.
    error: The error that compiling that configuration raised.
    log: Receives a line of text for each try.

  Returns:
    Values of fields by path, and the plan; None if nothing that was tried fits.
  """
  for changes in candidates(config, topology, mesh, error):
    changed = config.copy_and_resolve_references()
    for path, value in changes.items():
      fields.assign(changed, path, value)
    trainer = build.make_trainer(changed)
    try:
      plan = plan_lib.make(trainer, topology, mesh, changed.train.batch, flops)
    except memory_estimate.TooLargeError as failure:
      log(f'  {flags(changes)}: {failure.size}')
      continue
    log(f'  {flags(changes)}: {gib(plan.cost.peak)}')
    return changes, plan
  return None


def candidates(
  config: Config,
  topology: topologies.Topology,
  mesh: Mesh,
  error: memory_estimate.TooLargeError,
) -> Iterator[Changes]:
  """Yields changes that may make a step fit, from the smallest one on."""
  options = config.train
  before = max(options.micro_batches, 1)
  limit = memory_estimate.USABLE * topology.machine.memory
  trainer = build.make_trainer(config)
  counts = [
    count
    for count in memory_estimate.micro_batch_counts(
      trainer, mesh, options.batch
    )
    if count > before
  ]
  for count in counts:
    if _least(error, before / count) <= limit:
      yield {'train.micro_batches': count}
  most: Changes = {'train.micro_batches': counts[-1]} if counts else {}
  remat: Changes = {} if config.model.remat else {'model.remat': True}
  spread: Changes = {}
  if options.sharding != 'fsdp' and topology.size > 1:
    spread = {'train.sharding': 'fsdp'}
    least = _least(error, before / max(counts, default=before))
    state = error.cost.memory['state'] if error.cost else error.peak
    if least - state * (1 - 1 / topology.size) <= limit:
      yield {**most, **spread}
  if remat:
    yield {**most, **remat}
  if remat and spread:
    yield {**most, **remat, **spread}


def flags(changes: Changes) -> str:
  """Returns changes as flags of the command line."""
  return ' '.join(f'--config.{path}={value}' for path, value in changes.items())


def _least(error: memory_estimate.TooLargeError, ratio: float) -> float:
  """Returns the bytes a step takes at least with smaller micro-batches."""
  if error.cost is None:
    return error.peak * ratio
  temporary = error.cost.memory['temporary']
  return error.peak - temporary * (1 - ratio)
