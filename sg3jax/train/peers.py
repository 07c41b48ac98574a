"""Notices that another process of a run no longer answers, or that none steps.

Devices wait for each other without a limit, so a process that was killed or
stopped would keep all others waiting. A thread of each process therefore counts
in the key-value store that JAX's coordination service keeps on process 0, and
watches the counts of the others.
"""

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from sg3jax import text
from sg3jax.train import preemption

# Seconds from one count to the next.
_INTERVAL = 5.0

# Seconds without a new count after which a process is given up. Threads count
# while a program compiles, so that this need not allow for it.
_PATIENCE = 40.0

_PREFIX = 'sg3jax/peers/'
_DONE = 'done'


class Watch:
  """Counts for this process, and watches the counts of the others.

  Attributes:
    step: Number of the last step that this process has queued; set by the run.
  """

  def __init__(
    self,
    store: Any,
    *,
    index: int,
    number: int,
    interval: float = _INTERVAL,
    patience: float = _PATIENCE,
    hang_seconds: float = 0.0,
    end: Callable[[int], Any] = os._exit,
  ):
    """Prepares to watch; `start` starts it.

    Args:
      store: Client of the coordination service; None for a single process.
      index: Number of this process.
      number: Number of all processes.
      interval: Seconds from one count to the next.
      patience: Seconds without a new count after which a process is given up.
      hang_seconds: Seconds without a step after which the stacks of all threads
        are printed, once; 0 for never.
      end: Ends this process with a status.
    """
    self.step = 0
    self._store = store
    self._index = index
    self._others = [i for i in range(number) if i != index]
    self._interval = interval
    self._patience = patience
    self._hang_seconds = hang_seconds
    self._end = end
    self._stopped = threading.Event()
    self._found: str | None = None
    now = time.monotonic()
    self._seen = dict.fromkeys(self._others, ('', now))  # Last count, and when.
    self._coordinator_seen = now
    self._stepped, self._stepped_at = -1, now
    self._thread = threading.Thread(target=self._run, name='peers', daemon=True)

  def start(self) -> None:
    """Starts the thread."""
    self._thread.start()

  def stop(self) -> None:
    """Stops the thread, and says so to the other processes."""
    self._stopped.set()
    self._thread.join()
    if self._store is not None:
      with contextlib.suppress(Exception):  # Process 0 may have ended before.
        self._publish(_DONE)

  def wait(self) -> None:
    """Waits until it is known who does not answer, which ends this process.

    Call it when a collective computation has failed, since that happens at once
    if the connection to another process breaks. Returns if all answer.
    """
    if self._store is not None:
      self._stopped.wait(self._patience + 2 * self._interval)

  def _run(self) -> None:
    count = 0
    while not self._stopped.wait(self._interval):
      count += 1
      self._check_hang()
      if self._store is None:
        continue
      silent = self._silent(count)
      if silent is not None and not self._stopped.is_set():
        self._give_up(silent)
        return

  def _publish(self, count: str) -> None:
    host = socket.gethostname()
    self._store.key_value_set(
      f'{_PREFIX}{self._index}', f'{count} {self.step} {host}', True
    )

  def _silent(self, count: int) -> str | None:
    """Counts, and returns a description of a process that does not answer."""
    now = time.monotonic()
    try:
      self._publish(str(count))
      found = dict(self._store.key_value_dir_get(_PREFIX))
      self._coordinator_seen = now
    except Exception as error:  # Whatever JAX raises if it is not there.
      if now - self._coordinator_seen < self._patience:
        return None
      reason = str(error).partition('\n')[0]
      return f'process 0, which coordinates the run, does not answer: {reason}'
    for i in self._others:
      value = found.get(f'{_PREFIX}{i}', '')
      before, seen_at = self._seen[i]
      if value != before:
        self._seen[i] = value, now
      elif not value.startswith(_DONE) and now - seen_at >= self._patience:
        _, step, host = value.split() if value else ('', '0', 'unknown host')
        return (
          f'process {i} ({host}) has not answered for {now - seen_at:.0f} s; '
          f'its last step was {step}, here {self.step}'
        )
    return None

  def _give_up(self, reason: str) -> None:
    print(
      f'error: {reason}. This process ends with status '
      f'{preemption.EXIT_CODE}: start the same command again on all hosts, and '
      'the run goes on from its newest checkpoint',
      file=sys.stderr,
      flush=True,
    )
    self._end(preemption.EXIT_CODE)

  def _check_hang(self) -> None:
    now = time.monotonic()
    if self.step != self._stepped:
      self._stepped, self._stepped_at = self.step, now
    elif self._hang_seconds and now - self._stepped_at >= self._hang_seconds:
      elapsed = text.format_duration(now - self._stepped_at)
      print(
        f'No step has ended for {elapsed}. These are the stacks of all threads '
        'of this process:',
        file=sys.stderr,
        flush=True,
      )
      faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
      self._hang_seconds = 0.0  # Once is enough.


@contextlib.contextmanager
def watch(hang_minutes: float) -> Iterator[Watch]:
  """Watches the processes of a run while it lasts.

  Args:
    hang_minutes: Minutes without a step after which the stacks of all threads
      are printed; 0 for never.
  """
  # JAX has no public function for its key-value store.
  from jax._src import distributed

  watch = Watch(
    distributed.global_state.client,
    index=jax.process_index(),
    number=jax.process_count(),
    hang_seconds=60 * hang_minutes,
  )
  watch.start()
  try:
    yield watch
  except jax.errors.JaxRuntimeError:
    watch.wait()
    raise
  finally:
    watch.stop()
