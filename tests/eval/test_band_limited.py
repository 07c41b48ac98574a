"""The radial low-pass resampler: against float64 sums, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sg3jax.eval import band_limited, ideal_generator, resampling

_SIDE = 40


def _kernel(squared, reach):
  """The kernel by its formula, without a table."""
  x = 2 * np.pi * (0.5 - 1.1 / reach) * np.sqrt(squared)
  jinc = np.where(x == 0, 1, 2 * scipy.special.j1(x) / np.where(x == 0, 1, x))
  inside = np.maximum(1 - squared / reach**2, 0)
  return jinc * (np.i0(7.5 * np.sqrt(inside)) - 1) / (np.i0(7.5) - 1)


@pytest.mark.parametrize('stretch', [None, (0.8, 1.0)])
def test_resampling_is_the_weighted_mean_of_what_the_kernel_reaches(stretch):
  reach = 6
  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, _SIDE, _SIDE, 2)).astype(np.float32)
  matrix = np.array(resampling.rotation_matrix(0.4))
  matrix[:2, 2] = 0.03, -0.01
  out, mask = band_limited.resample(
    images,
    matrix,
    reach=reach,
    stretch=None if stretch is None else np.float32(stretch),
    min_stretch=min(stretch or (1,)),
  )
  kx, ky = stretch or (1, 1)
  # With a border, in which no sample may have a weight.
  rows, columns = np.mgrid[-4 : _SIDE + 4, -4 : _SIDE + 4]
  valid = np.argwhere(np.asarray(mask)[:, :, 0])
  assert 40 < len(valid) < 0.6 * _SIDE**2
  for i, j in valid[:: len(valid) // 20]:
    position = np.array([j, i, 0]) - (_SIDE - 1) / 2
    x, y = (matrix @ [*position[:2] / _SIDE, 1])[:2] * _SIDE
    squared = (kx * (columns - x - (_SIDE - 1) / 2)) ** 2
    squared += (ky * (rows - y - (_SIDE - 1) / 2)) ** 2
    weights = _kernel(squared, reach)
    inside = np.pad(np.ones((_SIDE, _SIDE), bool), 4)
    assert not weights[~inside].any()
    weights = weights[4:-4, 4:-4]
    expected = np.tensordot(weights, images, ((0, 1), (1, 2))) / weights.sum()
    # The table's interpolation, 2e-6 of the peak, at some hundred samples.
    np.testing.assert_allclose(out[:, i, j], expected, rtol=0, atol=2e-5)


def test_filtering_is_resampling_without_a_transform():
  images = np.random.default_rng(1).normal(size=(1, 32, 36, 3))
  images = images.astype(np.float32)
  stretch = np.float32([1.0, 0.75])
  options = {'stretch': stretch, 'min_stretch': 0.75, 'reach': 8}
  out, mask = band_limited.low_pass(images, **options)
  expected, expected_mask = band_limited.resample(images, np.eye(3), **options)
  np.testing.assert_array_equal(mask, expected_mask)
  assert mask.sum() == (32 - 2 * 10) * (36 - 2 * 7)
  np.testing.assert_allclose(out * mask, expected * mask, rtol=0, atol=1e-5)


def test_the_filter_keeps_constants_and_low_and_removes_high_frequencies():
  def gain(frequency):
    x = np.arange(_SIDE, dtype=np.float32)
    wave = np.cos(2 * np.pi * frequency * (x - 20))
    images = np.broadcast_to(wave[:, None], (1, _SIDE, _SIDE))[..., None]
    out, _ = band_limited.low_pass(np.array(images, np.float32))
    return abs(20 * np.log10(abs(out[0, 20, 20, 0])))

  assert gain(0) < 1e-4
  assert gain(0.3) < 0.2
  assert 5 < gain(0.39) < 8
  # Both replicas are at the Nyquist frequency: twice 1/1000.
  assert gain(0.5) > 51


def test_the_canvas_mask_excludes_margins_on_both_sides():
  inverse = np.eye(3, dtype=np.float32)
  inverse[0, 2] = 0.25  # Four samples of sixteen.
  mask = band_limited.canvas_mask(inverse, (20, 20), (16.0, 16.0))
  expected = np.zeros((20, 20, 1))
  expected[2:18, 2:14] = 1
  np.testing.assert_array_equal(mask, expected)


class TestWaves:
  """The ideal generator."""

  def _waves(self, n=8, side=32):
    f = np.fft.fftfreq(side) * side
    radius = np.maximum(np.hypot(f[:, None], f), 1)
    power = np.where(radius <= 12, radius**-2.0, 0)
    power = (power / power.sum() / 4).astype(np.float32)
    return power, ideal_generator.sample_waves(power, jax.random.key(0), n)

  def test_images_have_the_spectrum_that_is_asked_for(self):
    power, waves = self._waves(24)
    eyes = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    images = ideal_generator.render(waves, eyes, (32, 32))
    found = np.asarray(ideal_generator.power_spectrum(images))
    # The window mixes neighbouring frequencies: compare rings, within 25 %.
    f = np.fft.fftfreq(32) * 32
    radius = np.hypot(f[:, None], f)
    for low, high in ((2, 5), (5, 8), (8, 11)):
      ring = (radius >= low) & (radius < high)
      assert found[ring].sum() == pytest.approx(power[ring].sum(), rel=0.25)
    assert found[radius > 15].sum() < 1e-3 * found.sum()

  def test_waves_are_evaluated_where_a_transform_puts_them(self):
    _, waves = self._waves(2)
    transforms = np.tile(np.eye(3, dtype=np.float32), (2, 1, 1))
    transforms[:, :2] = [[0.9, 0.2, 0.05], [-0.1, 1.1, -0.2]]
    out = ideal_generator.render(waves, transforms, (32, 32))
    p = (np.arange(32) + 0.5) / 32 - 0.5
    y, x = np.meshgrid(p, p, indexing='ij')
    position = np.tensordot(
      np.float64(transforms[0, :2]), [x, y, np.ones_like(x)], 1
    )
    for found, image_waves in zip(out, np.float64(waves), strict=True):
      fx, fy, amplitude, phase = image_waves.T
      moved = image_waves[:, :2] @ np.float64(transforms[0, :2, :2])
      amplitude = amplitude * (np.abs(moved) <= 16).all(1)
      cycles = np.tensordot([fx, fy], position, (0, 0)) + phase[:, None, None]
      waves_there = amplitude[:, None, None] * np.cos(2 * np.pi * cycles)
      # Phases of up to 20 cycles are rounded to 1e-6 cycles.
      np.testing.assert_allclose(
        found[:, :, 0], waves_there.sum(0), rtol=0, atol=2e-5
      )

  def test_what_a_transform_moves_beyond_the_limit_is_omitted(self):
    waves = np.float32([[[10, 0, 1, 0]]])
    for scale, expected in ((1.5, True), (1.7, False)):
      matrix = np.diag([scale, 1, 1]).astype(np.float32)
      out = ideal_generator.render(waves, matrix[None], (32, 32))
      assert bool(jnp.any(out != 0)) == expected
