"""Ends a run early on request, without losing a step.

A scheduler that reclaims the machine sends SIGTERM; a user presses Ctrl-C. The
run then finishes its step, saves and ends. The same command continues it.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

# Exit status of a process that stopped on request: EX_TEMPFAIL, "try again
# later".
EXIT_CODE = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
  """Records whether a run has been asked to stop.

  Attributes:
    signal: Name of the signal received; None if there was none.
    obeyed: Whether the run has ended early because of it; set by the run.
  """

  def __init__(self):
    self.signal: str | None = None
    self.obeyed = False

  def reached(self, step: int) -> bool:
    """Returns whether to stop after a step; call it after each step.

    On several hosts JAX's preemption service decides: a SIGTERM to any host
    stops all of them after the same step.
    """
    if jax.process_count() > 1:
      try:
        reached = multihost_utils.reached_preemption_sync_point(step)
      except RuntimeError:  # The service is disabled.
        return False
      if reached:
        self.signal = signal.SIGTERM.name
      return reached
    return self.signal is not None


@contextlib.contextmanager
def stop_on_signals(
  meaning: str = 'the run finishes its step, saves and stops',
) -> Iterator[Stop]:
  """Turns the first SIGTERM or SIGINT into a request; a second ends at once.

  Use it in the main thread of a program: it replaces the handlers of these
  signals and restores them at the end. On several hosts it replaces none; see
  `Stop.reached`.

  Args:
    meaning: What the program does on the first signal; printed at that time.
  """
  stop = Stop()
  if jax.process_count() > 1:
    yield stop
    return
  # Python runs its handlers between bytecodes of the main thread, which may be
  # compiling for minutes. The signal also writes a byte to a pipe, which
  # another thread reads at once.
  read_end, write_end = os.pipe()
  os.set_blocking(write_end, False)
  thread = threading.Thread(
    target=_listen, args=(read_end, stop, meaning), name='signals', daemon=True
  )
  thread.start()
  before_fd = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
  before = {s: signal.signal(s, lambda *_: None) for s in _SIGNALS}
  try:
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(before_fd)
    os.close(write_end)  # Ends the thread.
    thread.join()
    os.close(read_end)


def _listen(read_end: int, stop: Stop, meaning: str) -> None:
  while byte := os.read(read_end, 1):
    if byte[0] not in _SIGNALS:
      continue
    if stop.signal:
      os._exit(128 + byte[0])
    stop.signal = signal.Signals(byte[0]).name
    print(
      f'{stop.signal}: {meaning}. Once more stops it at once, without saving',
      file=sys.stderr,
      flush=True,
    )
