"""Calls evaluators so that their failures do not end the run."""

import traceback
from collections.abc import Callable, Mapping, Sequence

import jax

from sg3jax import text
from sg3jax.train import processes
from sg3jax.types import Snapshot

# Takes a snapshot, plots or measures it, and returns metrics by name.
Evaluator = Callable[[Snapshot], Mapping[str, float]]


class Evaluators:
  """Evaluators of one run. An error in one is logged, and the run continues.

  Several hosts compute together. An error on only some of them, such as a full
  disk, ends the run on all, because the others would wait forever.

  Args:
    evaluators: The evaluators, called in this order.
    log: Receives one or more lines of text.
    stop: Returns whether the run has been asked to stop. If so, no further
      evaluator is called.
  """

  def __init__(
    self,
    evaluators: Sequence[Evaluator],
    log: Callable[[str], None],
    stop: Callable[[], bool],
  ):
    self._evaluators = [
      text.announce_first_call(evaluator, log, 'the evaluation', 'Evaluated:')
      for evaluator in evaluators
    ]
    self._log = log
    self._stop = stop
    self._shown: set[str] = set()  # Failures with a traceback in the log.

  def __bool__(self) -> bool:
    """Returns whether there are any evaluators."""
    return bool(self._evaluators)

  def __call__(self, snapshot: Snapshot) -> dict[str, float]:
    """Returns the metrics of all evaluators by name, and logs them.

    Raises:
      RuntimeError: If an evaluator failed only on other processes.
    """
    values: dict[str, float] = {}
    for evaluator in self._evaluators:
      if self._stop():
        self._log('Evaluation is skipped: the run has been asked to stop')
        break
      try:
        # Images move between host and device: JAX_TRANSFER_GUARD is meant for
        # the training loop.
        with jax.transfer_guard('allow'):
          found = evaluator(snapshot)
      except Exception as error:
        if len(processes.where(True)) < jax.process_count():
          raise
        self._report(error, snapshot.kimg)
        continue
      processes.check_together('evaluate', failed=False)
      for name, value in found.items():
        self._log(f'{name:<20s} {value:.4g} at {snapshot.kimg:g} kimg')
      values |= found
    return values

  def _report(self, error: Exception, kimg: float | int) -> None:
    line = f'{type(error).__name__}: {error}'.partition('\n')[0]
    if line not in self._shown:
      self._shown.add(line)
      self._log(''.join(traceback.format_exception(error)).rstrip())
    self._log(
      f'Warning: an evaluation at {kimg:g} kimg has failed; the run continues '
      f'({line})'
    )
