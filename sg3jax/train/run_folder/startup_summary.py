"""Logs a summary of a run when it starts."""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from sg3jax.data import sources
from sg3jax.nets import abstract
from sg3jax.ops.filtered_lrelu import default_implementation
from sg3jax.train import init_from
from sg3jax.train.run_folder import writer as writer_lib
from sg3jax.train.step import trainer as trainer_lib
from sg3jax.train.step.state import TrainState
from sg3jax.types import Config, Variables


def log_run(
  writer: writer_lib.RunWriter,
  config: Config,
  source: sources.ImageSource,
  trainer: trainer_lib.Trainer,
  state: TrainState,
  mesh: Mesh,
  reasons: Sequence[str],
) -> None:
  """Logs the data, devices, networks and settings of a run."""

  def count(variables: Variables) -> str:
    return f'{abstract.count(variables["params"]):,}'

  device = mesh.devices.flat[0]
  lines = [
    f'Run folder:     {writer.workdir}',
    f'Data:           {source.name}, {len(source):,} images of '
    f'{source.resolution}x{source.resolution}x{source.channels}'
    + (f', {source.label_dim} label features' if source.label_dim else '')
    + (', mirrored' if config.data.mirror else ''),
    f'Devices:        {mesh.size} x {device.device_kind} ({device.platform}), '
    f'{jax.process_count()} process(es)',
    f'Generator:      {config.model.generator}, {count(state.generator)} '
    f'parameters, {trainer.generator.spec.num_layers} layers',
    *_nonlinearity(config),
    f'Discriminator:  {count(state.discriminator)} parameters',
    f'Batch:          {config.train.batch}, until '
    f'{config.train.total_kimg:g} kimg',
    f'Augmentation:   {_augmentation(config)}',
    *(f'Settled:        {reason}' for reason in reasons),
    *sources.describe(source),
  ]
  if int(state.step):
    lines.append(
      f'Resuming:       from step {int(state.step)}, '
      f'{int(state.nimg) / 1000:g} kimg'
    )
  writer.log('\n'.join(lines))


def log_transfer(
  writer: writer_lib.RunWriter,
  config: Config,
  trainer: trainer_lib.Trainer,
  start: init_from.Start | None,
) -> None:
  """Logs what was copied from other networks, and which parts are frozen."""
  if start:
    writer.log('\n'.join(start.report))
  elif config.train.init_from:
    writer.log(
      f'Transfer:       nothing more from {config.train.init_from}: the run '
      'continues from its own state'
    )
  if frozen := str(trainer.frozen):
    writer.log(f'Frozen:         {frozen}')


def _augmentation(config: Config) -> str:
  options = config.train.augment
  return {
    'none': 'none',
    'fixed': f'{options.pipeline}, p = {options.p:g}',
    'ada': f'{options.pipeline}, p adapts to r_t = {options.target:g}',
  }[options.mode]


def _nonlinearity(config: Config) -> list[str]:
  """Returns a line naming the implementation of the nonlinearity, if any."""
  if config.model.generator != 'stylegan3':
    return []
  chosen = config.model.filtered_lrelu_implementation
  chosen = chosen or default_implementation(jax.default_backend())
  return [f'filtered_lrelu: {chosen}']
