"""What a run measures and draws at its snapshots.

An evaluator is called with a `Snapshot`, leaves files in the run folder and
returns figures for the log.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from sg3jax import text
from sg3jax.data import sources
from sg3jax.eval import batches, results
from sg3jax.eval.metrics import equivariance, sliced_wasserstein
from sg3jax.eval.plots import curves, grids
from sg3jax.nets import factory
from sg3jax.types import AnyArray, Array, ImagesU8, Snapshot, Variables

METRICS = ('swd', *equivariance.METRICS)

# Images generated at a time, on each device, if its memory is unknown.
_DEVICE_BATCH = 16
# What a batch on each device is a multiple of: images that share a transform.
_GROUP = 4
_CLIP_SECONDS, _CLIP_FPS, _CLIP_SIZE = 4, 24, (4, 2)
_CLIP_RADIUS = 1 / 8  # Of the width: the farthest that EQ-T moves.


class Painter:
  """Draws many images with one generator, in batches of one size.

  Args:
    generator: The generator, in whose precision images are computed.
    mesh: The devices.
    batch_size: Images at a time, over all devices; by default what fits.
    memory: Bytes of a device, if known, for the default.
    log: Takes lines of text about what is compiled.

  Raises:
    ValueError: If the batch cannot be spread over the devices.
  """

  def __init__(
    self,
    generator: Any,
    mesh: Mesh,
    *,
    batch_size: int | None = None,
    memory: int | None = None,
    log: Callable[[str], None] = lambda line: None,
  ):
    unit = _GROUP * mesh.size
    if batch_size is None:
      batch_size = mesh.size * batches.fitting_batch(
        generator, memory, default=_DEVICE_BATCH, multiple=_GROUP
      )
    if batch_size % unit:
      raise ValueError(
        f'the batch must be a multiple of {unit}, {_GROUP} for each device, '
        f'got {batch_size}'
      )
    self.generator = generator
    self.mesh = mesh
    self.batch_size = batch_size
    self.log = log
    self._spread = NamedSharding(mesh, P(mesh.axis_names))
    whole = NamedSharding(mesh, P())
    self._mapping = jax.jit(self._apply('mapping'), out_shardings=whole)
    self._synthesis = text.announce_first_call(
      jax.jit(self._apply('synthesis'), out_shardings=whole),
      log,
      f'the generator, for {batch_size} images at a time',
    )

  def _apply(self, method: str):
    return functools.partial(self.generator.apply, method=method)

  def styles(
    self,
    variables: Variables,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None,
  ) -> Float[np.ndarray, 'n l d']:
    """Returns the styles of latents and labels."""
    return np.asarray(self._mapping(variables, z, c))

  def synthesize(
    self,
    variables: Variables,
    ws: Float[AnyArray, 'n l d'],
    transforms: Float[AnyArray, 'n 3 3'] | None = None,
  ) -> ImagesU8:
    """Returns the images of styles, under inverse transforms if given."""
    n = len(ws)
    if transforms is None and self.generator.spec.takes_transforms:
      transforms = np.tile(np.eye(3, dtype=np.float32), (n, 1, 1))
    images = []
    for i in range(0, n, self.batch_size):
      # The last batch is filled up, so that one program serves all.
      rows = np.minimum(np.arange(i, i + self.batch_size), n - 1)
      batch = (ws[rows],)
      if transforms is not None:
        batch += (transforms[rows],)
      batch = jax.device_put(batch, self._spread)
      images.append(grids.to_uint8(self._synthesis(variables, *batch)))
    return np.concatenate(images)[:n]


class SnapshotEvaluator:
  """Draws grids, curves and a clip, and measures, for one run.

  Files: `reals.png`, `fakes_init.png`, `fakes000012.png` and so on,
  `curves.png`, `metric-NAME.jsonl`; after the last step `equivariance.webp`, of
  a generator that takes transforms.
  On several hosts all compute, as their devices do it together, and the first
  alone writes.

  Args:
    source: The training images.
    metrics: Of `METRICS`.
    num_samples: Images a metric draws.
    grid: Columns and rows of grids, at most.
    seed: Of latents and of the choice of reals.
    mesh: The devices.
    takes_transforms: See `Measurements`.

  Raises:
    ValueError: If a metric is unknown, or the generator cannot have it.
  """

  def __init__(
    self,
    source: sources.ImageSource,
    *,
    metrics: Sequence[str],
    num_samples: int,
    grid: tuple[int, int],
    seed: int,
    mesh: Mesh,
    takes_transforms: bool = True,
  ):
    self._source = source
    self._grid_cap = (grid[0], grid[1])
    self._seed = seed
    self._mesh = mesh
    self._writes = jax.process_index() == 0
    self._metrics = Measurements(
      source,
      metrics=metrics,
      num_samples=num_samples,
      seed=seed,
      mesh=mesh,
      takes_transforms=takes_transforms,
    )
    self._painter: Painter | None = None

  def __call__(self, snapshot: Snapshot) -> dict[str, float]:
    """Draws and measures one snapshot; returns the figures."""
    if self._painter is None:
      # Pictures and figures are of the network, not of its rounding.
      generator = snapshot.generator.clone(low_precision_dtype=None)
      self._painter = Painter(generator, self._mesh)
      self._draw_reals(snapshot.workdir)
    name = f'fakes{round(snapshot.kimg):06d}' if snapshot.kimg else 'fakes_init'
    fakes = self._painter.synthesize(snapshot.variables, self._styles(snapshot))
    self._save_grid(fakes, snapshot.workdir / f'{name}.png')
    figures = self._metrics(self._painter, snapshot)
    stats = snapshot.workdir / 'stats.jsonl'
    if self._writes and stats.exists():  # Not before the first tick.
      curves.plot_curves(stats, snapshot.workdir / 'curves.png')
    if snapshot.is_last and snapshot.generator.spec.takes_transforms:
      self._draw_clip(snapshot)
    return figures

  @functools.cached_property
  def _grid(self) -> tuple[int, int]:
    height, width = self._source[0]['image'].shape[:2]
    return grids.grid_size(height, width, cap=self._grid_cap)

  @functools.cached_property
  def _shown(self) -> np.ndarray:
    """Indices of the reals in the grid, one class a row."""
    labels = self._source.labels()
    return grids.grid_indices(labels.values, self._grid, self._seed)

  def _draw_reals(self, workdir: pathlib.Path) -> None:
    reals = np.stack([self._source[int(i)]['image'] for i in self._shown])
    self._save_grid(reals, workdir / 'reals.png')

  def _save_grid(self, images: np.ndarray, path: pathlib.Path) -> None:
    if self._writes:
      grids.save_grid(images, path, self._grid)

  def _styles(self, snapshot: Snapshot) -> np.ndarray:
    """Returns the styles of the grid; fakes have the labels of the reals."""
    rng = np.random.RandomState(self._seed)
    z = rng.randn(len(self._shown), snapshot.generator.z_dim)
    c = None
    if self._source.label_dim:
      c = self._source.labels()[self._shown]
    assert self._painter is not None
    return self._painter.styles(snapshot.variables, z.astype(np.float32), c)

  def _draw_clip(self, snapshot: Snapshot) -> None:
    """Carries a few images around a circle: what sticks to the pixels shows."""
    painter = self._painter
    assert painter is not None
    columns, rows = (
      min(a, b) for a, b in zip(_CLIP_SIZE, self._grid, strict=True)
    )
    frames = grids.make_equivariance_clip(
      functools.partial(painter.synthesize, snapshot.variables),
      self._styles(snapshot)[: columns * rows],
      grids.translation_path(_CLIP_SECONDS * _CLIP_FPS, _CLIP_RADIUS),
      size=(columns, rows),
      batch_size=painter.batch_size,
    )
    if self._writes:
      clip = snapshot.workdir / 'equivariance.webp'
      grids.save_clip(frames, clip, _CLIP_FPS)


class Measurements:
  """Measures snapshots and appends the figures to `metric-NAME.jsonl`.

  Args:
    source: The real images; None if no metric needs them.
    metrics: Of `METRICS`.
    num_samples: Images a metric draws.
    seed: Of latents and of the choice of reals.
    mesh: The devices.
    takes_transforms: Whether the generators to be measured do.

  Raises:
    ValueError: If a metric is unknown, or needs images and there are none, or
      transforms of a generator that takes none.
  """

  def __init__(
    self,
    source: sources.ImageSource | None,
    *,
    metrics: Sequence[str],
    num_samples: int,
    seed: int,
    mesh: Mesh,
    takes_transforms: bool = True,
  ):
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown:
      raise ValueError(
        f'unknown metrics {", ".join(unknown)}: use {", ".join(METRICS)}'
      )
    if 'swd' in metrics and source is None:
      raise ValueError('the metric swd compares with real images: pass --data')
    if not takes_transforms and set(metrics) & set(equivariance.METRICS):
      others = [name for name in METRICS if name not in equivariance.METRICS]
      raise ValueError(
        f'the metrics {", ".join(equivariance.METRICS)} move the input of the '
        'generator, but that of this one is a learned constant: use '
        + ', '.join(others)
      )
    self._source = source
    self._metrics = tuple(metrics)
    self._num_samples = num_samples
    self._seed = seed
    self._mesh = mesh
    self._equivariance: equivariance.EquivarianceEvaluator | None = None

  def __call__(self, painter: Painter, snapshot: Snapshot) -> dict[str, float]:
    """Returns the figures of one snapshot by name."""
    figures = {}
    if 'swd' in self._metrics:
      figures |= self._record(self._measure_swd, painter, snapshot)
    if self._equivariance_metrics:
      figures |= self._record(self._measure_equivariance, painter, snapshot)
    return figures

  @property
  def _equivariance_metrics(self) -> tuple[str, ...]:
    return tuple(m for m in self._metrics if m in equivariance.METRICS)

  def _record(
    self,
    measure: Callable[[Painter, Snapshot], tuple[dict[str, Any], int]],
    painter: Painter,
    snapshot: Snapshot,
  ) -> dict[str, float]:
    """Measures, and appends a line for each metric; returns main figures."""
    start = time.perf_counter()
    figures, count = measure(painter, snapshot)
    total_time = time.perf_counter() - start
    for metric, values in figures.items():
      result = results.make_result(
        metric,
        values,
        num_samples=count,
        seed=self._seed,
        total_time=total_time,
        snapshot=str(snapshot.workdir),
        devices=list(self._mesh.devices.flat),
      )
      about = {
        'kimg': snapshot.kimg,
        'precision': factory.precision_of(painter.generator),
      }
      results.append_result(snapshot.workdir, result | about)
    return {metric: values[metric] for metric, values in figures.items()}

  def _measure_swd(
    self, painter: Painter, snapshot: Snapshot
  ) -> tuple[dict[str, Any], int]:
    reals = self._reals
    rng = np.random.RandomState(self._seed)
    z = rng.randn(reals.num_images, painter.generator.z_dim)
    c = None
    if painter.generator.label_dim:
      assert self._source is not None
      labels = self._source.labels()
      c = labels[rng.randint(len(labels), size=len(z))]
    ws = painter.styles(snapshot.variables, z.astype(np.float32), c)
    fakes = painter.synthesize(snapshot.variables, ws)
    return {'swd': reals(fakes)}, reals.num_images

  @functools.cached_property
  def _reals(self) -> sliced_wasserstein.SlicedWasserstein:
    source = self._source
    assert source is not None
    count = min(self._num_samples, len(source))
    chosen = np.random.RandomState(self._seed).permutation(len(source))[:count]
    reals = np.stack([source[int(i)]['image'] for i in chosen])
    return sliced_wasserstein.SlicedWasserstein(
      reals, seed=self._seed, num_projections=128
    )

  def _measure_equivariance(
    self, painter: Painter, snapshot: Snapshot
  ) -> tuple[dict[str, Any], int]:
    variables: dict[str, Any] = {'generator': snapshot.variables}
    if painter.generator.label_dim:
      if self._source is None:
        raise ValueError('a conditional network needs labels: pass --data')
      # Class indices stay such: one-hot, all of them may fill the device.
      variables['labels'] = self._source.labels().values
    if self._equivariance is None:  # Compiles once for all snapshots.
      self._equivariance = equivariance.EquivarianceEvaluator(
        *_equivariance_functions(painter.generator),
        batch_size=painter.batch_size,
        metrics=self._equivariance_metrics,
        num_samples=self._num_samples,
        seed=self._seed,
        mesh=self._mesh,
        log=painter.log,
      )
    figures = self._equivariance(variables)
    return {name: {name: value} for name, value in figures.items()}, (
      self._num_samples
    )


def _equivariance_functions(generator: Any):
  """Returns what `EquivarianceEvaluator` calls: synthesize, sample_ws."""

  def synthesize(variables, ws: Array, transforms: Array) -> Array:
    return generator.apply(
      variables['generator'], ws, transforms, method='synthesis'
    )

  def sample_ws(variables, key: Array, n: int) -> Array:
    z_key, c_key = jax.random.split(key)
    z = jax.random.normal(z_key, (n, generator.z_dim))
    c = None
    if generator.label_dim:
      labels = variables['labels']
      c = labels[jax.random.randint(c_key, (n,), 0, len(labels))]
      if labels.ndim == 1:
        c = jax.nn.one_hot(c, generator.label_dim)
    return generator.apply(variables['generator'], z, c, method='mapping')

  return synthesize, sample_ws
