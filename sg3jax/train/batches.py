"""Opens the batches of a run and spreads them over the devices."""

import contextlib
from collections.abc import Callable, Generator, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from sg3jax.data import labels as labels_lib
from sg3jax.data import loader as loader_lib
from sg3jax.data import sources
from sg3jax.train import sharding
from sg3jax.train.run_folder import progress_bar
from sg3jax.types import Array, Config

Batches = Iterator[dict[str, Array]]


@contextlib.contextmanager
def open_batches(
  config: Config,
  source: sources.ImageSource,
  mesh: Mesh,
  *,
  step: int,
  nimg: int,
  log: Callable[[str], None],
) -> Iterator[Batches]:
  """Opens the batches of a run from its current step on.

  The images of a batch depend on the seed and on the number of images shown
  before it. The labels for generated images depend on the seed and the step.

  Args:
    config: The resolved configuration.
    source: The training images.
    mesh: The devices.
    step: Number of steps done before.
    nimg: Number of images shown before.
    log: Receives a line of text if the data are late.
  """
  size = config.train.batch
  labels = source.labels() if config.model.label_dim else None
  with loader_lib.make_loader(
    source,
    batch_size=size,
    seed=config.seed,
    start_image=nimg,
    mirror=config.data.mirror,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_threads=config.data.workers,
    num_processes=config.data.processes,
    report=log,
  ) as loader:
    rows = progress_bar.track(
      loader,
      done_kimg=nimg / 1000,
      total_kimg=config.train.total_kimg,
      kimg_per_step=size / 1000,
    )
    batches = _spread(rows, labels, size, config.seed, step, mesh)
    # Close it here, not when it is collected: it holds the progress bar.
    with contextlib.closing(batches):
      yield batches


def _spread(
  loader: Iterator[dict[str, np.ndarray]],
  labels: labels_lib.Labels | None,
  size: int,
  seed: int,
  step: int,
  mesh: Mesh,
) -> Generator[dict[str, Array]]:
  """Yields global batches, with labels for the generated images."""
  local = slice(
    jax.process_index() * size // jax.process_count(),
    (jax.process_index() + 1) * size // jax.process_count(),
  )
  for number, rows in enumerate(loader, step):
    if labels is None:
      rows = {'image': rows['image']}
    else:  # Generated images get labels at the frequencies of the data.
      rng = np.random.default_rng((seed, number))
      for name in ('g_label', 'd_label'):
        sampled = rng.integers(len(labels), size=size)
        rows = rows | {name: labels[sampled[local]]}
    yield sharding.shard_batch(rows, mesh)
