"""Calling evaluators so that their failures do not end the run."""

import traceback
from collections.abc import Callable, Mapping, Sequence

from sg3jax import text
from sg3jax.types import Snapshot

# What looks at a snapshot, draws or measures, and returns figures to log.
Evaluator = Callable[[Snapshot], Mapping[str, float]]


class Evaluators:
  """Evaluators of one run; what they raise is logged.

  Args:
    evaluators: What to call.
    log: Takes a line of text, or several.
    stop: Returns whether the run has been asked to stop: no further one is
      called then.
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
    self._shown: set[str] = set()  # Failures whose traceback is in the log.

  def __call__(self, snapshot: Snapshot) -> dict[str, float]:
    """Returns the figures of all evaluators by name, and logs them."""
    figures: dict[str, float] = {}
    for evaluator in self._evaluators:
      if self._stop():
        self._log('Evaluation is skipped: the run has been asked to stop')
        break
      try:
        found = evaluator(snapshot)
      except Exception as error:
        self._report(error, snapshot.kimg)
        continue
      for name, value in found.items():
        self._log(f'{name:<20s} {value:.4g} at {snapshot.kimg:g} kimg')
      figures |= found
    return figures

  def _report(self, error: Exception, kimg: float | int) -> None:
    line = f'{type(error).__name__}: {error}'.partition('\n')[0]
    if line not in self._shown:
      self._shown.add(line)
      self._log(''.join(traceback.format_exception(error)).rstrip())
    self._log(
      f'Warning: an evaluation at {kimg:g} kimg has failed, the run goes on '
      f'({line})'
    )
