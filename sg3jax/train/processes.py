"""Makes the processes of a run on several hosts agree on failures.

Most computations of a run are collective. If one process left them, for
example because its disk is full, the others would wait forever.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils


def where(condition: bool) -> list[int]:
  """Returns the processes on which a condition holds; call it on all."""
  if jax.process_count() == 1:
    return [0] if condition else []
  flags = multihost_utils.process_allgather(np.array(condition))
  return [int(i) for i in np.flatnonzero(flags)]


@contextlib.contextmanager
def fail_together(task: str) -> Iterator[None]:
  """Makes a block that raises on one process raise on all of them.

  All processes must enter the block, and it must not compute collectively:
  compute first, then write in such a block.

  Args:
    task: Completes `could not ...` in the message, as in `write the tick`.

  Raises:
    Exception: What the block raised on this process.
    RuntimeError: If it raised only on other processes.
  """
  try:
    yield
  except Exception:
    where(True)
    raise
  check_together(task, failed=False)


def check_together(task: str, *, failed: bool) -> None:
  """Raises a RuntimeError if a task failed only on other processes."""
  others = where(failed)
  if others and not failed:
    raise RuntimeError(
      f'process {others[0]} of {jax.process_count()} could not {task}: see '
      'its output. The run ends on all; fix the cause and run the same '
      'command again'
    )
