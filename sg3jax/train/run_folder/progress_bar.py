"""A bar between the lines of the ticks, for people who watch a terminal."""

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
  """Yields the batches of the steps and shows how far they are.

  Lines that are printed meanwhile stand above the bar. Where the output is
  redirected there is no bar: logs hold plain lines.

  Args:
    batches: One for each step.
    done_kimg: Thousands of images shown before.
    total_kimg: Thousands of images at which the run ends.
    kimg_per_step: Thousands of images of a step.
  """
  if jax.process_index() > 0 or not sys.stdout.isatty():
    yield from batches
    return
  # Here and not above: the import takes a while, and few need it.
  from rich import progress

  columns = (
    progress.BarColumn(),
    progress.TextColumn('{task.completed:.1f} / {task.total:g} kimg'),
    progress.TimeRemainingColumn(),
  )
  with progress.Progress(*columns, transient=True) as bar:
    task = bar.add_task('', total=total_kimg)
    bar.advance(task, done_kimg)
    for batch in batches:
      yield batch
      bar.advance(task, kimg_per_step)
