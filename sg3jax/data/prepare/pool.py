"""Applies a function to many items in several processes, in order."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent import futures
from typing import Any

# Items that a process receives at once. A stop waits for this many.
_CHUNK = 8

_function: Callable[[int], Any] | None = None  # Set in each process.


def default_workers() -> int:
  """Returns the number of CPU cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def ordered_map(
  function: Callable[[int], Any], items: Sequence[int], workers: int
) -> Generator[Any, None, None]:
  """Yields the results for items in their order.

  At most a few chunks are computed ahead, so memory does not depend on the
  number of items. Processes end when the iterator is closed, and when this
  process dies.

  Args:
    function: A function that can be pickled; each process receives it once.
    items: The items.
    workers: Number of processes; 1 computes in this one.

  Raises:
    ValueError: If `workers` is less than 1.
    OSError: If a process dies.
    Exception: Whatever the function raises.
  """
  if workers < 1:
    raise ValueError(f'workers must be at least 1, got {workers}')
  if workers == 1 or len(items) <= 1:
    yield from map(function, items)
    return
  executor = futures.ProcessPoolExecutor(
    workers,
    # A fork would copy the locks of this process's threads.
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_start,
    initargs=(function,),
  )
  chunks = iter([items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK)])
  try:
    pending = collections.deque(
      executor.submit(_apply, chunk)
      for chunk in itertools.islice(chunks, 2 * workers)
    )
    while pending:
      results = pending.popleft().result()
      pending.extend(
        executor.submit(_apply, chunk) for chunk in itertools.islice(chunks, 1)
      )
      yield from results
  except futures.process.BrokenProcessPool as error:
    raise OSError(
      'a process that decodes images has died, perhaps for lack of memory: '
      f'use fewer workers than {workers}'
    ) from error
  finally:
    executor.shutdown(wait=True, cancel_futures=True)


def _start(function: Callable[[int], Any]) -> None:
  global _function
  _function = function
  # Ctrl-C reaches all processes of a terminal; the parent decides what to do.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _apply(chunk: Sequence[int]) -> list[Any]:
  assert _function is not None
  return [_function(item) for item in chunk]
