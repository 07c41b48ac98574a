"""A progress bar below the lines of the ticks, on a terminal."""

import sys
from collections.abc import Iterator
from typing import TypeVar

import jax

_T = TypeVar('_T')


def track(
  batches: Iterator[_T], *, done: int, total: int, kimg_per_step: float | int
) -> Iterator[_T]:
  """Yields batches, and shows a progress bar that moves on with each.

  Lines that are printed meanwhile stand above the bar. There is none where the
  output is redirected, so that logs hold plain lines.

  Args:
    batches: One batch for each step, from `done` on.
    done: Number of steps that the run has done before.
    total: Number of steps of the whole run.
    kimg_per_step: Thousands of images that a step shows.
  """
  if jax.process_index() > 0 or not sys.stdout.isatty():
    yield from batches
    return
  # Here and not above: the import takes a while, and few need it.
  from rich import progress

  digits = 1 if total * kimg_per_step >= 1 else 3  # Small runs move too.
  count = f'{{task.completed:.{digits}f}} / {{task.total:g}} kimg'
  columns = (
    progress.BarColumn(),
    progress.TextColumn(count),
    progress.TimeRemainingColumn(),
  )
  with progress.Progress(*columns, transient=True) as bar:
    task = bar.add_task('', total=total * kimg_per_step)
    bar.advance(task, done * kimg_per_step)
    for batch in batches:
      yield batch
      bar.advance(task, kimg_per_step)
