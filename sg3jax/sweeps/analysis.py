"""The analysis of a point without training it, in seconds."""

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
from sg3jax.train import sharding
from sg3jax.train.step import build
from sg3jax.types import AnyArray, Config, Images, Variables

# Standard deviation of trained images, of the range [-1, 1], near enough.
_CONTRAST = 0.5
_BATCH = 4  # Images at a time, whose memory is reported.
_CONTRAST_BATCHES = 16  # By which the contrast of a new generator is measured.

# Each image has a transform of its own. The 95 % intervals of EQ-T and EQ-R
# then reach at most 1.5 dB to either side for the designs of the small ladder
# (docs/ladder.md), and at most 1 dB for most of them.
SAMPLES = 256

Values = dict[str, float | int | None]


def check(config: Config) -> None:
  """Raises an error if a point is impossible, without computing anything.

  Raises:
    ValueError: If a value is out of its range, or the networks are impossible.
  """
  trainer = _make_trainer(config)
  abstract.shapes(trainer.generator)
  abstract.shapes(trainer.discriminator, config.train.batch)


def metric_names() -> tuple[str, ...]:
  """Returns the metrics that need a generator alone, and no images."""
  return tuple(
    name
    for name, metric in base.registry().items()
    if metric.needs <= {base.TRANSFORMS}
  )


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

  They are the parameters of G and D; the least attenuation in dB of all layers
  and of the non-critical ones; 10^9 operations for generating an image, and MiB
  for generating four at once, as the compiler counts them; and metrics with
  half the width of their 95 % interval, `eqt_db` and `eqt_db_ci95`. Metrics
  that need transforms are left out for generators that take none. Images of new
  generators have little contrast: they are scaled to that of trained ones, a
  standard deviation of 0.5, before metrics are measured.

  Args:
    config: The configuration.
    metrics: Members of `metric_names()`; by default all.
    samples: Images that each metric measures, each with a transform of its own.

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
  # The values are of the design, not of its rounding.
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
    asked: Names, as `base.parse_names` takes them; by default all that need a
      generator alone.

  Raises:
    ValueError: If a metric is unknown, or needs more than a generator.
  """
  possible = metric_names()
  if asked is None:
    return possible
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
  """Generates images on one device and scales them to a contrast.

  Attributes:
    gain: The factor.
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
  memory, cost = program.memory_analysis(), program.cost_analysis()
  size = memory and (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
  )
  flops = cost.get('flops') if cost else None
  return {
    'forward_gflop': flops / _BATCH / 1e9 if flops else None,
    'forward_mib': size / 2**20 if size else None,
  }


def _measure(
  images: _Contrasted, metrics: Sequence[base.Metric], samples: int, seed: int
) -> Values:
  """Returns the metrics of random weights, at the usual contrast."""
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
  # Not by the names of the protocol, which promise 50,000 samples.
  return f'{metric.name}_db' if 'dB' in metric.unit else metric.name


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None
