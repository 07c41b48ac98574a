"""Evaluates a run's snapshots: grids, metrics, curves and a clip.

First every part of the evaluation computes on all hosts, whose devices work
together. Then the first host writes the files, so that no other host waits for
it if the disk is full.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float

from sg3jax.data import sources
from sg3jax.eval import results
from sg3jax.eval.image_generator import ImageGenerator
from sg3jax.eval.metrics import base
from sg3jax.eval.plots import clips, curves, grids
from sg3jax.nets import factory
from sg3jax.types import Snapshot

_CLIP_SECONDS, _CLIP_FPS, _CLIP_SIZE = 4, 24, (4, 2)
_CLIP_RADIUS = 1 / 8  # Fraction of the width: the maximum shift of EQ-T.


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


class Part(Protocol):
  """A part of the evaluation of a snapshot."""

  def __call__(self, images: ImageGenerator, snapshot: Snapshot) -> Outcome:
    """Computes on all hosts, and returns the values and how to write files."""
    ...


class SnapshotEvaluator:
  """Evaluates the snapshots of one run: grids, metrics, curves and a clip.

  It writes `reals.png`, `fakes_init.png`, `fakes000012.png` and so on,
  `metric-NAME.jsonl` and `curves.png`; and, after the last step,
  `equivariance.webp` if the generator takes transforms. If a file cannot be
  written, it logs a warning and still returns the values.
  """

  def __init__(
    self,
    source: sources.ImageSource,
    *,
    metrics: str | Sequence[str] | None,
    num_samples: int,
    grid: tuple[int, int],
    seed: int,
    mesh: Mesh,
    takes_transforms: bool = True,
  ):
    """Prepares the evaluation; computes nothing yet.

    Args:
      source: The training images.
      metrics: See `Measurements`.
      num_samples: Number of images that a metric measures.
      grid: Maximum columns and rows of grids.
      seed: Random seed for latents and the choice of reals.
      mesh: The devices.
      takes_transforms: See `Measurements`.

    Raises:
      ValueError: If a metric is unknown, or unsuitable for this generator.
    """
    self._mesh = mesh
    self._images: ImageGenerator | None = None
    cells = _Cells(source, (grid[0], grid[1]), seed)
    self._parts: tuple[Part, ...] = (
      Grids(source, cells),
      Measurements(
        source,
        metrics=metrics,
        num_samples=num_samples,
        seed=seed,
        takes_transforms=takes_transforms,
        resolution=source.resolution,
      ),
      plot_curves,
      Clip(cells),
    )

  def __call__(self, snapshot: Snapshot) -> dict[str, float]:
    """Evaluates one snapshot; returns the values of all metrics."""
    if self._images is None:
      # Evaluate the network in full precision, without its rounding.
      generator = snapshot.generator.clone(low_precision_dtype=None)
      self._images = ImageGenerator(generator, self._mesh)
    outcomes = [part(self._images, snapshot) for part in self._parts]
    if jax.process_index() == 0:
      for outcome in outcomes:
        _try_to_write(outcome, snapshot)
    return {k: v for outcome in outcomes for k, v in outcome.values.items()}


def _try_to_write(outcome: Outcome, snapshot: Snapshot) -> None:
  try:
    outcome.write()
  except Exception as error:  # Missing files must not end the run.
    # Other hosts do not see this error; the values must be the same on all.
    logging.warning(
      'Files of the snapshot at %g kimg cannot be written: %s: %s',
      snapshot.kimg,
      type(error).__name__,
      error,
      exc_info=not isinstance(error, OSError),
    )


class _Cells:
  """The cells of a run's grids, which stay the same for all snapshots."""

  def __init__(
    self, source: sources.ImageSource, cap: tuple[int, int], seed: int
  ):
    self._source = source
    self._cap = cap
    self._seed = seed

  @functools.cached_property
  def size(self) -> tuple[int, int]:
    """Columns and rows."""
    height, width = self._source[0]['image'].shape[:2]
    return grids.grid_size(height, width, cap=self._cap)

  @functools.cached_property
  def indices(self) -> np.ndarray:
    """Indices of the reals in the cells, one class per row."""
    labels = self._source.labels()
    return grids.grid_indices(labels.values, self.size, self._seed)

  def styles(
    self, images: ImageGenerator, snapshot: Snapshot
  ) -> Float[np.ndarray, 'n l d']:
    """Returns the styles of the fakes, which have the labels of the reals."""
    rng = np.random.RandomState(self._seed)
    z = rng.randn(len(self.indices), snapshot.generator.z_dim)
    c = None
    if self._source.label_dim:
      c = self._source.labels()[self.indices]
    return images.styles(snapshot.variables, z.astype(np.float32), c)


class Grids:
  """Grids of fakes at every snapshot, and one grid of reals."""

  def __init__(self, source: sources.ImageSource, cells: _Cells):
    self._source = source
    self._cells = cells
    self._has_reals = False

  def __call__(self, images: ImageGenerator, snapshot: Snapshot) -> Outcome:
    """Generates the fakes of one snapshot."""
    styles = self._cells.styles(images, snapshot)
    fakes = images.synthesize(snapshot.variables, styles)
    return Outcome(write=functools.partial(self._write, fakes, snapshot))

  def _write(self, fakes: np.ndarray, snapshot: Snapshot) -> None:
    name = f'fakes{round(snapshot.kimg):06d}' if snapshot.kimg else 'fakes_init'
    grids.save_grid(fakes, snapshot.workdir / f'{name}.png', self._cells.size)
    if not self._has_reals:
      reals = [self._source[int(i)]['image'] for i in self._cells.indices]
      path = snapshot.workdir / 'reals.png'
      grids.save_grid(np.stack(reals), path, self._cells.size)
      self._has_reals = True  # Not set on failure: the next snapshot retries.


