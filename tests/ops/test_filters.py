"""Filter design against golden taps and its own definitions."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from sg3jax.ops import filters

BAND = {'cutoff': 2.0, 'half_width': 6.0, 'sampling_rate': 32.0}


@pytest.mark.parametrize('config', ['t', 'r'])
def test_every_filter_at_256(golden, config):
  taps = golden('filters.npz')
  layers = golden('layer_specs.json')[f'{config}-256-cbase32768']['layers']
  compared = 0
  for i, layer in enumerate(layers[:-1]):
    for side, band in (('up', 'in'), ('down', 'out')):
      radial = side == 'down' and layer['radial_down_filter']
      design = filters.radial_lowpass if radial else filters.kaiser_lowpass
      f = design(
        layer[f'{side}_taps'],
        cutoff=layer[f'{band}_cutoff'],
        half_width=layer[f'{band}_half_width'],
        sampling_rate=layer['tmp_sampling_rate'],
      )
      expected = taps[f'{config}256/layer{i}/{side}']
      # The goldens are rounded to float32.
      np.testing.assert_allclose(f, expected, rtol=0, atol=1e-7)
      compared += 1
  assert compared == 28


def test_published_taps():
  f = filters.kaiser_lowpass(12, **BAND)
  expected = [0.0007919, 0.01001832, 0.03894952, 0.09241279, 0.15652562]
  np.testing.assert_allclose(f[:5], expected, atol=1e-8)
  f = filters.radial_lowpass(12, **BAND)
  expected = [0.00020526, 0.00227863, 0.00819805, 0.01854216, 0.03053336]
  np.testing.assert_allclose(f[5, :5], expected, atol=1e-8)


@pytest.mark.parametrize('num_taps', [5, 12, 24])
@pytest.mark.parametrize('half_width', [0.5, 2.0, 6.0])
def test_kaiser_is_scipy_firwin(num_taps, half_width):
  f = filters.kaiser_lowpass(
    num_taps, cutoff=3.0, half_width=half_width, sampling_rate=32.0
  )
  expected = scipy.signal.firwin(num_taps, 3.0, width=2 * half_width, fs=32.0)
  np.testing.assert_allclose(f, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize('attenuation', [10.0, 21.0, 35.0, 50.0, 67.2])
def test_kaiser_beta_is_scipys(attenuation):
  expected = scipy.signal.kaiser_beta(attenuation)
  assert filters.kaiser_beta(attenuation) == pytest.approx(expected, abs=1e-12)


def test_attenuation_of_the_first_layer():
  a = filters.kaiser_attenuation(12, half_width=6.0, sampling_rate=32.0)
  assert a == pytest.approx(67.2, abs=0.05)
  assert filters.kaiser_beta(a) == pytest.approx(6.4437, abs=1e-4)


@pytest.mark.parametrize('num_taps', [1, 2, 5, 12])
def test_symmetric_with_unit_sum(num_taps):
  rates = {'cutoff': 2.0, 'sampling_rate': 16.0}
  designs = {
    'kaiser': filters.kaiser_lowpass(num_taps, half_width=1.0, **rates),
    'radial': filters.radial_lowpass(num_taps, half_width=1.0, **rates),
    'lanczos': filters.lanczos_lowpass(num_taps, **rates),
    'gaussian': filters.gaussian_lowpass(num_taps, **rates),
  }
  for name, f in designs.items():
    assert f.dtype == np.float64
    assert f.sum() == pytest.approx(1.0, abs=1e-15), name
    np.testing.assert_array_equal(f, np.flip(f), err_msg=name)
  radial = designs['radial']
  np.testing.assert_array_equal(radial, radial.T)
  np.testing.assert_array_equal(radial, radial[::-1])
  if num_taps == 1:
    for f in designs.values():
      np.testing.assert_array_equal(f, np.ones_like(f))


def test_lanczos_and_gaussian_follow_their_formulas():
  x = (np.arange(17) - 8) / 16 * 2 * 2.0
  lanczos = filters.lanczos_lowpass(17, cutoff=2.0, sampling_rate=16.0)
  expected = np.sinc(x) * np.sinc(x / 2) * (np.abs(x) < 2)
  np.testing.assert_allclose(lanczos, expected / expected.sum(), atol=1e-15)
  assert lanczos[0] == 0  # |x| = 2, the end of the window.
  gaussian = filters.gaussian_lowpass(17, cutoff=2.0, sampling_rate=16.0)
  np.testing.assert_allclose(
    gaussian[9] / gaussian[8], np.exp(-(x[9] ** 2) / 2 / 0.4**2), rtol=1e-12
  )


def test_radial_response_is_a_disc():
  f = filters.radial_lowpass(48, cutoff=4.0, half_width=1.0, sampling_rate=32.0)
  response = np.abs(np.fft.fft2(f, (512, 512)))
  rate = np.fft.fftfreq(512, 1 / 32.0)
  radius = np.hypot(rate[:, None], rate[None, :])
  assert np.abs(response[radius < 2.5] - 1).max() < 0.02
  assert response[(radius > 5.5) & (radius < 16)].max() < 0.01


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    ({'num_taps': 0}, 'num_taps'),
    ({'cutoff': 0.0}, 'cutoff'),
    ({'cutoff': 16.5}, 'cutoff'),
    ({'half_width': -1.0}, 'half_width'),
    ({'sampling_rate': 0.0}, 'sampling_rate'),
  ],
)
def test_bad_designs_are_refused(overrides, message):
  arguments = {'num_taps': 12, **BAND, **overrides}
  for design in (filters.kaiser_lowpass, filters.radial_lowpass):
    with pytest.raises(ValueError, match=message):
      design(
        arguments['num_taps'],
        **{k: v for k, v in arguments.items() if k != 'num_taps'},
      )


def _sum(pairs):
  return sum(np.outer(column, row) for column, row in pairs)


def test_radial_filters_have_low_rank(golden):
  ranks = set()
  for layer in golden('layer_specs.json')['r-256-cbase32768']['layers']:
    if not layer['radial_down_filter']:
      continue
    f = filters.radial_lowpass(
      layer['down_taps'],
      cutoff=layer['out_cutoff'],
      half_width=layer['out_half_width'],
      sampling_rate=layer['tmp_sampling_rate'],
    )
    pairs = filters.split_low_rank(f, 4e-7)
    ranks.add(len(pairs))
    error = np.linalg.norm(_sum(pairs) - f, 2)
    assert error <= 4e-7 * np.linalg.norm(f, 2)
    for column, row in pairs:
      np.testing.assert_array_equal(column, column[::-1])
      np.testing.assert_array_equal(row, row[::-1])
  assert ranks == {2, 3, 4}


@settings(max_examples=40, deadline=None)
@given(
  st.integers(1, 9),
  st.integers(1, 9),
  st.integers(0, 2**31),
  st.sampled_from([0.0, 1e-6, 0.1]),
)
def test_split_of_any_filter_is_within_its_tolerance(h, w, seed, tol):
  f = np.random.RandomState(seed).randn(h, w)
  pairs = filters.split_low_rank(f, tol)
  assert all(a.shape == (h,) and b.shape == (w,) for a, b in pairs)
  # The 2-norm of what is dropped is its largest singular value.
  error = np.linalg.norm(_sum(pairs) - f, 2)
  assert error <= (tol + 1e-13) * np.linalg.norm(f, 2)


def test_split_of_a_separable_filter_is_one_pair():
  f = filters.kaiser_lowpass(12, **BAND)
  assert len(filters.split_low_rank(np.outer(f, f), 1e-12)) == 1


@pytest.mark.parametrize('f', [np.ones((0, 3)), np.full((2, 2), np.nan)])
def test_bad_splits_are_refused(f):
  with pytest.raises(ValueError, match='2-D filter'):
    filters.split_low_rank(f, 0.0)


def test_frequency_response():
  rate, frequencies = 32.0, np.linspace(0, 16, 9)
  f = filters.kaiser_lowpass(12, cutoff=2, half_width=6, sampling_rate=rate)
  gain = filters.frequency_response(f, frequencies, sampling_rate=rate)
  # The transform about the centre, between the two middle taps.
  x = (np.arange(12) - 5.5) / rate
  expected = np.exp(-2j * np.pi * np.outer(frequencies, x)) @ f
  np.testing.assert_allclose(gain, expected, atol=1e-12)
  assert gain[0] == pytest.approx(1)
  # Beyond f_c + f_h = 8 the formula promises 67 dB; the filter has 62.
  stopband = 20 * np.log10(np.abs(gain[frequencies >= 8.5]).max())
  assert -70 < stopband < -60
  grid = filters.frequency_response(
    np.outer(f, f), frequencies, sampling_rate=rate
  )
  np.testing.assert_allclose(grid, np.outer(gain, gain), atol=1e-12)
