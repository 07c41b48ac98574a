"""Measures metrics of snapshots, or of images in files."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from sg3jax.data import sources
from sg3jax.eval import feature_sets, feature_store, results
from sg3jax.eval.image_generator import ImageGenerator
from sg3jax.eval.metrics import base
from sg3jax.nets import factory
from sg3jax.nets.features import base as networks_lib
from sg3jax.types import Snapshot

# Metrics with these needs measure networks, not only images.
_OF_MODELS = frozenset((base.GENERATOR, base.TRANSFORMS, base.DISCRIMINATOR))


def _write_nothing() -> None:
  pass


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The outcome of one part of the evaluation of a snapshot.

  Attributes:
    values: Values for the log by name.
    write: Writes the files of the part; must run only on the first host.
    beside: Values that explain those of the log.
  """

  values: Mapping[str, float] = dataclasses.field(default_factory=dict)
  write: Callable[[], None] = _write_nothing
  beside: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The data that metrics use, besides the generated images.

  Attributes:
    source: The real images; None if no metric needs them.
    against: Images to measure instead of generated ones; None if there is a
      generator.
    takes_transforms: Whether the generators to measure take transforms.
    has_discriminator: Whether snapshots have a discriminator.
    resolution: Width of the generated images, if known.
    details: Whether metrics measure what explains their values too.
    mirror: Whether the real images were also shown flipped left to right.
    weights: The weights of feature networks, by name; those that need not be
      imported may be left out.
    cache: Folder that keeps features of real images; None to keep none.
  """

  source: sources.ImageSource | None = None
  against: sources.ImageSource | None = None
  takes_transforms: bool = True
  has_discriminator: bool = True
  resolution: int | None = None
  details: bool = False
  mirror: bool = False
  weights: feature_store.Weights | None = None
  cache: pathlib.Path | None = None


class Measurements:
  """Measures snapshots, and appends the values to `metric-NAME.jsonl`."""

  def __init__(
    self,
    source: sources.ImageSource | None,
    *,
    metrics: str | Sequence[str] | None,
    num_samples: int,
    seed: int,
    **inputs: Any,
  ):
    """Prepares the metrics; computes nothing yet.

    Args:
      source: The real images; None if no metric needs them.
      metrics: Names of metrics, as accepted by `base.parse_names`.
      num_samples: Number of images that a metric measures.
      seed: Random seed for latents and the choice of reals.
      **inputs: Other fields of `Inputs`.

    Raises:
      ValueError: If a metric is unknown, or if it needs images, labels,
        transforms or a feature network that are not available.
    """
    names = base.parse_names(metrics)
    known = base.registry()
    self._inputs = Inputs(source, **inputs)
    self._metrics = tuple(known[name] for name in names)
    for metric in self._metrics:
      check(metric, self._inputs, num_samples)
    self._num_samples = num_samples
    self._seed = seed
    self._kept: dict[Hashable, Any] = {}

  def __call__(
    self,
    images: ImageGenerator | None,
    snapshot: Snapshot,
    *,
    mesh: Mesh | None = None,
    log: Callable[[str], None] = lambda line: None,
  ) -> Outcome:
    """Measures one snapshot.

    Args:
      images: The same generator of images at every call; None to measure the
        images of `against`.
      snapshot: The snapshot.
      mesh: The devices; by default those of `images`.
      log: Called with lines of text about compilation and progress.
    """
    inputs = self._inputs
    discriminator = None
    if snapshot.discriminator_variables is not None:
      # Measure in full precision, as for the generator.
      discriminator = (
        snapshot.discriminator.clone(low_precision_dtype=None),
        snapshot.discriminator_variables,
      )
    context = base.Context(
      images,
      snapshot.variables,
      metrics=[metric.name for metric in self._metrics],
      num_samples=self._num_samples,
      seed=self._seed,
      source=inputs.source,
      kept=self._kept,
      details=inputs.details,
      discriminator=discriminator,
      mirror=inputs.mirror,
      against=inputs.against,
      mesh=mesh,
      wanted=[m.features for m in self._metrics if m.features],
      weights=inputs.weights,
      cache=inputs.cache,
      log=images.log if images else log,
    )
    lines = []
    values, beside = {}, {}
    for metric in self._metrics:
      start = time.perf_counter()
      measured = metric.measure(context)
      # Work shared with an earlier metric is not counted again.
      seconds = time.perf_counter() - start
      values[metric.result] = float(measured.values[metric.result])
      beside |= {name: measured.values[name] for name in measured.beside}
      lines.append(
        self._line(metric, measured, seconds, context, images, snapshot)
      )
    write = functools.partial(_append, snapshot.workdir, lines)
    return Outcome(values, write, beside)

  def _line(
    self,
    metric: base.Metric,
    measured: base.Measurement,
    seconds: float,
    context: base.Context,
    images: ImageGenerator | None,
    snapshot: Snapshot,
  ) -> dict[str, Any]:
    result = results.make_result(
      metric.file,
      measured.values,
      num_samples=measured.num_samples,
      seed=self._seed,
      total_time=seconds,
      snapshot=str(snapshot.workdir) if images else None,
      devices=list(context.mesh.devices.flat),
      ci95=measured.ci95,
    )
    about = dict(measured.about)
    if self._inputs.source is not None:
      about['data'] = self._inputs.source.name
    if images is None:
      assert self._inputs.against is not None
      return result | about | {'against': self._inputs.against.name}
    precision = factory.precision_of(images.generator)
    return result | about | {'kimg': snapshot.kimg, 'precision': precision}


def check(metric: base.Metric, inputs: Inputs, num_samples: int) -> None:
  """Raises a ValueError if a metric lacks something that it needs."""
  _check_images(metric, inputs)
  _check_model(metric, inputs)
  for network in metric.networks:
    if network not in networks_lib.names():
      raise ValueError(
        f'the metric {metric.name} needs the feature network {network}, but '
        f'this version has only {", ".join(networks_lib.names())}: use another '
        'metric'
      )
  _check_counts(metric, inputs, num_samples)


def _check_images(metric: base.Metric, inputs: Inputs) -> None:
  """Raises a ValueError if a metric needs other images than those given."""
  name, needs, source = metric.name, metric.needs, inputs.source
  if base.REALS in needs and source is None:
    raise ValueError(
      f'the metric {name} compares with real images, but there are none'
    )
  labelled = (source,) if inputs.against is None else (source, inputs.against)
  if base.LABELS in needs and not all(s and s.label_dim for s in labelled):
    raise ValueError(
      f'the metric {name} compares labelled images, but there are none'
    )
  if inputs.against and needs & _OF_MODELS:
    raise ValueError(
      f'the metric {name} needs a generator, but there are only images: leave '
      'it out, or measure a network'
    )


def _check_model(metric: base.Metric, inputs: Inputs) -> None:
  """Raises a ValueError if a metric does not apply to a model."""
  name, needs, resolution = metric.name, metric.needs, inputs.resolution
  if base.TRANSFORMS in needs and not inputs.takes_transforms:
    others = [
      m.name
      for m in base.registry().values()
      if base.TRANSFORMS not in m.needs and not m.networks
    ]
    raise ValueError(
      f'the metric {name} moves the input of the generator, but this one has a '
      'learned constant: use ' + ', '.join(others)
    )
  if base.DISCRIMINATOR in needs and not inputs.has_discriminator:
    raise ValueError(
      f'the metric {name} examines the discriminator, but this model was '
      'imported without one: import a checkpoint that contains one'
    )
  if resolution is not None and resolution < metric.min_resolution:
    raise ValueError(
      f'the resolution must be at least {metric.min_resolution} for the metric '
      f'{name}, whose filters reach over many pixels, got {resolution}'
    )


def _check_counts(
  metric: base.Metric, inputs: Inputs, num_samples: int
) -> None:
  """Raises a ValueError if there are too few images for a metric."""
  counts = {'images to measure': num_samples}
  if inputs.against is not None:
    counts['images to measure'] = min(num_samples, len(inputs.against))
  if base.REALS in metric.needs and inputs.source is not None:
    reals = len(inputs.source)
    if metric.features and metric.features.reals == feature_sets.SOME:
      reals = min(num_samples, reals * (1 + inputs.mirror))
    counts['real images'] = reals
  for what, count in counts.items():
    if count < metric.min_images:
      raise ValueError(
        f'the number of {what} must be at least {metric.min_images} for the '
        f'metric {metric.name}, got {count}: use more images, or another metric'
      )


def _append(workdir: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> None:
  for line in lines:
    results.append_result(workdir, line)
