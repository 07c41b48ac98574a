"""Analyses a point of a sweep in seconds, without training it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sg3jax.data import labels as labels_lib
from sg3jax.eval import image_generator
from sg3jax.eval.metrics import base
from sg3jax.nets import abstract, layer_tables
from sg3jax.nets import generator as generator_lib
from sg3jax.train import config as config_lib
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.step import build
from sg3jax.types import AnyArray, Config, Images, Variables

# Approximate standard deviation of trained images in the range [-1, 1].
_CONTRAST = 0.5
_BATCH = 4  # Images per batch; `forward_mib` is for one batch.
_CONTRAST_BATCHES = 16  # Batches that measure a new generator's contrast.

# Default number of images, each with its own transform. With it, the half-width
# of the 95 % intervals of EQ-T and EQ-R is at most 1.5 dB for the designs of
# the small ladder (docs/ladder.md), and at most 1 dB for most of them.
SAMPLES = 256

Values = dict[str, float | int | None]


def check(config: Config) -> None:
  """Checks that a point is possible, without computing anything.

  Raises:
    ValueError: If a value is out of range, or the networks are impossible.
  """
  trainer = _make_trainer(config)
  abstract.shapes(trainer.generator)
  abstract.shapes(trainer.discriminator, config.train.batch)


def metric_names() -> tuple[str, ...]:
  """Returns the names of the metrics that need no real images."""
  return tuple(
    name
    for name, metric in base.registry().items()
    if metric.needs <= {base.TRANSFORMS} and not metric.networks
  )


def default_metrics() -> tuple[str, ...]:
  """Returns the names of the metrics that are measured by default."""
  known = base.registry()
  return tuple(name for name in metric_names() if known[name].by_default)


def metric_of(column: str) -> base.Metric | None:
  """Returns the metric whose value a column of the analysis holds, if any."""
  for name in metric_names():
    metric = base.registry()[name]
    if column == _column(metric):
      return metric
  return None


def analyse(
  config: Config,
  *,
  metrics: Sequence[str] | None = None,
  samples: int = SAMPLES,
) -> Values:
  """Returns values of a new, untrained generator by name.

  The values are: the parameter counts of G and D; the minimum attenuation in dB
  over all layers and over the non-critical layers; the compiler's count of 10^9
  operations per image and of MiB for a batch of four images; and each metric
  with the half-width of its 95 % interval, such as `eqt_db` and `eqt_db_ci95`.
  Metrics that need transforms are omitted for generators that accept none. New
  generators render images of low contrast, which are scaled to the contrast of
  trained ones, a standard deviation of 0.5, before metrics are measured.

  Args:
    config: The configuration.
    metrics: Members of `metric_names()`; by default `default_metrics()`.
    samples: Number of images per metric, each with its own transform.

  Raises:
    ValueError: If the configuration is impossible, or a metric is unknown or
      needs more than a generator.
  """
  names = parse_metrics(metrics)
  trainer = _make_trainer(config)
  generator = trainer.generator
  shapes = abstract.shapes(generator)
  d_shapes = abstract.shapes(trainer.discriminator, config.train.batch)
  worst, worst_lowered = layer_tables.worst_attenuations(generator.spec)
  values: Values = {
    'g_parameters': abstract.count(shapes['params']),
    'd_parameters': abstract.count(d_shapes['params']),
    'attenuation_db': worst,
    'noncritical_db': worst_lowered,
  }
  # Measure the design in float32, without the rounding of 16-bit types.
  images = _Contrasted(generator.clone(low_precision_dtype=None))
  values |= _cost(images.compile_synthesis(shapes))
  chosen = [
    metric
    for metric in map(base.registry().__getitem__, names)
    if generator.spec.takes_transforms or base.TRANSFORMS not in metric.needs
  ]
  if chosen:
    values |= _measure(images, chosen, samples, config.seed)
  return values


def parse_metrics(asked: Sequence[str] | None) -> tuple[str, ...]:
  """Returns the metrics that an analysis is to measure.

  Args:
    asked: Names in a form that `base.parse_names` accepts; by default
      `default_metrics()`.

  Raises:
    ValueError: If a metric is unknown, or needs more than a generator.
  """
  possible = metric_names()
  if asked is None:
    return default_metrics()
  names = base.parse_names(asked)
  for name in names:
    if name not in possible:
      raise ValueError(
        f'metrics of an analysis must be among {", ".join(possible)}, got '
        f'{name}, which needs more than a generator: train the points'
      )
  return names


def _make_trainer(config: Config) -> Any:
  config = config.copy_and_resolve_references()
  model = config.model
  config_lib.resolve(
    config,
    img_channels=3 if model.img_channels is None else model.img_channels,
    label_dim=model.label_dim or 0,
  )
  return build.make_trainer(config)


class _Contrasted(image_generator.ImageGenerator):
  """Generates images on one device and multiplies them by a gain.

  Attributes:
    gain: The factor that sets the contrast.
  """

  def __init__(self, generator: generator_lib.Generator):
    super().__init__(generator, sharding.make_mesh(1), batch_size=_BATCH)
    self.gain = np.float32(1)

  def synthesize_batch(
    self,
    variables: Variables,
    ws: AnyArray,
    transforms: AnyArray | None = None,
  ) -> Images:
    """Returns the scaled images of one batch."""
    return self.gain * super().synthesize_batch(variables, ws, transforms)


def _cost(program: jax.stages.Compiled) -> Values:
  """Returns the cost of generating images, as the compiler reports it."""
  size, cost = memory_estimate.program_bytes(program), program.cost_analysis()
  flops = cost.get('flops') if cost else None
  return {
    'forward_gflop': flops / _BATCH / 1e9 if flops else None,
    'forward_mib': size / 2**20 if size else None,
  }


def _measure(
  images: _Contrasted, metrics: Sequence[base.Metric], samples: int, seed: int
) -> Values:
  """Returns the values of metrics for random weights, at `_CONTRAST`."""
  generator = images.generator
  z = np.random.RandomState(seed).randn(
    _CONTRAST_BATCHES * _BATCH, generator.z_dim
  )
  z = z.astype(np.float32)
  labels = c = None
  if generator.label_dim:
    labels = labels_lib.Labels(
      np.arange(generator.label_dim), generator.label_dim
    )
    c = labels[np.arange(len(z)) % len(labels)]
  args = (z,) if c is None else (z, c)
  variables = jax.jit(generator.init)(
    jax.random.key(seed), *(x[:_BATCH] for x in args)
  )
  ws = images.styles(variables, z, c)
  ws = ws.reshape(_CONTRAST_BATCHES, _BATCH, *ws.shape[1:])
  found = [np.asarray(images.synthesize_batch(variables, w)) for w in ws]
  images.gain = np.float32(_CONTRAST / max(float(np.std(found)), 1e-12))
  context = base.Context(
    images,
    variables,
    metrics=[metric.name for metric in metrics],
    num_samples=samples,
    seed=seed,
    labels=labels,
    group_size=1,
  )
  values: Values = {}
  for metric in metrics:
    measured = metric.measure(context)
    column = _column(metric)
    values[column] = _finite(measured.values[metric.result])
    if metric.result in measured.ci95:
      values[f'{column}_ci95'] = _finite(measured.ci95[metric.result])
  return values


def _column(metric: base.Metric) -> str:
  # Names of the protocol, such as eqt50k_int, would promise 50,000 samples.
  return f'{metric.name}_db' if 'dB' in metric.unit else metric.name


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None
