"""Measures of texture sticking, on images that stick or move by design."""

import numpy as np
import pytest

from sg3jax.eval.analysis import sticking

_SIZE = 32


def _noise(seed, *shape):
  return np.random.RandomState(seed).randn(*shape)


def _wave(frequency, shift=0.0):
  """A wave along both axes, in cycles per pixel, [h, h, 1]."""
  y, x = np.indices((_SIZE, _SIZE))
  return np.cos(2 * np.pi * (frequency * (x + y) + shift))[..., None]


def test_only_detail_counts():
  # The diagonal frequency is larger than that of an axis by the square root of
  # two: 0.1 is 0.14, and 0.25 is 0.35. The sidelobes of the window are 58 dB
  # lower than its main lobe, which is narrower than the distance to the limit.
  coarse = sticking.detail_energy(_wave(0.1))
  fine = sticking.detail_energy(_wave(0.25))
  assert coarse < 1e-5 * fine
  # A wave has a mean square of 1/2, all of which is in the detail.
  assert fine == pytest.approx(0.5, rel=1e-5)


def test_ratio_is_one_for_detail_that_sticks():
  image = _wave(0.25)
  assert sticking.detail_ratio(image, image) == 1


def test_ratio_is_small_for_detail_that_moves():
  phases = np.linspace(0, 1, 50, endpoint=False)
  mean = np.mean([_wave(0.25, phase) for phase in phases], axis=0)
  assert sticking.detail_ratio(mean, _wave(0.25)) < 1e-20


def test_ratio_of_independent_noise_is_one_over_the_number():
  noise = _noise(0, 64, _SIZE, _SIZE, 3)
  ratio = sticking.detail_ratio(noise.mean(0), noise[0])
  # About 700 independent bins and channels: 5 standard errors are 0.3.
  assert ratio == pytest.approx(1 / 64, rel=0.3)


def test_ratio_is_undefined_without_detail():
  flat = np.full((_SIZE, _SIZE, 3), 0.5)
  assert np.isnan(sticking.detail_ratio(flat, flat))


def test_scan_takes_one_column_over_time():
  frames = np.arange(4 * 5 * 6 * 2).reshape(4, 5, 6, 2)
  scan = sticking.scan_slit(frames)
  assert scan.shape == (5, 4, 2)
  np.testing.assert_array_equal(scan[2, 1], frames[1, 2, 3])


def _clip(stuck: float):
  """Noise that moves down by a pixel per frame, and noise that stays."""
  moving, still = _noise(1, 64, 4, 1), _noise(2, 64, 4, 1)
  return np.stack(
    [
      (1 - stuck) * np.roll(moving, shift, axis=0) + stuck * still
      for shift in range(40)
    ]
  )


def test_sticking_clips_score_higher_than_moving_ones():
  still, mixed, moving = (
    sticking.streakiness(sticking.scan_slit(_clip(stuck)))
    for stuck in (1.0, 0.5, 0.0)
  )
  assert still == 1
  # All differences are equal up to those at the ends.
  assert moving == pytest.approx(0, abs=0.05)
  assert 0.2 < mixed < 0.8


def test_flicker_has_the_lowest_score():
  scan = np.tile(_noise(3, 1, 30, 1), (16, 1, 1))
  assert sticking.streakiness(scan) == -1
  assert np.isnan(sticking.streakiness(np.zeros((4, 4, 1))))


def test_nearby_styles():
  ws, mean = _noise(0, 1, 3, 5), _noise(1, 5)
  others = _noise(2, 7, 3, 5)
  still = sticking.nearby_styles(ws, others, mean, 0.0)
  np.testing.assert_allclose(still, np.repeat(ws, 7, 0), rtol=1e-6)
  near = sticking.nearby_styles(ws, others, mean, 0.1)
  np.testing.assert_allclose(near - ws, 0.1 * (others - mean), atol=1e-6)


def test_interpolated_latents_keep_their_distribution():
  start, end = _noise(0, 1000), _noise(1, 1000)
  z = sticking.interpolate_latents(start, end, 9)
  np.testing.assert_allclose(z[0], start, rtol=1e-6)
  np.testing.assert_allclose(z[-1], end, rtol=1e-6)
  # The standard error of a variance of 1000 values is 0.045.
  np.testing.assert_allclose(z.var(1), 1, atol=0.2)
