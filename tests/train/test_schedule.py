"""Ticks, snapshots and the end of a run, in images."""

import pytest
import tiny

from sg3jax.train import schedule


def _events(plan, batches):
  """Returns the counts of images at which ticks and snapshots end."""
  nimg, ticks, snapshots = 0, [], []
  for batch in batches:
    if plan.is_over(nimg):
      break
    nimg += batch
    if plan.ends_tick(nimg, batch):
      ticks.append(nimg)
      if plan.ends_snapshot(nimg, batch):
        snapshots.append(nimg)
  return ticks, snapshots


@pytest.mark.parametrize(
  ('batches', 'ticks', 'snapshots'),
  [
    ([8] * 9, [16, 32, 48, 64, 72], [32, 64, 72]),
    # The batch changes on the way.
    ([8] * 3 + [16] * 9, [16, 40, 56, 72], [40, 72]),
    ([8] * 3 + [4] * 99, [16, 32, 48, 64, 72], [32, 64, 72]),
    # It divides no interval, or holds several.
    ([12] * 9, [24, 36, 48, 72], [36, 72]),
    ([40] * 9, [40, 80], [40, 80]),
  ],
)
def test_events_follow_the_images(batches, ticks, snapshots):
  plan = schedule.make_schedule(tiny.tiny_config(total_kimg=0.072))
  assert plan == schedule.Schedule(total=72, tick=16, snapshot=32)
  assert _events(plan, batches) == (ticks, snapshots)


@pytest.mark.parametrize(
  ('kimg', 'images'), [(1.1, 1100), (0.0005, 1), (4.35, 4350), (0.0125, 13)]
)
def test_kimg_are_a_count_of_images(kimg, images):
  assert schedule.images(kimg) == images
