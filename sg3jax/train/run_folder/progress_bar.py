"""A bar between the lines of the ticks, for people who watch a terminal."""

import sys
from collections.abc import Iterator
from typing import TypeVar

import jax

_T = TypeVar('_T')


def track(
  batches: Iterator[_T], *, done: int, total: int, kimg_per_step: float | int
) -> Iterator[_T]:
  """Yields the batches of the steps and draws how far they are.

  Lines that are printed meanwhile stand above the bar. Where the output is
  redirected nothing is drawn: logs hold plain lines.

  Args:
    batches: One for each step, from `done` on.
    done: Steps that the run has done before.
    total: Steps of the run.
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
    task = bar.add_task('', total=total * kimg_per_step)
    bar.advance(task, done * kimg_per_step)
    for batch in batches:
      yield batch
      bar.advance(task, kimg_per_step)
