"""The sliced Wasserstein distance: its parts and what it must distinguish."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from sg3jax.eval.metrics import sliced_wasserstein

_FEW = {'patches_per_image': 64, 'num_projections': 64}


def _images(seed, n=16, size=(64, 64), channels=3, correlation=2.0):
  """Returns smooth random textures, uint8."""
  x = np.random.default_rng(seed).normal(size=(n, *size, channels))
  x = scipy.ndimage.gaussian_filter(x, (0, correlation, correlation, 0))
  return np.clip(x / x.std() * 50 + 128, 0, 255).astype(np.uint8)


def test_identical_sets_have_distance_zero():
  images = _images(0)
  result = sliced_wasserstein.sliced_wasserstein(images, images, **_FEW)
  assert list(result) == ['swd_64', 'swd_32', 'swd_16', 'swd']
  assert set(result.values()) == {0.0}


def test_falls_as_noise_is_mixed_down():
  reals = _images(0) / np.float32(127.5) - 1
  measure = sliced_wasserstein.SlicedWasserstein(reals, **_FEW)
  noise = np.random.default_rng(1).normal(size=reals.shape).astype(np.float32)
  results = [
    measure(reals + np.float32(amount) * noise)
    for amount in (1, 0.5, 0.25, 0.1, 0)
  ]
  for key in results[0]:
    values = [result[key] for result in results]
    assert values == sorted(values, reverse=True), key
    assert values[0] > values[-2] > values[-1], key


def test_a_like_set_is_nearer_than_another_texture():
  measure = sliced_wasserstein.SlicedWasserstein(_images(0, n=64), **_FEW)
  like = measure(_images(1, n=64))
  unlike = measure(_images(2, n=64, correlation=1.0))
  # The textures differ in their details, and are alike when seen from afar.
  assert 0 < like['swd_64'] < 0.5 * unlike['swd_64']
  assert unlike['swd_16'] < 1.5 * like['swd_16']


def test_order_of_images_and_batches_do_not_matter():
  reals, fakes = _images(0), _images(1)
  expected = sliced_wasserstein.sliced_wasserstein(reals, fakes, **_FEW)
  shuffled = fakes[np.random.default_rng(0).permutation(len(fakes))]
  result = sliced_wasserstein.sliced_wasserstein(
    reals, shuffled, batch_size=5, **_FEW
  )
  for key, value in expected.items():
    assert result[key] == pytest.approx(value, rel=1e-4), key


def test_blind_to_brightness_and_contrast():
  reals = _images(0) / np.float32(127.5) - 1
  result = sliced_wasserstein.sliced_wasserstein(
    reals, 0.5 * reals + 0.3, **_FEW
  )
  assert result['swd'] < 1e-2


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('size', [(16, 16), (40, 70), (33, 64)])
def test_channels_and_sizes(channels, size):
  reals = _images(0, n=4, size=size, channels=channels)
  fakes = _images(1, n=4, size=size, channels=channels)
  result = sliced_wasserstein.sliced_wasserstein(reals, fakes, **_FEW)
  assert all(np.isfinite(v) and v > 0 for v in result.values())


def test_flat_images_are_far_but_finite():
  reals = _images(0)
  flat = np.full_like(reals, 100)
  result = sliced_wasserstein.sliced_wasserstein(reals, flat, **_FEW)
  like = sliced_wasserstein.sliced_wasserstein(reals, _images(1), **_FEW)
  assert np.isfinite(result['swd'])
  assert result['swd'] > 2 * like['swd']


def test_seed_fixes_the_value():
  reals, fakes = _images(0), _images(1)
  first, again, other = (
    sliced_wasserstein.sliced_wasserstein(reals, fakes, seed=seed, **_FEW)
    for seed in (0, 0, 1)
  )
  assert first == again
  assert first != other


def test_pyramid_adds_up_to_the_images():
  x = jnp.asarray(_images(0, n=2, size=(67, 64)), jnp.float32)
  levels = sliced_wasserstein.laplacian_pyramid(x)
  assert [level.shape[1:3] for level in levels] == [
    (67, 64),
    (34, 32),
    (17, 16),
  ]
  restored = levels[-1]
  for level in levels[-2::-1]:
    restored = level + sliced_wasserstein._upsample(restored, *level.shape[1:3])
  np.testing.assert_allclose(restored, x, atol=1e-3)
  # What a fine level holds is high-pass: constants go to the remainder.
  fine = sliced_wasserstein.laplacian_pyramid(jnp.full((1, 64, 64, 3), 0.7))[0]
  np.testing.assert_allclose(fine, 0, atol=1e-6)


def test_blur_is_the_mirrored_binomial_filter():
  x = np.random.default_rng(0).normal(size=(1, 18, 20, 2)).astype(np.float32)
  taps = np.array([1, 4, 6, 4, 1]) / 16
  expected = scipy.ndimage.convolve1d(
    scipy.ndimage.convolve1d(x, taps, axis=1, mode='mirror'),
    taps,
    axis=2,
    mode='mirror',
  )
  np.testing.assert_allclose(
    sliced_wasserstein._blur(jnp.asarray(x)), expected, atol=1e-6
  )


def test_distance_is_the_wasserstein_distance_of_the_projections():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 300, 5)).astype(np.float32)
  b = 2 * b + 1
  directions = rng.normal(size=(20, 5)).astype(np.float32)
  expected = np.mean(
    [scipy.stats.wasserstein_distance(a @ d, b @ d) for d in directions]
  )
  result = sliced_wasserstein._distance(
    jnp.asarray(a), jnp.asarray(b), directions
  )
  assert float(result) == pytest.approx(expected, rel=1e-5)


def test_errors_name_the_remedy():
  reals = _images(0, n=4)
  measure = sliced_wasserstein.SlicedWasserstein(reals, **_FEW)
  with pytest.raises(ValueError, match=r'must be \(4, 64, 64, 3\)'):
    measure(reals[:3])
  with pytest.raises(ValueError, match='6x6 are too small'):
    sliced_wasserstein.sliced_wasserstein(reals[:, :6, :6], reals[:, :6, :6])
  with pytest.raises(ValueError, match='at least one image'):
    sliced_wasserstein.sliced_wasserstein(reals, reals, num_projections=0)
