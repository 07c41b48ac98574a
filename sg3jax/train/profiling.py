"""Records what the devices do during some steps."""

import pathlib
import re
from collections.abc import Callable, Collection, Sequence

import jax

FOLDER = 'profile'


def parse_steps(text: str) -> range:
  """Returns the steps of `A:B`, from A to B inclusive, counted from 1.

  Raises:
    ValueError: If the text is not such a pair.
  """
  match = re.fullmatch(r'(\d+):(\d+)', text)
  if not match or not 1 <= int(match[1]) <= int(match[2]):
    raise ValueError(
      f'--profile={text} is not understood: use FIRST:LAST, such as 20:24, '
      'steps of the run counted from 1'
    )
  return range(int(match[1]), int(match[2]) + 1)


def parse_processes(numbers: Sequence[str] | None) -> frozenset[int] | None:
  """Returns the processes that are to be profiled; None for all of them.

  Args:
    numbers: Their numbers as text, or None.

  Raises:
    ValueError: If one is not a number from 0.
  """
  if numbers is None:
    return None
  if not numbers or not all(re.fullmatch(r'\d+', n) for n in numbers):
    raise ValueError(
      '--profile_processes must be numbers of processes, such as 0,3, got '
      f'{",".join(numbers)!r}'
    )
  return frozenset(map(int, numbers))


def steps_of_this_process(
  steps: range, processes: Collection[int] | None
) -> range:
  """Returns the steps to profile on this process.

  Args:
    steps: The steps to profile on those that are chosen.
    processes: The processes that are chosen; None for all.

  Raises:
    ValueError: If there is no such process.
  """
  if processes is None:
    return steps
  if max(processes) >= jax.process_count():
    raise ValueError(
      f'--profile_processes must be below {jax.process_count()}, the number of '
      f'processes of this run, got {max(processes)}'
    )
  return steps if jax.process_index() in processes else range(0)


class Profiler:
  """Writes a trace of some steps of a run, for TensorBoard or Perfetto.

  Args:
    steps: Numbers of the steps, counted from 1; empty for no trace.
    workdir: The run folder; the trace goes to `profile` in it.
    log: Receives a line of text.
  """

  def __init__(
    self, steps: range, workdir: pathlib.Path, log: Callable[[str], None]
  ):
    self._steps = steps
    self._folder = workdir / FOLDER
    self._log = log
    self._runs = False

  def before(self, step: int, state: object) -> None:
    """Call this before a step, with the state that the step starts from."""
    if step in self._steps and not self._runs:
      jax.block_until_ready(state)  # Keep earlier steps out of the trace.
      jax.profiler.start_trace(self._folder)
      self._runs = True

  def after(self, step: int, state: object) -> None:
    """Call this after a step, with the resulting state."""
    if self._runs and step + 1 not in self._steps:
      jax.block_until_ready(state)
      self.close()

  def close(self) -> None:
    """Ends a trace that is being recorded."""
    if self._runs:
      self._runs = False
      jax.profiler.stop_trace()
      self._log(f'Profile:        {self._folder}')