def plot_curves(images: ImageGenerator, snapshot: Snapshot) -> Outcome:
  """Plots the run's curves, after the metrics of the snapshot are written."""
  del images
  stats = snapshot.workdir / 'stats.jsonl'

  def write() -> None:
    if stats.exists():  # It does not exist before the first tick.
      curves.plot_curves(stats, snapshot.workdir / 'curves.png')

  return Outcome(write=write)


class Clip:
  """A clip of images moving in a circle, which reveals texture sticking."""

  def __init__(self, cells: _Cells):
    self._cells = cells

  def __call__(self, images: ImageGenerator, snapshot: Snapshot) -> Outcome:
    """Renders the clip if the run ends here."""
    generator = snapshot.generator
    if not (snapshot.is_last and generator.spec.takes_transforms):
      return Outcome()
    columns, rows = (
      min(a, b) for a, b in zip(_CLIP_SIZE, self._cells.size, strict=True)
    )
    frames = clips.make_equivariance_clip(
      functools.partial(images.synthesize, snapshot.variables),
      self._cells.styles(images, snapshot)[: columns * rows],
      clips.translation_path(_CLIP_SECONDS * _CLIP_FPS, _CLIP_RADIUS),
      size=(columns, rows),
      batch_size=images.batch_size,
    )
    path = snapshot.workdir / 'equivariance.webp'
    return Outcome(
      write=functools.partial(clips.save_clip, frames, path, _CLIP_FPS)
    )


class Measurements:
  """Measures snapshots, and appends the values to `metric-NAME.jsonl`."""

  def __init__(
    self,
    source: sources.ImageSource | None,
    *,
    metrics: str | Sequence[str] | None,
    num_samples: int,
    seed: int,
    takes_transforms: bool = True,
    has_discriminator: bool = True,
    resolution: int | None = None,
    details: bool = False,
  ):
    """Prepares the metrics; computes nothing yet.

    Args:
      source: The real images; None if no metric needs them.
      metrics: Names of metrics, as accepted by `base.parse_names`.
      num_samples: Number of images that a metric measures.
      seed: Random seed for latents and the choice of reals.
      takes_transforms: Whether the generators to measure take transforms.
      has_discriminator: Whether snapshots have a discriminator.
      resolution: Width of the images, if known.
      details: Whether metrics measure what explains their values too.

    Raises:
      ValueError: If a metric is unknown, if it needs real images, labels,
        transforms or a discriminator that are not available, or if the images
        are too small for it.
    """
    names = base.parse_names(metrics)
    known = base.registry()
    self._metrics = tuple(known[name] for name in names)
    for metric in self._metrics:
      _check_source(metric, source)
      _check_model(metric, takes_transforms, has_discriminator, resolution)
    self._source = source
    self._num_samples = num_samples
    self._seed = seed
    self._details = details
    self._kept: dict[Hashable, Any] = {}

  def __call__(self, images: ImageGenerator, snapshot: Snapshot) -> Outcome:
    """Measures one snapshot; `images` must be the same at every call."""
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
      source=self._source,
      kept=self._kept,
      details=self._details,
      discriminator=discriminator,
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
      lines.append(self._line(metric, measured, seconds, images, snapshot))
    write = functools.partial(_append, snapshot.workdir, lines)
    return Outcome(values, write, beside)

  def _line(
    self,
    metric: base.Metric,
    measured: base.Measurement,
    seconds: float,
    images: ImageGenerator,
    snapshot: Snapshot,
  ) -> dict[str, Any]:
    result = results.make_result(
      metric.result,
      measured.values,
      num_samples=measured.num_samples,
      seed=self._seed,
      total_time=seconds,
      snapshot=str(snapshot.workdir),
      devices=list(images.mesh.devices.flat),
      ci95=measured.ci95,
    )
    about = {
      'kimg': snapshot.kimg,
      'precision': factory.precision_of(images.generator),
    }
    return result | about


def _check_source(
  metric: base.Metric, source: sources.ImageSource | None
) -> None:
  """Raises ValueError if a metric needs other images than those given."""
  if base.REALS in metric.needs and source is None:
    raise ValueError(
      f'the metric {metric.name} compares with real images, but there are none'
    )
  if base.LABELS in metric.needs and not (source and source.label_dim):
    raise ValueError(
      f'the metric {metric.name} compares labelled images, but there are none'
    )


def _check_model(
  metric: base.Metric,
  takes_transforms: bool,
  has_discriminator: bool,
  resolution: int | None,
) -> None:
  """Raises ValueError if a metric does not apply to a model."""
  if base.TRANSFORMS in metric.needs and not takes_transforms:
    others = [
      m.name for m in base.registry().values() if base.TRANSFORMS not in m.needs
    ]
    raise ValueError(
      f'the metric {metric.name} moves the input of the generator, but this '
      'one has a learned constant: use ' + ', '.join(others)
    )
  if base.DISCRIMINATOR in metric.needs and not has_discriminator:
    raise ValueError(
      f'the metric {metric.name} examines the discriminator, but this model '
      'was imported without one: import a checkpoint that contains one'
    )
  if resolution is not None and resolution < metric.min_resolution:
    raise ValueError(
      f'the resolution must be at least {metric.min_resolution} for the metric '
      f'{metric.name}, whose filters reach over many pixels, got {resolution}'
    )


def _append(workdir: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> None:
  for line in lines:
    results.append_result(workdir, line)
