"""A progress bar below the lines of the ticks, on a terminal."""

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
  """Yields batches, and shows a progress bar that moves on with each.

  Lines that are printed meanwhile stand above the bar. There is none where the
  output is redirected, so that logs hold plain lines.

  Args:
    batches: One batch for each step.
    done_kimg: Thousands of images shown before.
    total_kimg: Thousands of images at which the run ends.
    kimg_per_step: Thousands of images that a step shows.
  """
  if jax.process_index() > 0 or not sys.stdout.isatty():
    yield from batches
    return
  # Here and not above: the import takes a while, and few need it.
  from rich import progress

  digits = 1 if total_kimg >= 1 else 3  # Small runs move too.
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
