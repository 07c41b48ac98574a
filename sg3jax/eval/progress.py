"""Shows how far a measurement is, and the time that remains."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import jax

from sg3jax import text

_LINE_SECONDS = 60.0  # Seconds between lines if there is no terminal.


@contextlib.contextmanager
def bar(
  total: int, what: str, log: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
  """Shows a bar on a terminal, or else logs a line every minute.

  Args:
    total: Number of images.
    what: Name of the images, such as `real images`.
    log: Receives the lines.

  Yields:
    A function to call with the number of images that were processed.
  """
  if jax.process_index() > 0:
    yield lambda n: None
  elif sys.stderr.isatty():
    # Imported here because the import is slow and rarely needed.
    from rich import console, progress

    columns = (
      progress.TextColumn('{task.description}'),
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TimeRemainingColumn(),
    )
    output = console.Console(stderr=True)
    with progress.Progress(*columns, console=output, transient=True) as shown:
      task = shown.add_task(what, total=total)
      yield lambda n: shown.advance(task, n)
  else:
    yield _Lines(total, what, log).advance


class _Lines:
  """Logs a line now and then."""

  def __init__(self, total: int, what: str, log: Callable[[str], None]):
    self._total, self._what, self._log = total, what, log
    self._done = 0
    self._start = self._last = time.monotonic()

  def advance(self, n: int) -> None:
    """Counts n more images, and logs a line if the last one is old."""
    self._done += n
    now = time.monotonic()
    if now - self._last < _LINE_SECONDS or not 0 < self._done < self._total:
      return
    self._last = now
    rest = (now - self._start) * (self._total - self._done) / self._done
    self._log(
      f'{"Measuring:":15} {self._done:,} of {self._total:,} {self._what}, '
      f'{text.format_duration(rest)} left'
    )
