"""Batches of images in an order that depends only on the seed."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import TracebackType

import grain
import numpy as np
from absl import flags

from sg3jax.data import sources

# Grain seeds epoch e with `seed + e` modulo this, after which orders repeat.
_EPOCHS = 2**32


class Loader:
  """Iterates over batches endlessly, and stops what reads ahead on exit.

  Batches are `{'image': uint8 [n, h, w, c], 'label': float32 [n, label_dim]}`.
  If a thread or a process fails, the `next` that would have returned its batch
  raises the error and closes the loader.
  """

  def __init__(
    self,
    batches: grain.DatasetIterator,
    report: Callable[[str], None] | None = None,
    patience_sec: float | int = 60,
    starting: contextlib.AbstractContextManager[None] | None = None,
  ):
    """See `make_loader`; the first batch is read inside `starting`."""
    self._batches = batches
    self._report = report
    self._patience_sec = patience_sec
    self._starting = starting

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
      starting, self._starting = self._starting, None
      with starting or contextlib.nullcontext():
        return self._next()
    except BaseException:
      # The failed batch is lost: continuing would silently skip it.
      self.close()
      raise

  def _next(self) -> dict[str, np.ndarray]:
    """Returns the next batch, and reports a long wait."""
    report = self._report
    if report is None:
      return next(self._batches)
    start, patience_sec = time.monotonic(), self._patience_sec
    timer = threading.Timer(
      patience_sec,
      lambda: report(
        f'Warning: waiting for data: no batch for {patience_sec:g} s. Check '
        'the disk and the network. If images are slow to decode, increase '
        'data.workers or data.processes'
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
    """Stops reading ahead, once batches that are being read are complete."""
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
  num_processes: int = 0,
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
      `next` reads, unless there are processes.
    num_processes: Number of processes that read ahead, with such threads each;
      with 0, this process reads. They start anew, which takes seconds, and get
      the source by pickling.
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
  if min(start_image, num_threads, num_processes) < 0:
    raise ValueError(
      'start_image, num_threads and num_processes must be at least 0, got '
      f'{start_image}, {num_threads} and {num_processes}'
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
  batches = batches.to_iter_dataset(options)
  starting = None
  if num_processes:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own.
    # Process i reads batches i, i + num_processes and so on, and this process
    # takes them in turn: so the order is the same.
    batches = batches.mp_prefetch(
      grain.MultiprocessingOptions(num_processes, per_worker_buffer_size=1),
      worker_init_fn=_live_with_parent,
    ).map(_copied)
    starting = _children_without_signals()
  return Loader(iter(batches), report, patience_sec, starting)


def _copied(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Copies a batch out of the memory that it shares with a process.

  JAX may keep the arrays for as long as it lives; that memory must be freed.
  """
  return {key: np.array(value) for key, value in batch.items()}


@contextlib.contextmanager
def _children_without_signals() -> Iterator[None]:
  """Starts processes, by this thread or its new threads, that signals spare.

  Terminals and job schedulers signal all processes of a job, whose parent then
  still needs batches for its last step. Processes inherit the blocked signals,
  so there is no moment at which one would end them.
  """
  signals = (signal.SIGINT, signal.SIGTERM)
  # The tracker of shared memory unblocks them when it is started.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live_with_parent(index: int, count: int) -> None:
  """Makes a process end with the one that started it, also by SIGKILL."""
  del index, count
  parent = multiprocessing.parent_process()
  assert parent is not None

  def wait():
    parent.join()
    os._exit(1)

  threading.Thread(target=wait, daemon=True).start()


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
