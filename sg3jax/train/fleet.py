"""Shows what each process of a run waits for, and names a slow one.

All processes do the same steps at the same pace, since their devices exchange
gradients. A slow host therefore does not have longer steps than the others: it
is the one that never waits for the devices, while all others wait for it.
"""

import contextlib
import dataclasses
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from sg3jax import text

# A process is slow if it keeps the others waiting for this share of a step.
_SHARE = 0.2

# At most so many lines of a table; the rest waits longest for the devices.
_LINES = 16

# Bytes of a host's name.
_NAME = 64


@dataclasses.dataclass(frozen=True)
class Pace:
  """What a process did in the mean step of a tick.

  Attributes:
    process: Number of the process.
    host: Name of its host.
    step: Seconds of a step.
    data: Seconds that it waited for images.
    devices: Seconds that it waited for the devices, its own or those of others.
  """

  process: int
  host: str
  step: float
  data: float
  devices: float

  @property
  def busy(self) -> float:
    """Seconds in which the devices may have waited for this process."""
    return self.step - self.devices


class Fleet:
  """Measures this process, and collects the paces of all of them.

  with fleet.waiting('data'):
    batch = next(batches)
  ...
  lines = fleet.end_tick(steps=100)  # On all processes.
  """

  def __init__(self, now: Callable[[], float] = time.monotonic):
    """Starts the first tick.

    Args:
      now: Returns the time in seconds.
    """
    self._now = now
    self._waited = {'data': 0.0, 'devices': 0.0}
    self._start = now()

  def start_tick(self) -> None:
    """Starts a tick: forgets what was measured."""
    self._waited = dict.fromkeys(self._waited, 0.0)
    self._start = self._now()

  @contextlib.contextmanager
  def waiting(self, what: str) -> Iterator[None]:
    """Counts the time in this context.

    Args:
      what: What this process waits for: data or devices.
    """
    start = self._now()
    try:
      yield
    finally:
      self._waited[what] += self._now() - start

  def end_tick(self, steps: int) -> str:
    """Returns the table of all processes; empty for a single process.

    All processes must call it.

    Args:
      steps: Number of steps of the tick.
    """
    if jax.process_count() == 1:
      return ''
    values = [self._now() - self._start, *self._waited.values()]
    own = np.array(values, np.float32) / max(steps, 1)
    name = socket.gethostname().encode()[:_NAME].ljust(_NAME, b'\0')
    gathered, names = multihost_utils.process_allgather(
      (own, np.frombuffer(name, np.uint8))
    )
    return report(
      [
        Pace(i, bytes(name).rstrip(b'\0').decode(), *map(float, row))
        for i, (row, name) in enumerate(zip(gathered, names, strict=True))
      ]
    )


def report(paces: Sequence[Pace]) -> str:
  """Returns the table of several processes, and a warning for a slow one.

  Args:
    paces: The processes. If there are many, only those are shown that the
      others wait for the most.
  """
  shown = sorted(paces, key=lambda pace: -pace.busy)[:_LINES]
  rows = [
    {
      'process': str(pace.process),
      'host': pace.host,
      'ms/step': 1000 * pace.step,
      'waits for data': 1000 * pace.data,
      'waits for devices': 1000 * pace.devices,
    }
    for pace in sorted(shown, key=lambda pace: pace.process)
  ]
  lines = [text.markdown(rows)]
  if len(shown) < len(paces):
    lines.append(f'({len(paces) - len(shown)} processes that wait longer)')
  if slow := find_slow(paces):
    reason = (
      'it waits for data: check its disk and network, or increase data.workers '
      'or data.processes'
      if slow.data > slow.busy / 2
      else 'it is busy with other things: check its processor and memory'
    )
    lines.append(
      f'Warning: process {slow.process} ({slow.host}) is slow, and the others '
      f'wait for it: {reason}'
    )
  return '\n'.join(lines)


def find_slow(paces: Sequence[Pace]) -> Pace | None:
  """Returns the process that others wait for, if there is one.

  It is the one with the longest busy time, if that exceeds the median of the
  others by a fifth of a step.
  """
  if len(paces) < 2:
    return None
  slow = max(paces, key=lambda pace: pace.busy)
  median = statistics.median(p.busy for p in paces if p is not slow)
  return slow if slow.busy - median > _SHARE * slow.step else None
