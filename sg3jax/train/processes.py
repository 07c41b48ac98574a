"""Joins the processes of a run on several hosts, and makes them agree.

Most computations of a run are collective. If one process left them, for
example because its disk is full, the others would wait forever.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

# Seconds until JAX itself gives up a process that does not answer. The run's
# own watch, in `peers`, is faster, and ends with a status for restarts.
_HEARTBEAT = 100

# Seconds to wait for all processes to start.
_START = 300


def join(
  coordinator: str | None = None,
  number: int | None = None,
  index: int | None = None,
) -> None:
  """Joins this process to a run; call it before any computation.

  Without arguments, JAX asks the environment: Cloud TPU, Slurm, Kubernetes and
  Open MPI are known to it.

  Args:
    coordinator: HOST:PORT of process 0, for all processes the same.
    number: Number of processes.
    index: Number of this process, from 0.

  Raises:
    ValueError: If some arguments are given and others are not, or the
      environment does not say what is missing.
    TimeoutError: If not all processes start in time.
  """
  given = [coordinator, number, index]
  if any(x is not None for x in given) and None in given:
    raise ValueError(
      'coordinator, num_processes and process_id must be given together, got '
      + ', '.join(map(str, given))
    )
  if number is not None and index is not None and not 0 <= index < number:
    raise ValueError(f'process_id must be from 0 to {number - 1}, got {index}')
  try:
    jax.distributed.initialize(
      coordinator,
      number,
      index,
      initialization_timeout=_START,
      heartbeat_timeout_seconds=_HEARTBEAT,
    )
  except ValueError as error:  # For example, "coordinator_address should ...".
    raise ValueError(
      'the environment must say how to join the other processes, but does not '
      f'({error}): pass --coordinator, --num_processes and --process_id'
    ) from error
  except jax.errors.JaxRuntimeError as error:
    if 'DEADLINE_EXCEEDED' not in str(error):
      raise
    raise TimeoutError(
      f'not all processes have joined the run within {_START} s: start the '
      'same command on every host, and see whether the coordinator can be '
      'reached'
    ) from error


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
