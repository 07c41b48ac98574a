"""Trains a point of a sweep in its own run folder."""

import math
import pathlib
from collections.abc import Callable

from sg3jax import launch
from sg3jax.data import sources
from sg3jax.eval import results
from sg3jax.sweeps import analysis
from sg3jax.train import preemption, sharding
from sg3jax.types import Config


def make_check() -> Callable[[Config], None]:
  """Returns a function that raises an error if a point cannot be trained.

  It opens each set of images only once for all points.
  """
  opened: dict[tuple, sources.ImageSource] = {}

  def check(config: Config) -> None:
    data = config.data
    key = (config.model.resolution, data.source, data.cond, data.max_images)
    if key not in opened:
      opened[key] = launch.open_source(config)
    source = opened[key]
    config = config.copy_and_resolve_references()
    config.model.img_channels = source.channels
    config.model.label_dim = source.label_dim
    analysis.check(config)
    launch.make_evaluator(config, source, sharding.make_mesh(1))
    launch.best_by(config)

  return check


def train(config: Config, workdir: str) -> analysis.Values | None:
  """Trains a point, or resumes its training.

  Call this function in the main thread of a process, since it handles signals.

  Args:
    config: The configuration.
    workdir: The run folder, on storage that all machines of a cluster share,
      since another machine may resume the run.

  Returns:
    The values of the last snapshot, or None if the run was asked to stop
    early; the same call then resumes it.
  """
  with preemption.stop_on_signals() as stop:
    launch.train(config, workdir, stop=stop)
  return None if stop.obeyed else last_values(pathlib.Path(workdir))


def last_values(workdir: pathlib.Path) -> analysis.Values:
  """Returns the values of a run's last snapshot, and its speed, by name."""
  values: analysis.Values = {}
  stats = results.last_line(workdir / 'stats.jsonl') or {}
  for name, stat in (
    ('kimg', 'Progress/kimg'),
    ('sec_per_kimg', 'Timing/sec_per_kimg'),
  ):
    if stat in stats:
      values[name] = stats[stat]['mean']
  kimg = stats.get('Progress/kimg', {}).get('mean', math.nan)
  for path in sorted(workdir.glob('metric-*.jsonl')):
    line = results.last_line(path) or {}
    # If the last evaluation failed, the last line is of an older snapshot.
    if math.isclose(line.get('kimg', math.nan), kimg):
      values |= line['results']
  return values
