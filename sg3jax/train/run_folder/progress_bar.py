"""Shows a progress bar below the tick lines, on a terminal."""

import sys
from collections.abc import Iterator
from typing import TypeVar

import jax

_T = TypeVar('_T')


def track(
  batches: Iterator[_T],
  *,
  done_kimg: float,
  total_kimg: float,
  kimg_per_step: float,
) -> Iterator[_T]:
  """Yields batches, and shows a progress bar that advances with each one.

  Lines printed meanwhile appear above the bar. No bar is shown if the output is
  redirected, so that logs contain plain lines only.

  Args:
    batches: One batch per step.
    done_kimg: Thousands of images shown before this session.
    total_kimg: Thousands of images at which the run ends.
    kimg_per_step: Thousands of images shown per step.
  """
  if jax.process_index() > 0 or not sys.stdout.isatty():
    yield from batches
    return
  # Imported here because the import is slow and rarely needed.
  from rich import progress

  digits = 1 if total_kimg >= 1 else 3  # Show the progress of small runs.
  count = f'{{task.completed:.{digits}f}} / {{task.total:g}} kimg'
  columns = (
    progress.BarColumn(),
    progress.TextColumn(count),
    progress.TimeRemainingColumn(),
  )
  with progress.Progress(*columns, transient=True) as bar:
    task = bar.add_task('', total=total_kimg)
    bar.advance(task, done_kimg)
    for batch in batches:
      yield batch
      bar.advance(task, kimg_per_step)
