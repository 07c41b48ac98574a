"""Saves the states of a run, but only healthy ones."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import health, processes
from sg3jax.train.step.state import TrainState


class Saver:
  """Saves states together with the run's configuration.

  Args:
    checkpoints: Where to save them.
    options: The configuration as plain values.
    best: The metric by which the best checkpoint is chosen, or None.
    max_refused: Number of consecutive states that are not finite after which
      the run ends.
    log: Receives a line of text.
  """

  def __init__(
    self,
    checkpoints: checkpoint_lib.Checkpoints,
    *,
    options: dict[str, Any],
    best: checkpoint_lib.Best | None,
    max_refused: int,
    log: Callable[[str], None],
  ):
    self._checkpoints = checkpoints
    self._options = options
    self._best = best
    self._max_refused = max_refused
    self._log = log
    self._refused = 0

  def save(
    self, state: TrainState, values: Mapping[str, float], *, healthy: bool
  ) -> None:
    """Starts saving a finite state; writing continues in the background.

    Args:
      state: The state.
      values: Metrics measured on it, by name.
      healthy: Whether the losses were finite. Otherwise nothing is saved.

    Raises:
      FloatingPointError: If no further state that is not finite is allowed.
      OSError: If it cannot be written.
    """
    name = self._best.name if self._best else None
    # Metrics that are measured less often have no value at most snapshots.
    is_rare = bool(self._options.get('log', {}).get('full_metrics'))
    is_expected = name in values or not is_rare
    value = values.get(name, math.nan) if name else 0.0
    if values and is_expected and not math.isfinite(value):
      self._log(
        f'Warning: log.keep_best is {name}, but no finite value has this name: '
        f'{", ".join(values)}; see log.metrics'
      )
    if not healthy:
      self._log('Not saved:      the losses are not finite')
      return
    try:
      with processes.fail_together('save a checkpoint'):
        self._checkpoints.save(state, self._options, values)
    except FloatingPointError as error:
      self._refused += 1
      self._log(f'Not saved:      {error}')
      if self._refused >= self._max_refused:
        last_good = self._checkpoints.describe_latest()
        raise health.diverged(str(error), last_good) from error
    else:
      self._refused = 0

  def wait(self) -> None:
    """Waits until the newest checkpoint is written and verified.

    Raises:
      OSError: If it could not be written, or is not complete.
    """
    with processes.fail_together('write a checkpoint'):
      self._checkpoints.wait()
