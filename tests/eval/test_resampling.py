"""Affine resampling against recorded operators, and its properties."""

import jax
import numpy as np
import pytest

from sg3jax.eval import resampling

_ANGLES = ('0.7', '-2.2', '0.05')


@pytest.fixture(scope='module')
def arrays(golden):
  return golden('equivariance.npz')


def _check(arrays, key, out, mask):
  """Compares images and mask with the record; NCHW there."""
  recorded = arrays[f'{key}/out'].transpose(0, 2, 3, 1)
  np.testing.assert_allclose(out, recorded, rtol=0, atol=1e-5)
  np.testing.assert_array_equal(mask, arrays[f'{key}/mask'][0, 0, :, :, None])


def _images(arrays):
  return arrays['images'].transpose(0, 2, 3, 1)


@pytest.mark.parametrize('offset', ['0.125_-0.0625', '-0.3_0.2'])
def test_integer_translation_matches_record(arrays, offset):
  images = _images(arrays)
  shift = np.rint(np.float64(offset.split('_')) * 48).astype(np.int32)
  out, mask = resampling.translate_integer(images, shift)
  _check(arrays, f'int/{offset}', out, mask)


@pytest.mark.parametrize('offset', ['0.113_-0.07', '-0.034_0.0915'])
def test_fractional_translation_matches_record(arrays, offset):
  shift = np.float32(offset.split('_')) * 48
  out, mask = resampling.translate_fractional(_images(arrays), shift)
  _check(arrays, f'frac/{offset}', out, mask)


@pytest.mark.parametrize('angle', _ANGLES)
def test_rotations_match_record(arrays, angle):
  images = _images(arrays)
  _check(arrays, f'rot/{angle}', *resampling.rotate(images, float(angle)))
  out, mask = resampling.pseudo_rotate(images, float(angle))
  _check(arrays, f'pseudorot/{angle}', out, mask)


@pytest.mark.parametrize('angle', _ANGLES)
def test_band_limit_filter_matches_record(arrays, angle):
  matrix = resampling.rotation_matrix(float(angle))[:2, :2]
  f = resampling.band_limit_filter(matrix, up=4)
  # The record is float64 rounded to float32, ours is computed in float32.
  np.testing.assert_allclose(f, arrays[f'filter/{angle}'], rtol=0, atol=2e-7)


@pytest.mark.parametrize('up', [1, 4])
def test_band_limit_filter_keeps_constants_and_symmetry(up):
  f = resampling.band_limit_filter(
    resampling.rotation_matrix(1.1)[:2, :2], up=up
  )
  assert f.shape == (12 * up - 1, 12 * up - 1)
  np.testing.assert_allclose(f, f[::-1, ::-1], atol=1e-7)
  for row in range(up):
    for column in range(up):
      total = f[row::up, column::up].sum()
      np.testing.assert_allclose(total, 1 / up**2, rtol=1e-5)


def test_matrices():
  x = np.float32([1, 0, 1])
  np.testing.assert_allclose(
    resampling.translation_matrix(np.float32([2, -3])) @ x, [3, -3, 1]
  )
  # y runs down: counter-clockwise on the screen is up.
  np.testing.assert_allclose(
    resampling.rotation_matrix(np.pi / 2) @ x, [0, -1, 1], atol=1e-7
  )


def test_rectangular_integer_translation_moves_a_pixel():
  images = np.zeros((1, 8, 12, 1), np.float32)
  images[0, 2, 3, 0] = 1
  shift = np.array([4, -1], np.int32)
  out, mask = jax.jit(resampling.translate_integer)(images, shift)
  assert np.argwhere(out).tolist() == [[0, 1, 7, 0]]
  expected = np.zeros((8, 12, 1))
  expected[:7, 4:] = 1
  np.testing.assert_array_equal(mask, expected)


def test_shift_beyond_the_frame_leaves_nothing():
  images = np.ones((1, 8, 8, 2), np.float32)
  out, mask = resampling.translate_integer(images, np.array([9, 0], np.int32))
  assert not out.any()
  assert not mask.any()


def test_whole_fractional_translation_is_the_integer_one():
  images = np.random.default_rng(0).normal(size=(1, 16, 20, 3))
  images = images.astype(np.float32)
  fractional, valid = resampling.translate_fractional(
    images, np.float32([-5, 3])
  )
  whole, overlap = resampling.translate_integer(
    images, np.array([-5, 3], np.int32)
  )
  np.testing.assert_allclose(fractional, whole, atol=1e-6)
  # Six taps reach further than one.
  assert (valid <= overlap).all()
  assert valid.sum() == (16 - 3 - 3) * (20 - 5 - 2)


def _waves(height, width, matrix):
  """Returns low-frequency waves of the transformed pixel positions."""
  y, x = np.meshgrid(
    np.arange(height) + 0.5 - height / 2,
    np.arange(width) + 0.5 - width / 2,
    indexing='ij',
  )
  x, y = np.tensordot(matrix, [x, y], 1)
  waves = [np.sin(0.4 * x + 0.3 * y + 1), np.cos(0.1 * x - 0.5 * y)]
  return np.stack(waves, -1)[None].astype(np.float32)


@pytest.mark.parametrize('size', [(48, 48), (40, 56)])
def test_rotation_of_waves(size):
  angle = 0.9
  matrix = np.array(resampling.rotation_matrix(angle))[:2, :2]
  out, mask = resampling.rotate(_waves(*size, np.eye(2)), angle)
  expected, expected_mask = resampling.pseudo_rotate(
    _waves(*size, np.linalg.inv(matrix)), angle
  )
  mask = mask * expected_mask
  assert mask.mean() > 0.3
  # The filters' ripple: 60 dB.
  assert np.abs((out - expected) * mask).max() < 2e-3


def test_pseudo_rotation_removes_the_corners_of_the_spectrum():
  # At 45 degrees the turned grid holds no diagonal beyond sqrt(1/2) Nyquist.
  y, x = np.meshgrid(np.arange(48), np.arange(48), indexing='ij')
  corner = np.cos(0.9 * np.pi * (x + y))
  edge = np.cos(0.9 * np.pi * x)
  images = np.stack([corner, edge], -1)[None].astype(np.float32)
  out, _ = resampling.pseudo_rotate(images, np.pi / 4)
  amplitudes = np.abs(out[0, 12:-12, 12:-12]).max((0, 1))
  assert amplitudes[0] < 0.1
  assert amplitudes[1] > 0.5
