"""A run as a configuration describes it: its data, its measurements, training.

What `sg3jax train` does, and the training of a point of a sweep, once the
options are read.
"""

import pathlib

from jax.sharding import Mesh

from sg3jax import model as model_lib
from sg3jax.data import sources
from sg3jax.eval import evaluators
from sg3jax.nets import factory
from sg3jax.train import loop, preemption
from sg3jax.train.checkpoint import ranking
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
      'there are no training images: pass --config.data.source= with a folder, '
      'a .zip file, embedded[:COUNT] or tfds:NAME[:SPLIT][@DATA_DIR]'
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
  """Returns what measures and draws at the snapshots of a run.

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
  keep_best = config.log.keep_best
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
    best=ranking.old_best(keep_best) if keep_best else None,
  )
