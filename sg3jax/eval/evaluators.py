"""Evaluates a run's snapshots: grids, metrics, curves and a clip.

First every part of the evaluation computes on all hosts, whose devices work
together. Then the first host writes the files, so that no other host waits for
it if the disk is full.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float

from sg3jax.data import sources
from sg3jax.eval.image_generator import ImageGenerator
from sg3jax.eval.measurements import Measurements, Outcome
from sg3jax.eval.plots import clips, curves, grids
from sg3jax.types import Snapshot

_CLIP_SECONDS, _CLIP_FPS, _CLIP_SIZE = 4, 24, (4, 2)
_CLIP_RADIUS = 1 / 8  # Fraction of the width: the maximum shift of EQ-T.


@runtime_checkable  # For the type checks of the tests.
class Part(Protocol):
  """A part of the evaluation of a snapshot."""

  def __call__(self, images: ImageGenerator, snapshot: Snapshot) -> Outcome:
    """Computes on all hosts, and returns the values and how to write files."""
    ...


@dataclasses.dataclass(frozen=True)
class Full:
  """Metrics that take long, and are not measured at every snapshot.

  Attributes:
    metrics: Their names.
    num_samples: Number of images that a metric measures.
    interval: Number of real images shown from one measurement to the next.
    snapshot: Number of real images shown from one snapshot to the next.
  """

  metrics: tuple[str, ...]
  num_samples: int
  interval: int
  snapshot: int

  def is_due(self, snapshot: Snapshot) -> bool:
    """Returns whether to measure a snapshot; it depends on its kimg alone."""
    now = round(snapshot.kimg * 1000)
    before = now - self.snapshot
    # An untrained network is not worth it.
    crosses = now > 0 and now // self.interval > before // self.interval
    return crosses or snapshot.is_last


class _Occasional:
  """A part that is left out at most snapshots."""

  def __init__(self, part: Part, full: Full):
    self._part, self._full = part, full

  def __call__(self, images: ImageGenerator, snapshot: Snapshot) -> Outcome:
    """Evaluates the snapshot if that is due."""
    if not self._full.is_due(snapshot):
      return Outcome()
    return self._part(images, snapshot)


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
    full: Full | None = None,
    **inputs: Any,
  ):
    """Prepares the evaluation; computes nothing yet.

    Args:
      source: The training images.
      metrics: See `Measurements`.
      num_samples: Number of images that a metric measures.
      grid: Maximum columns and rows of grids.
      seed: Random seed for latents and the choice of reals.
      mesh: The devices.
      full: Metrics that are measured less often; None for none.
      **inputs: Other fields of `measurements.Inputs`.

    Raises:
      ValueError: If a metric is unknown, or unsuitable for this generator.
    """
    self._mesh = mesh
    self._images: ImageGenerator | None = None
    cells = _Cells(source, (grid[0], grid[1]), seed)
    occasional: tuple[Part, ...] = ()
    if full is not None:
      occasional = (
        _Occasional(
          Measurements(
            source,
            metrics=full.metrics,
            num_samples=full.num_samples,
            seed=seed,
            **inputs,
          ),
          full,
        ),
      )
    self._parts: tuple[Part, ...] = (
      Grids(source, cells),
      Measurements(
        source,
        metrics=metrics,
        num_samples=num_samples,
        seed=seed,
        **inputs,
      ),
      *occasional,
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
