"""Batches of images in an order that depends on the seed alone."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

import grain
import numpy as np

from sg3jax.data import sources

# Grain seeds epoch e with `seed + e` modulo this, so orders repeat after it.
_EPOCHS = 2**32


class Loader:
  """Endless batches; a context manager that stops its threads on exit.

  Batches are `{'image': uint8 [n, h, w, c], 'label': float32 [n, label_dim]}`.
  An error in a thread is raised by the `next` that would have returned its
  batch; the loader is closed then.
  """

  def __init__(
    self,
    batches: grain.DatasetIterator,
    report: Callable[[str], None] | None = None,
    patience_sec: float | int = 60,
  ):
    self._batches = batches
    self._report = report
    self._patience_sec = patience_sec

  def __enter__(self) -> 'Loader':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()

  def __iter__(self) -> 'Loader':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    """Returns the next batch.

    Raises:
      ValueError: If an image cannot be read, or after `close`.
    """
    try:
      if self._report is None:
        return next(self._batches)
      return self._next_reported(self._report)
    except BaseException:
      # The failed batch is gone: going on would skip it without a word.
      self.close()
      raise

  def _next_reported(
    self, report: Callable[[str], None]
  ) -> dict[str, np.ndarray]:
    """Returns the next batch; reports if the run has to wait for long."""
    start, patience_sec = time.monotonic(), self._patience_sec
    timer = threading.Timer(
      patience_sec,
      lambda: report(
        f'Warning: waiting for data: no batch for {patience_sec:g} s. Is the '
        'disk or the network stuck? If the images only take long to decode, '
        'raise data.workers'
      ),
    )
    timer.daemon = True
    timer.start()
    try:
      batch = next(self._batches)
    finally:
      timer.cancel()
    waited = time.monotonic() - start
    if waited > patience_sec:
      report(f'The data came after {waited:.1f} s')
      # Slow data are slow again and again: not a line each time.
      self._patience_sec = 2 * waited
    return batch

  def close(self) -> None:
    """Stops reading ahead. What a thread is decoding now, it completes."""
    self._batches.close()


def make_loader(
  source: sources.ImageSource,
  *,
  batch_size: int,
  seed: int,
  start_image: int = 0,
  mirror: bool = False,
  process_index: int = 0,
  process_count: int = 1,
  num_threads: int = 2,
  report: Callable[[str], None] | None = None,
  patience_sec: float | int = 60,
) -> Loader:
  """Returns the batches of this process, from an image on.

  Every epoch shows every image once, in an order of its own. Epochs follow
  each other without a gap: a batch may hold the end of one and the beginning
  of the next, and no image is dropped. The image at a position is a function
  of the seed and the position, however it is reached and whatever the batch
  size. The rows of all processes, one after another, are the batch of a single
  process.

  Args:
    source: The images.
    batch_size: Number of images in a batch, over all processes.
    seed: Random seed of the order, from 0 to 2**32 - 1.
    start_image: Position of the first image to return: how many were shown
      before, over all processes.
    mirror: Whether to show every image also flipped left to right, as
      additional images of an epoch.
    process_index: Which rows of the batches to return.
    process_count: Processes that share the batches, equally.
    num_threads: Threads that read ahead, a batch each; 0 reads in `next`.
    report: Takes a line of text, from another thread, if a batch takes longer
      than any before it and than `patience_sec`; None reports nothing.
    patience_sec: Seconds to wait before the first report.

  Raises:
    ValueError: If an argument is out of range.
  """
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f'a batch of {batch_size} cannot be shared by {process_count} processes: '
      'use a positive multiple of their number'
    )
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index {process_index} is not below process_count '
      f'{process_count}'
    )
  if not 0 <= seed < 2**32:
    raise ValueError(f'the seed {seed} is not from 0 to 2**32 - 1')
  if start_image < 0 or num_threads < 0:
    raise ValueError(
      f'start_image {start_image} and num_threads {num_threads} must be 0 or '
      'more'
    )
  if not len(source):
    raise ValueError(f'{source.name} holds no images')
  # A chunk is one process's part of a batch: batch k is the chunks from
  # k * process_count on, and those of this process are a slice with a stride.
  chunks = (
    grain.MapDataset.source(_Mirrored(source) if mirror else source)
    .seed(seed)
    .shuffle()
    .repeat(_EPOCHS)[start_image:]
    .batch(batch_size // process_count)
  )
  batches = chunks[process_index::process_count]
  # One batch is ready while each thread works on another.
  options = grain.ReadOptions(
    num_threads=num_threads,
    prefetch_buffer_size=num_threads + 1 if num_threads else 0,
  )
  batches = iter(batches.to_iter_dataset(options))
  return Loader(batches, report, patience_sec)


class _Mirrored:
  """The images of a source, then the same ones flipped left to right."""

  def __init__(self, source: sources.ImageSource):
    self._source = source

  def __len__(self) -> int:
    return 2 * len(self._source)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    flipped, index = divmod(index, len(self._source))
    row = self._source[index]
    return row | {'image': row['image'][:, ::-1]} if flipped else row
