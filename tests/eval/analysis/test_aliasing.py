"""Energy above band limits, of waves on either side of them."""

import numpy as np
import pytest

from sg3jax.eval.analysis import aliasing

_SIZE, _RATE = 36, 16  # Samples of the map, and per side of the canvas.


def _wave(fx, fy=0.0):
  """A wave with frequencies in cycles per side of the canvas, [1, h, h, 1]."""
  y, x = np.indices((_SIZE, _SIZE)) / _RATE
  return np.cos(2 * np.pi * (fx * x + fy * y))[None, ..., None]


def _leakage(features, cutoff=3.0, stopband=5.0, radial=False):
  return aliasing.measure_leakage(
    aliasing.power_spectrum(features),
    sampling_rate=_RATE,
    cutoff=cutoff,
    stopband=stopband,
    radial=radial,
  )


# The window widens a wave by 2.73 bins of 16 / 36 cycles on either side, 1.2
# cycles; beyond, its sidelobes have less than 1e-5 of the energy.
@pytest.mark.parametrize(
  ('frequency', 'above_cutoff', 'above_stopband'),
  [(1.5, 0, 0), (4.3, 1, None), (6.5, 1, 1)],
)
def test_a_wave_is_found_above_what_it_exceeds(
  frequency, above_cutoff, above_stopband
):
  found = _leakage(_wave(frequency))
  assert found.above_cutoff == pytest.approx(above_cutoff, abs=1e-4)
  if above_stopband is not None:
    assert found.above_stopband == pytest.approx(above_stopband, abs=1e-4)


def test_fractions_are_of_energy():
  # Half the amplitude is a quarter of the energy.
  found = _leakage(_wave(1.5) + 0.5 * _wave(6.5))
  assert found.above_cutoff == pytest.approx(0.2, abs=1e-3)


def test_radial_limits_exclude_the_corners():
  # Its components are 4, its length is 5.7.
  corner = _wave(4.0, 4.0)
  assert _leakage(corner, 5.2, 5.3).above_cutoff < 0.1
  assert _leakage(corner, 4.2, 4.3, radial=True).above_cutoff > 0.9


def test_nothing_is_above_half_the_sampling_rate():
  found = _leakage(_wave(6.5), cutoff=8.0, stopband=9.0)
  assert np.isnan(found.above_cutoff)
  assert np.isnan(found.above_stopband)


def test_silence_and_constants_have_no_energy():
  found = _leakage(np.full((2, _SIZE, _SIZE, 3), 5.0))
  assert found == aliasing.Leakage(0, 0)
