"""Trains the run that a configuration describes, and evaluates models.

These functions are the Python API behind `sg3jax train`, `sg3jax evaluate` and
the training of a sweep's points.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence

import jax
from jax.sharding import Mesh

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.data import sources
from sg3jax.eval import (
  evaluators,
  feature_store,
  image_generator,
  measurements,
)
from sg3jax.eval.metrics import base
from sg3jax.eval.result_page import page
from sg3jax.interop import feature_weights as feature_weights_lib
from sg3jax.interop import packaged_models
from sg3jax.nets import factory
from sg3jax.nets.features import base as networks
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import loop, preemption, schedule, sharding
from sg3jax.train.checkpoint import ranking
from sg3jax.train.config import files as config_files
from sg3jax.train.step.state import TrainState
from sg3jax.types import Config, Snapshot, Variables


def load_config(value: str) -> Config:
  """Returns the configuration `NAME[:ARGUMENT]` or `FILE.py[:ARGUMENT]`.

  Raises:
    ValueError: See `train.config.files.load`.
  """
  return config_files.load(value)


def open_source(config: Config) -> sources.ImageSource:
  """Opens the training images that a configuration names.

  Raises:
    ValueError: If the configuration names no images, or they do not fit it.
    OSError: If the images cannot be read.
    ImportError: If the package that reads them is not installed.
  """
  if config.data.source is None:
    raise ValueError(
      f'data.source must name the training images: {sources.FORMS}'
    )
  return sources.open_source(
    config.data.source,
    resolution=config.model.resolution,
    use_labels=config.data.cond,
    max_images=config.data.max_images,
    seed=config.seed,
  )


def metric_names(config: Config) -> tuple[str, ...]:
  """Returns the names of the metrics that a run measures at its snapshots.

  Raises:
    ValueError: If a metric is unknown.
  """
  return base.parse_names(config.log.metrics)


def feature_weights(
  names: Iterable[str], folder: str | pathlib.Path | None = None
) -> dict[str, Variables]:
  """Returns the variables of feature networks by name.

  All of them are read and checked at once, so that weights that are missing or
  damaged are known before anything is computed.

  Args:
    names: Names of feature networks, such as 'inception'.
    folder: The folder of weights; see `interop.feature_weights.folder_of`.

  Returns:
    NumPy arrays as they were imported. The weights of networks that are random
    by design are sampled from the key 0.

  Raises:
    FileNotFoundError: If weights are missing. The message states for each
      network what to get and where to put it.
    ValueError: If there is no such network, or a file is damaged.
  """
  found = [networks.find(name) for name in dict.fromkeys(names)]
  feature_weights_lib.require([network.name for network in found], folder)
  return {
    network.name: feature_store.random_weights(network.name)
    if network.init is not None
    else feature_weights_lib.load(network.name, folder)
    for network in found
  }


def _weights_for(
  metrics: Iterable[str], folder: str | pathlib.Path | None = None
) -> feature_store.Weights:
  """Finds the weights that metrics need; `Inputs` checks other conditions.

  Raises:
    FileNotFoundError: If weights are missing; see `feature_weights`.
    NotImplementedError: If a metric needs a network that is not implemented.
  """
  metrics = tuple(metrics)
  for name in metrics:
    missing = set(base.registry()[name].networks) - set(networks.names())
    if missing:
      raise NotImplementedError(
        f'the metric {name} needs the feature network {missing.pop()}, which '
        'is not implemented yet: use another metric, such as rprecision'
      )
  needed = dict.fromkeys(
    network for name in metrics for network in base.registry()[name].networks
  )
  return feature_weights(needed, folder)


def full_metric_names(config: Config) -> tuple[str, ...]:
  """Returns the names of the metrics that a run measures less often.

  Raises:
    ValueError: If a metric is unknown.
  """
  return base.parse_names(config.log.full_metrics)


def _full(config: Config) -> evaluators.Full | None:
  """Returns the metrics that a run measures less often, and when."""
  names = full_metric_names(config)
  if not names:
    return None
  if config.log.full_metrics_kimg <= 0:
    raise ValueError(
      'log.full_metrics_kimg must be positive, got '
      f'{config.log.full_metrics_kimg}'
    )
  return evaluators.Full(
    names,
    config.log.full_metric_samples,
    schedule.images(config.log.full_metrics_kimg),
    schedule.make_schedule(config).snapshot,
  )


def make_evaluator(
  config: Config,
  source: sources.ImageSource,
  mesh: Mesh,
  *,
  stats_cache: pathlib.Path | None = None,
  weights_dir: str | pathlib.Path | None = None,
) -> evaluators.SnapshotEvaluator:
  """Returns the evaluator of a run's snapshots.

  Args:
    config: The configuration.
    source: The training images.
    mesh: The devices.
    stats_cache: Folder that keeps features of real images; None to keep none.
    weights_dir: Folder of weights; see `feature_weights`.

  Raises:
    FileNotFoundError: If weights of a feature network are missing.
    ValueError: If the design is impossible, or a metric is unknown or does not
      apply to this generator.
  """
  names = metric_names(config)
  model = config.model.to_dict() | {'img_channels': source.channels}
  return evaluators.SnapshotEvaluator(
    source,
    metrics=names,
    num_samples=config.log.metric_samples,
    grid=config.log.grid,
    seed=config.seed,
    mesh=mesh,
    takes_transforms=factory.make_spec(model).takes_transforms,
    mirror=config.data.mirror,
    weights=_weights_for((*names, *full_metric_names(config)), weights_dir),
    cache=stats_cache,
    full=_full(config),
  )


def best_by(config: Config) -> ranking.Best | None:
  """Returns the value that ranks a run's checkpoints, or None if none does.

  Raises:
    ValueError: If no metric yields a value of that name.
  """
  name = config.log.keep_best
  if not name or name.lower() == 'none':
    return None
  return ranking.Best(name, base.value_of(name).higher_is_better)


def run_folder(network: str | pathlib.Path) -> pathlib.Path:
  """Returns the folder of a network's metric files.

  Args:
    network: A run folder, a checkpoint in it, an imported model, or the name of
      a model of this package.
  """
  path = packaged_models.locate(network)
  is_checkpoint = path.parent.name == checkpoint_lib.FOLDER
  return path.parent.parent if is_checkpoint else path


def evaluate(
  model: model_lib.Model,
  metrics: str | Sequence[str] | None,
  outdir: str | pathlib.Path,
  *,
  source: sources.ImageSource | None = None,
  num_samples: int = 50_000,
  seed: int = 0,
  mesh: Mesh,
  batch_size: int | None = None,
  memory: int | None = None,
  mirror: bool = False,
  stats_cache: pathlib.Path | None = None,
  weights_dir: str | pathlib.Path | None = None,
  log: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
  """Measures metrics of a model and appends them to `metric-NAME.jsonl`.

  Args:
    model: The model.
    metrics: Names of metrics in a form that `metrics.base.parse_names` accepts.
    outdir: The folder of the files, created if it does not exist.
    source: Real images, for metrics and models that need them.
    num_samples: Number of images per metric.
    seed: Random seed for latents, transforms and the choice of real images.
    mesh: The devices.
    batch_size: Number of images per batch; by default, as many as fit.
    memory: Memory of a device in bytes, if known.
    mirror: Whether to compare with the real images flipped left to right, too,
      in metrics that do not take all of them.
    stats_cache: Folder that keeps features of real images; None to keep none.
    weights_dir: Folder of weights; see `feature_weights`.
    log: Called with lines of text about compilation and progress.

  Returns:
    The values by name, followed by those that explain them, such as the
    ceilings of equivariance metrics.

  Raises:
    ValueError: If a metric is unknown or does not apply to this model, or if
      real images are needed and `source` is None or has other labels.
    OSError: If the files cannot be written, or weights are missing.
  """
  names = base.parse_names(metrics)
  files.check_folder(outdir)
  _check_labels(model, source)
  measure = measurements.Measurements(
    source,
    metrics=names,
    num_samples=num_samples,
    seed=seed,
    takes_transforms=model.generator.spec.takes_transforms,
    has_discriminator=model.discriminator_variables is not None,
    resolution=model.resolution,
    details=True,
    mirror=mirror,
    weights=_weights_for(names, weights_dir),
    cache=stats_cache,
  )
  snapshot = Snapshot(
    workdir=pathlib.Path(outdir),
    kimg=model.kimg,
    is_last=True,
    generator=model.generator,
    variables=model.variables,
    discriminator=model.discriminator,
    discriminator_variables=model.discriminator_variables,
  )
  with jax.set_mesh(mesh):
    images = image_generator.ImageGenerator(
      model.generator, mesh, batch_size=batch_size, memory=memory, log=log
    )
    outcome = measure(images, snapshot)
  outcome.write()
  return {**outcome.values, **outcome.beside}


def _check_labels(
  model: model_lib.Model, source: sources.ImageSource | None
) -> None:
  if source is not None and source.label_dim != model.label_dim:
    raise ValueError(
      f'the labels of the data must have {model.label_dim} features, as those '
      f'of the network, got {source.label_dim}: use the data that it was '
      'trained on'
    )


def compare(
  source: sources.ImageSource,
  against: sources.ImageSource,
  metrics: str | Sequence[str] | None,
  outdir: str | pathlib.Path,
  *,
  num_samples: int = 50_000,
  seed: int = 0,
  mesh: Mesh,
  mirror: bool = False,
  stats_cache: pathlib.Path | None = None,
  weights_dir: str | pathlib.Path | None = None,
  log: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
  """Measures how images in files differ from real ones, without a model.

  Args:
    source: The real images.
    against: The images to measure, of any size.
    metrics: See `evaluate` for the other arguments.
    outdir: The folder of the files, created if it does not exist.
    num_samples: Number of images per metric, or as many as there are.
    seed: Random seed for the choice of images.
    mesh: The devices.
    mirror: Whether to compare with flipped real images, too.
    stats_cache: Folder that keeps features of real images; None to keep none.
    weights_dir: Folder of weights; see `feature_weights`.
    log: Called with lines of text about compilation and progress.

  Returns:
    The values by name.

  Raises:
    ValueError: If a metric is unknown, or needs a generator or other images.
    OSError: If the files cannot be written, or weights are missing.
  """
  names = base.parse_names(metrics)
  files.check_folder(outdir)
  measure = measurements.Measurements(
    source,
    metrics=names,
    num_samples=num_samples,
    seed=seed,
    against=against,
    mirror=mirror,
    weights=_weights_for(names, weights_dir),
    cache=stats_cache,
  )
  snapshot = Snapshot(pathlib.Path(outdir), 0, True, None, {})
  with jax.set_mesh(mesh):
    outcome = measure(None, snapshot, mesh=mesh, log=log)
  outcome.write()
  return dict(outcome.values)


def train(
  config: Config,
  workdir: str | pathlib.Path,
  *,
  source: sources.ImageSource | None = None,
  mesh: Mesh | None = None,
  stop: preemption.Stop | None = None,
  profile: range = range(0),
  allow_config_change: bool = False,
  stats_cache: pathlib.Path | None = None,
  weights_dir: str | pathlib.Path | None = None,
) -> TrainState:
  """Starts or resumes the training run that a configuration describes.

  In a script or a notebook::

      from sg3jax import launch

      config = launch.load_config('stylegan3_t:256,batch=16')
      config.data.source = 'images.zip'
      state = launch.train(config, 'runs/t256')

  The same call resumes an interrupted run. This function handles no signals: to
  do so, pass a `stop` from `preemption.stop_on_signals`.

  Args:
    config: A configuration; fields that are None are resolved in place.
    workdir: The run folder.
    source: The training images; by default those named by `config.data`.
    mesh: The devices; by default all that JAX sees.
    stop: Checked after every step for a request to end early; by default, the
      run never ends early.
    profile: See `loop.train`.
    allow_config_change: See `loop.train`.
    stats_cache: See `make_evaluator`.
    weights_dir: See `make_evaluator`.

  Returns:
    The final state.

  Raises:
    ValueError, OSError, FloatingPointError: See `open_source`, `make_evaluator`
      and `loop.train`.
  """
  source = open_source(config) if source is None else source
  mesh = sharding.make_mesh() if mesh is None else mesh
  return loop.train(
    config,
    source,
    workdir,
    mesh=mesh,
    evaluators=[
      make_evaluator(
        config, source, mesh, stats_cache=stats_cache, weights_dir=weights_dir
      )
    ],
    stop=stop,
    profile=profile,
    allow_config_change=allow_config_change,
    read_networks=model_lib.read_networks,
    best=best_by(config),
    write_page=page.write,
  )
