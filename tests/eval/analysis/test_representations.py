"""Envelopes of channels, and their colours."""

import numpy as np
import pytest

from sg3jax.eval.analysis import representations

_SIZE = 64


def _wave(fx, fy, phase=0.0):
  y, x = np.indices((_SIZE, _SIZE))
  return np.cos(2 * np.pi * ((fx * x + fy * y) / _SIZE + phase))


@pytest.mark.parametrize('frequency', [(3, 0), (0, 7), (5, -2)])
def test_a_wave_has_a_constant_envelope(frequency):
  # A wave that is periodic in the map has exactly its amplitude.
  a = representations.envelope(3 * _wave(*frequency) + 10)
  np.testing.assert_allclose(a, 3, rtol=1e-12)


def test_phases_are_flat_and_magnitudes_are_not():
  wave = _wave(6, 4)
  y, x = np.indices((_SIZE, _SIZE)) - _SIZE // 2
  marks = np.exp(-(x**2 + y**2) / 8)
  noise = np.random.RandomState(0).randn(_SIZE, _SIZE)
  flat, spot, random = representations.flatness(
    np.stack([wave, marks, noise], axis=-1)
  )
  assert flat == pytest.approx(1, abs=1e-12)
  assert spot < 0.2
  # By the integral over the Gaussian density of the signal (variance 1) and its
  # transform (1/2 in each direction), 0.84.
  assert random == pytest.approx(0.84, abs=0.02)


def test_a_wave_with_another_envelope_is_less_flat():
  beat = _wave(6, 4) * (1 + _wave(1, 0))
  # mean(1 + cos)² / mean((1 + cos)²) = 1 / 1.5 over whole periods; the measure
  # leaves out the borders, where this envelope is high.
  values = representations.flatness(beat[..., None])
  assert 0.5 < values[0] < 0.9


def test_constant_channels_have_no_flatness():
  assert np.isnan(representations.flatness(np.full((16, 16, 1), 3.0))).all()


def test_colours_are_principal_components():
  rng = np.random.RandomState(0)
  axes = np.linalg.qr(rng.randn(6, 6))[0]
  scores = rng.randn(400, 6) * [5, 3, 2, 0.1, 0.1, 0.1]
  features = (scores @ axes.T + 7).reshape(20, 20, 6)
  colours = representations.fit_colours(features)
  # The axes are those of the largest variances, up to sampling.
  overlap = np.abs(colours.axes.T @ axes[:, :3])
  np.testing.assert_allclose(overlap, np.eye(3), atol=0.2)
  np.testing.assert_allclose(
    colours.axes.T @ colours.axes, np.eye(3), atol=1e-9
  )
  picture = colours(features)
  assert picture.shape == (20, 20, 3)
  # Three standard deviations are the whole range.
  np.testing.assert_allclose(picture.std((0, 1)), 1 / 3, rtol=0.05)


def test_colours_do_not_depend_on_the_signs_of_eigenvectors():
  features = np.random.RandomState(0).randn(8, 8, 5)
  colours = representations.fit_colours(features)
  largest = np.abs(colours.axes).argmax(0)
  assert (colours.axes[largest, range(3)] > 0).all()


def test_fewer_than_three_channels_leave_colours_grey():
  features = np.random.RandomState(0).randn(8, 8, 2)
  picture = representations.fit_colours(features)(features)
  np.testing.assert_array_equal(picture[..., 2], 0)
