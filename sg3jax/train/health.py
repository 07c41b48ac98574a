"""Detects early that a run has diverged."""

import math
from collections.abc import Callable

from sg3jax.train import statistics
from sg3jax.train.step import ada


def diverged(reason: str, last_good: str) -> FloatingPointError:
  """Returns the error that ends a run, with the reason and the remedies.

  Args:
    reason: States what is not finite.
    last_good: Describes the last good checkpoint, for example by its path.
  """
  return FloatingPointError(
    f'the run has diverged: {reason}. The last good checkpoint is {last_good}. '
    'Try a lower train.g_lr and train.d_lr, model.precision=fp32 or a higher '
    'train.r1_gamma: with allow_config_change from that checkpoint, or in '
    'another workdir'
  )


class LossWatch:
  """Follows the losses from tick to tick.

  Attributes:
    healthy: Whether the losses were finite the last time there were any.

  Args:
    max_ticks: Number of consecutive ticks with a loss that is not finite after
      which the run ends.
    log: Receives a line of text.
  """

  def __init__(self, max_ticks: int, log: Callable[[str], None]):
    self.healthy = True
    self._max_ticks = max_ticks
    self._log = log
    self._ticks = 0
    self._first_kimg = 0.0

  def update(
    self, stats: statistics.Stats, kimg: float | int, last_good: str
  ) -> bool:
    """Checks the statistics of a tick; returns whether the run is healthy.

    Statistics without any loss, as when a run stops right after a tick, leave
    the result unchanged.

    Args:
      stats: name -> {num, mean, std}; the losses are named `Loss/...`.
      kimg: Thousands of images shown at the end of the tick.
      last_good: Describes the last good checkpoint.

    Raises:
      FloatingPointError: If no further tick with such a loss is allowed.
    """
    losses = {
      name: value['mean']
      for name, value in stats.items()
      if name.startswith('Loss/')
    }
    if not losses:
      return self.healthy
    sick = [
      f'{name} = {value}'
      for name, value in losses.items()
      if not math.isfinite(value)
    ]
    self.healthy = not sick
    if self.healthy:
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


def warn_nonfinite(stats: statistics.Stats, log: Callable[[str], None]) -> None:
  """Logs the number of gradient values that a tick has replaced, if any."""
  for player in 'GD':
    count = stats.get(f'Gradients/nonfinite/{player}')
    if count and count['mean']:
      total = count['mean'] * count['num']
      log(
        f'Warning: {total:.0f} non-finite gradient values of {player} were '
        'replaced in this tick'
      )


class AugmentWatch:
  """Warns once each time that p leaves the healthy range.

  Args:
    log: Receives a line of text.
  """

  def __init__(self, log: Callable[[str], None]):
    self._log = log
    self._last_p = 0.0

  def update(self, p: float) -> None:
    """Checks the probability of augmentations at the end of a tick."""
    if self._last_p <= ada.HEALTHY_P < p:
      self._log(
        f'Warning: the augmentation probability is above {ada.HEALTHY_P:g}: '
        'there may be too few images for this network, and '
        'augmentations may leak into what it generates. Look for rotated or '
        'recoloured fakes; more images, data.mirror or a higher '
        'train.r1_gamma can help'
      )
    self._last_p = p
