"""A run as a configuration describes it, and the evaluation of a model.

`sg3jax train` and the training of a point of a sweep call these functions once
the options are read, and so does `sg3jax evaluate`.
"""

import pathlib
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from sg3jax import model as model_lib
from sg3jax.data import sources
from sg3jax.eval import evaluators, image_generator
from sg3jax.eval.metrics import base
from sg3jax.nets import factory
from sg3jax.train import loop, preemption, sharding
from sg3jax.train.checkpoint import ranking
from sg3jax.train.config import files as config_files
from sg3jax.train.step.state import TrainState
from sg3jax.types import Config, Snapshot


def load_config(value: str) -> Config:
  """Returns the configuration `NAME[:ARGUMENT]`, or that of a file.

  Raises:
    ValueError: As `train.config.files.load` does.
  """
  return config_files.load(value)


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


def metric_names(config: Config) -> tuple[str, ...]:
  """Returns the metrics that a run measures at its snapshots.

  Raises:
    ValueError: If one is unknown.
  """
  return base.parse_names(config.log.metrics)


def make_evaluator(
  config: Config, source: sources.ImageSource, mesh: Mesh
) -> evaluators.SnapshotEvaluator:
  """Returns the evaluator of a run's snapshots.

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


def best_by(config: Config) -> ranking.Best | None:
  """Returns the metric by which a run keeps its best checkpoint, if any.

  Raises:
    ValueError: If no metric yields a value of that name.
  """
  name = config.log.keep_best
  if not name or name.lower() == 'none':
    return None
  return ranking.Best(name, base.value_of(name).higher_is_better)


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
  log: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
  """Measures a model, and appends the values to `metric-NAME.jsonl`.

  Args:
    model: The model.
    metrics: Names of metrics, as `metrics.base.parse_names` takes them.
    outdir: The folder of the files, made if there is none.
    source: Real images, for metrics and models that need them.
    num_samples: Number of images that a metric measures.
    seed: Random seed for latents, transforms and the choice of reals.
    mesh: The devices.
    batch_size: Images at a time; by default the batch that fits.
    memory: Bytes of a device, if known.
    log: Called with lines of text about what is compiled.

  Returns:
    The values by name.

  Raises:
    ValueError: If a metric is unknown or not for this model, or there are no
      real images and they are needed.
    OSError: If the files cannot be written.
  """
  measure = evaluators.Measurements(
    source,
    metrics=metrics,
    num_samples=num_samples,
    seed=seed,
    takes_transforms=model.generator.spec.takes_transforms,
  )
  snapshot = Snapshot(
    workdir=pathlib.Path(outdir),
    kimg=model.kimg,
    is_last=True,
    generator=model.generator,
    variables=model.variables,
  )
  with jax.set_mesh(mesh):
    images = image_generator.ImageGenerator(
      model.generator, mesh, batch_size=batch_size, memory=memory, log=log
    )
    outcome = measure(images, snapshot)
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
) -> TrainState:
  """Trains, or continues training, what a configuration describes.

  In a script or a notebook::

      from sg3jax import launch

      config = launch.load_config('stylegan3_t:256,batch=16')
      config.data.source = 'images.zip'
      state = launch.train(config, 'runs/t256')

  The same call again continues a run that was interrupted. No signal is
  caught: see `preemption.stop_on_signals` for `stop`.

  Args:
    config: A configuration; what it leaves open is settled in place.
    workdir: The run folder.
    source: The training images; by default those of `config.data`.
    mesh: The devices; by default all that JAX sees.
    stop: Tells after every step whether to end early; by default never.
    profile: As in `loop.train`.
    allow_config_change: As in `loop.train`.

  Returns:
    The last state.

  Raises:
    ValueError, OSError, FloatingPointError: As `open_source`, `make_evaluator`
      and `loop.train` do.
  """
  source = open_source(config) if source is None else source
  mesh = sharding.make_mesh() if mesh is None else mesh
  return loop.train(
    config,
    source,
    workdir,
    mesh=mesh,
    evaluators=[make_evaluator(config, source, mesh)],
    stop=stop,
    profile=profile,
    allow_config_change=allow_config_change,
    read_networks=model_lib.read_networks,
    best=best_by(config),
  )
