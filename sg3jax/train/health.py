"""Noticing that a run has diverged, before it spends days on it."""

import math
from collections.abc import Callable

from sg3jax.train import statistics


def diverged(reason: str, last_good: str) -> FloatingPointError:
  """Returns the error that ends a run: the reason, where it was well, remedies.

  Args:
    reason: What is not finite.
    last_good: What the message calls the last good checkpoint.
  """
  return FloatingPointError(
    f'the run has diverged: {reason}. The last good checkpoint is {last_good}. '
    'Try a lower train.g_lr and train.d_lr, model.precision=fp32 or a higher '
    'train.r1_gamma: with --allow_config_change from that checkpoint, or in '
    'another --workdir'
  )


class LossWatch:
  """Follows the losses from tick to tick.

  Args:
    max_ticks: Ticks in a row with a loss that is not finite, at which the run
      is over.
    log: Takes a line of text.
  """

  def __init__(self, max_ticks: int, log: Callable[[str], None]):
    self._max_ticks = max_ticks
    self._log = log
    self._ticks = 0
    self._first_kimg = 0.0

  def update(
    self, stats: statistics.Stats, kimg: float | int, last_good: str
  ) -> bool:
    """Takes the statistics of a tick; returns whether all losses are finite.

    Args:
      stats: name -> {num, mean, std}; the losses are called `Loss/...`.
      kimg: Thousands of images shown at its end.
      last_good: What the message calls the last good checkpoint.

    Raises:
      FloatingPointError: If this is one such tick too many.
    """
    sick = [
      f'{name} = {value["mean"]}'
      for name, value in stats.items()
      if name.startswith('Loss/') and not math.isfinite(value['mean'])
    ]
    if not sick:
      self._ticks = 0
      return True
    self._ticks += 1
    if self._ticks == 1:
      self._first_kimg = kimg
    if self._ticks >= self._max_ticks:
      raise diverged(
        f'{", ".join(sick)}, not finite since {self._first_kimg:g} kimg, for '
        f'{self._ticks} tick(s) in a row',
        last_good,
      )
    self._log(
      f'Warning: not finite in this tick: {", ".join(sick)}. Nothing is saved '
      f'meanwhile; the run stops after {self._max_ticks} such ticks in a row, '
      f'this is number {self._ticks}'
    )
    return False
