"""A run as a configuration describes it: its data, its metrics, training.

`sg3jax train` and the points of a sweep call this once their options are read.
From Python, `run` trains:

    import sg3jax

    config = sg3jax.launch.load_config('quickstart')
    config.train.total_kimg = 10.0
    sg3jax.launch.run(config, 'runs/mine')
"""

import os
import pathlib

from jax.sharding import Mesh

from sg3jax import model as model_lib
from sg3jax.data import sources
from sg3jax.eval import evaluators
from sg3jax.nets import factory
from sg3jax.train import loop, preemption, sharding
from sg3jax.types import Config


def open_source(config: Config) -> sources.ImageSource:
  """Returns the training images.

  Raises:
    ValueError: If the configuration names none, or they do not fit it.
    OSError: If they cannot be read.
    ImportError: If what reads them is not installed.
  """
  if config.data.source is None:
    raise ValueError(
      'data.source must name the training images: a folder, a .zip file, '
      'embedded[:COUNT] or tfds:NAME[:SPLIT][@DATA_DIR]'
    )
  return sources.open_source(
    config.data.source,
    resolution=config.model.resolution,
    use_labels=config.data.cond,
    max_images=config.data.max_images,
    seed=config.seed,
  )


def metric_names(config: Config) -> list[str]:
  """Returns the metrics that a run measures at its snapshots."""
  # On the command line, `swd,eqt` makes a tuple of one.
  parts = [name for part in config.log.metrics for name in part.split(',')]
  return [name for name in parts if name]


def make_evaluator(
  config: Config, source: sources.ImageSource, mesh: Mesh
) -> evaluators.SnapshotEvaluator:
  """Returns the evaluator of a run, for metrics and images at snapshots.

  Raises:
    ValueError: If the design is impossible, or a metric is unknown or not for
      this generator.
  """
  model = config.model.to_dict() | {'img_channels': source.channels}
  return evaluators.SnapshotEvaluator(
    source,
    metrics=metric_names(config),
    num_samples=config.log.metric_samples,
    grid=config.log.grid,
    seed=config.seed,
    mesh=mesh,
    takes_transforms=factory.make_spec(model).takes_transforms,
  )


def train(
  config: Config,
  source: sources.ImageSource,
  workdir: str | pathlib.Path,
  *,
  mesh: Mesh,
  stop: preemption.Stop,
  profile: range = range(0),
  allow_config_change: bool = False,
) -> None:
  """Trains, or goes on training; arguments and errors as in `loop.train`."""
  loop.train(
    config,
    source,
    workdir,
    mesh=mesh,
    evaluators=[make_evaluator(config, source, mesh)],
    stop=stop,
    profile=profile,
    allow_config_change=allow_config_change,
    read_networks=model_lib.read_networks,
  )


def run(
  config: Config,
  workdir: str | pathlib.Path,
  *,
  devices: int | None = None,
  profile: range = range(0),
  allow_config_change: bool = False,
) -> bool:
  """Trains a model, or goes on training it, until it is done or stopped.

  Call it in the main thread: it takes SIGTERM and Ctrl-C as `sg3jax train`.

  Args:
    config: A configuration, as `load_config` returns it.
    workdir: The run folder.
    devices: How many devices to use; all of them by default.
    profile: Steps to record a profile of.
    allow_config_change: Whether to go on with a run although its configuration
      has changed.

  Returns:
    Whether the run is done; False if a signal stopped it, saved: the same call
    goes on from there.

  Raises:
    ValueError: If the configuration is impossible or does not fit the data or
      the run folder; the message names the field.
    OSError: If the data cannot be read or the run folder cannot be written.
  """
  mesh = sharding.make_mesh(devices)
  source = open_source(config)
  with preemption.stop_on_signals() as stop:
    train(
      config,
      source,
      os.path.expanduser(workdir),
      mesh=mesh,
      stop=stop,
      profile=profile,
      allow_config_change=allow_config_change,
    )
  return not stop.obeyed
