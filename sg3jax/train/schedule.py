"""Schedules a run's ticks, snapshots and end, counted in images.

Images are the unit of progress, regardless of the batch size: a run that
continues with another batch size neither ends early nor moves its ticks.
"""

import dataclasses
import math

from sg3jax.types import Config


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Counts of real images shown, each at least 1.

  Attributes:
    total: Number of images at which the run ends.
    tick: Number of images from one tick to the next.
    snapshot: Number of images from one snapshot to the next, a multiple of
      `tick`.
  """

  total: int
  tick: int
  snapshot: int

  def is_over(self, nimg: int) -> bool:
    """Returns whether a run that has shown `nimg` images is complete."""
    return nimg >= self.total

  def ends_tick(self, nimg: int, batch: int) -> bool:
    """Returns whether the batch that led to `nimg` images ends a tick."""
    return self.is_over(nimg) or _crosses(self.tick, nimg, batch)

  def ends_snapshot(self, nimg: int, batch: int) -> bool:
    """Returns whether that batch ends a tick with a snapshot."""
    return self.is_over(nimg) or _crosses(self.snapshot, nimg, batch)


def make_schedule(config: Config) -> Schedule:
  """Returns the schedule of a configuration."""
  tick = images(config.log.kimg_per_tick)
  return Schedule(
    total=images(config.train.total_kimg),
    tick=tick,
    snapshot=tick * config.log.ticks_per_snapshot,
  )


def images(kimg: float) -> int:
  """Converts thousands of images to a count, rounded up."""
  # Round first, because 1.1 * 1000 is slightly above 1100.
  return max(math.ceil(round(kimg * 1000, 6)), 1)


def _crosses(interval: int, nimg: int, batch: int) -> bool:
  return nimg // interval > (nimg - batch) // interval
