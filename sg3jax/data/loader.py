"""Batches of images in an order that depends only on the seed."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

import grain
import numpy as np

from sg3jax.data import sources

# Grain seeds epoch e with `seed + e` modulo this, after which orders repeat.
_EPOCHS = 2**32


class Loader:
  """Iterates over batches endlessly, and stops its threads on exit.

  Batches are `{'image': uint8 [n, h, w, c], 'label': float32 [n, label_dim]}`.
  If a thread fails, the `next` that would have returned its batch raises the
  error and closes the loader.
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
      # The failed batch is lost: continuing would silently skip it.
      self.close()
      raise

  def _next_reported(
    self, report: Callable[[str], None]
  ) -> dict[str, np.ndarray]:
    """Returns the next batch, and reports a long wait."""
    start, patience_sec = time.monotonic(), self._patience_sec
    timer = threading.Timer(
      patience_sec,
      lambda: report(
        f'Warning: waiting for data: no batch for {patience_sec:g} s. Check '
        'the disk and the network. If images are slow to decode, increase '
        'data.workers'
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
      report(f'The data arrived after {waited:.1f} s')
      # Slow data usually stay slow: do not report every batch.
      self._patience_sec = 2 * waited
    return batch

  def close(self) -> None:
    """Stops reading ahead. Threads complete the batch that they are reading."""
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
  """Returns the batches of this process, beginning at a given image.

  Every epoch shows every image once, in its own order. Epochs follow each other
  without a gap: a batch may contain the end of one and the beginning of the
  next, and no image is dropped. The image at a position depends only on the
  seed and the position, not on the batch size or on where the loader started.
  The rows of all processes, concatenated, are the batch of a single process.

  Args:
    source: The images.
    batch_size: Number of images in a batch, over all processes.
    seed: Random seed of the order, from 0 to 2**32 - 1.
    start_image: Position of the first image to return, which is the number of
      images shown before, over all processes.
    mirror: Whether to also show every image flipped left to right, as
      additional images of an epoch.
    process_index: Index of this process, which determines its rows.
    process_count: Number of processes that share the batches equally.
    num_threads: Number of threads that read ahead, one batch each; with 0,
      `next` reads.
    report: Receives a line of text, from another thread, if a batch takes
      longer than `patience_sec` and than all previous batches; None reports
      nothing.
    patience_sec: Seconds to wait before the first report.

  Raises:
    ValueError: If an argument is out of range.
  """
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      'batch_size must be a positive multiple of the number of processes, '
      f'{process_count}, got {batch_size}'
    )
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index must be from 0 to {process_count - 1}, got '
      f'{process_index}'
    )
  if not 0 <= seed < 2**32:
    raise ValueError(f'seed must be from 0 to 2**32 - 1, got {seed}')
  if start_image < 0 or num_threads < 0:
    raise ValueError(
      f'start_image and num_threads must be at least 0, got {start_image} and '
      f'{num_threads}'
    )
  if not len(source):
    raise ValueError(f'the source {source.name} must have images, got none')
  # A chunk is the part of a batch for one process. Batch k consists of
  # process_count chunks beginning at k * process_count, and the chunks of this
  # process are a strided slice.
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
  """The images of a source, then the same images flipped left to right."""

  def __init__(self, source: sources.ImageSource):
    self._source = source

  def __len__(self) -> int:
    return 2 * len(self._source)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    flipped, index = divmod(index, len(self._source))
    row = self._source[index]
    return row | {'image': row['image'][:, ::-1]} if flipped else row
