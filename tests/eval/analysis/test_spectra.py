"""Average spectra against recorded ones, and their properties."""

import numpy as np
import pytest

from sg3jax.eval.analysis import spectra

_CASES = ('default', 'beta6_interp1')


@pytest.fixture(scope='module')
def recorded(golden):
  return golden('spectra.npz')


@pytest.fixture(scope='module')
def images(recorded):
  return recorded['images'].transpose(0, 2, 3, 1)


@pytest.fixture(scope='module')
def measured(recorded, images):
  """The spectra of all cases, from batches of unequal size."""
  # The recorder used its own statistics as printed, to six digits.
  statistics = spectra.Statistics(
    float(recorded['mean']), float(recorded['std'])
  )
  return {
    case: spectra.average_spectrum(
      [images[:9], images[9:]],
      statistics,
      beta=float(recorded[f'{case}/beta']),
      interp=int(recorded[f'{case}/interp']),
    )
    for case in _CASES
  }


def test_statistics(recorded, images):
  found = spectra.measure_statistics([images[:5], images[5:]])
  # Integers add up exactly; the division rounds once.
  assert found.mean == pytest.approx(float(recorded['mean_exact']), rel=1e-12)
  assert found.std == pytest.approx(float(recorded['std_exact']), rel=1e-12)


@pytest.mark.parametrize('case', _CASES)
def test_spectrum_is_the_recorded_one(recorded, measured, case):
  ratio = measured[case] / recorded[f'{case}/spectrum']
  assert np.abs(ratio - 1).max() < 1e-4


@pytest.mark.parametrize('case', _CASES)
@pytest.mark.parametrize('smooth', [0, 1.25])
def test_slices_are_the_recorded_ones(recorded, measured, case, smooth):
  interp = int(recorded[f'{case}/interp'])
  decibels = spectra.heatmap(measured[case], smooth=smooth * interp)
  cut = spectra.take_slices(decibels, interp=interp)
  suffix = f'_smooth{smooth}' if smooth else ''
  for angle, x, y in (
    (0, cut.frequencies_0, cut.decibels_0),
    (45, cut.frequencies_45, cut.decibels_45),
  ):
    np.testing.assert_allclose(x, recorded[f'{case}/freqs{angle}'], rtol=1e-12)
    want = recorded[f'{case}/slice{angle}{suffix}']
    np.testing.assert_allclose(y, want, atol=1e-3)


@pytest.mark.parametrize('case', _CASES)
def test_heatmap_is_the_recorded_one(recorded, measured, case):
  smooth = 1.25 * int(recorded[f'{case}/interp'])
  found = spectra.heatmap(measured[case], smooth=smooth)
  want = recorded[f'{case}/heatmap_smooth1.25']
  np.testing.assert_allclose(found, want, atol=1e-3)


def test_white_noise_has_power_one():
  rng = np.random.RandomState(0)
  images = rng.randint(0, 256, (64, 16, 16, 3)).astype(np.uint8)
  statistics = spectra.measure_statistics([images])
  power = spectra.average_spectrum([images], statistics, interp=1)
  # Each bin is the mean of 192 values with an exponential distribution: five
  # standard errors are 0.36.
  assert np.abs(power - 1).max() < 0.5
  assert power.mean() == pytest.approx(1, abs=0.03)


def test_constant_images_have_no_spectrum():
  grey = np.full((2, 8, 8, 1), 7, np.uint8)
  with pytest.raises(ValueError, match='at least two different values'):
    spectra.measure_statistics([grey])
  with pytest.raises(ValueError, match='got no images'):
    spectra.measure_statistics([])
  with pytest.raises(ValueError, match='at least one image'):
    spectra.average_spectrum([], spectra.Statistics(0, 1))
