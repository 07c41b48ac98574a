"""Augmentations against recordings, and their properties."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sg3jax.train import sharding
from sg3jax.train.step import augment as augment_lib
from sg3jax.train.step.augment import colour, corruptions, geometry

_NORMAL = ('scale', 'aniso', 'xfrac', 'brightness', 'contrast', 'saturation')
_apply = jax.jit(augment_lib.apply)


def _neutral(n, ops=augment_lib.PIPELINES['bgcfnc']):
  """Returns values that do nothing, so that tests share one program."""
  return {
    name: np.full(
      (n, augment_lib.OPS[name].features), augment_lib.OPS[name].neutral, 'f'
    )
    for name in ops
    if name != 'noise'
  }


def _images(n=2, size=32, channels=3, seed=0):
  rng = np.random.RandomState(seed)
  return rng.uniform(-1, 1, (n, size, size, channels)).astype(np.float32)


def _recorded_values(name, percentile):
  """Returns what a recording at a percentile took for an operator's values.

  For N(0, 1) it took erfinv(2q - 1), without the root of two that belongs
  there, and it left out the second turn.
  """
  op = augment_lib.OPS[name]
  u = np.full((2, op.features), percentile)
  if name in _NORMAL or name == 'imgfilter':
    u = scipy.special.ndtr(scipy.special.erfinv(2 * u - 1))
  if name == 'rotate':
    u[:, 1] = 0.5
  return op.value(jnp.asarray(u, jnp.float32))


def test_equals_the_recordings(golden):
  arrays = golden('augment.npz')
  images = arrays['images'].transpose(0, 2, 3, 1)
  cases = [name for name in arrays if name != 'images']
  assert len(cases) == 60
  for case in cases:
    group, percentile = case.split('/p')
    grey = group.endswith('_gray')
    group = group.removesuffix('_gray')
    samples = _neutral(2)
    for name in augment_lib.PIPELINES.get(group, [group]):
      samples[name] = _recorded_values(name, float(percentile))
    ours = _apply(images[..., :1] if grey else images, samples)
    # The images are float32 in [-1, 1], the recording's taps have six digits.
    np.testing.assert_allclose(
      ours, arrays[case].transpose(0, 2, 3, 1), atol=1e-4, err_msg=case
    )


# --- What is left alone. ---


@functools.partial(jax.jit, static_argnums=3)
def _augment(images, key, p, ops):
  return augment_lib.augment(images, key, p, ops)


@pytest.mark.parametrize('channels', [1, 4])
def test_p_of_zero_is_the_identity_bit_for_bit(channels):
  images = _images(4, 16, channels)
  images[0, 0, 0] = -0.0
  ops = augment_lib.get_ops('bgcf')

  def augment(images):
    return _augment(images, jax.random.key(0), 0.0, ops)

  ours, pull = jax.vjp(augment, images)
  assert ours.tobytes() == images.tobytes()
  cotangent = _images(4, 16, channels, seed=1)
  np.testing.assert_array_equal(pull(cotangent)[0], cotangent)


def test_images_that_nothing_was_sampled_for_pass_bit_for_bit():
  images, ops = _images(64, 16), augment_lib.get_ops('bgc')
  key = jax.random.key(0)
  samples = augment_lib.sample(key, 0.1, images.shape, ops)
  alone = np.ones(64, bool)
  for name, values in samples.items():
    # A shift that rounds to none is also none.
    size = 16 if name == 'xint' else 1
    scaled = np.asarray(values) * size
    scaled = np.round(scaled) if name == 'xint' else scaled
    alone &= np.all(scaled == augment_lib.OPS[name].neutral, axis=1)
  assert 5 < alone.sum() < 60
  same = np.all(_augment(images, key, 0.1, ops) == images, axis=(1, 2, 3))
  np.testing.assert_array_equal(same, alone)


# --- Channels. ---


@functools.cache
def _strong_samples():
  samples = augment_lib.sample(
    jax.random.key(2), 1.0, (2, 32, 32, 3), tuple(augment_lib.OPS)
  )
  return {name: v for name, v in samples.items() if name != 'noise'}


def test_grey_is_rgb_of_equal_channels():
  grey = _images(channels=1)
  rgb = _apply(np.repeat(grey, 3, axis=3), _strong_samples())
  ours = _apply(grey, _strong_samples())
  # A turn of the hue rounds to 1e-7; contrast and saturation amplify it.
  np.testing.assert_allclose(np.broadcast_to(ours, rgb.shape), rgb, atol=1e-5)


def test_opacity_is_moved_but_not_coloured():
  rgba = _images(channels=4)

  def only(names):
    strong = _strong_samples()
    return _neutral(2) | {name: strong[name] for name in names}

  ours = _apply(rgba, only(colour.NAMES))
  np.testing.assert_array_equal(ours[..., 3], rgba[..., 3])
  # The same sums, in an order that the compiler chooses by the channels.
  np.testing.assert_allclose(
    ours[..., :3], _apply(rgba[..., :3], only(colour.NAMES)), atol=1e-6
  )
  moves = only(geometry.NAMES)
  np.testing.assert_allclose(
    _apply(rgba, moves)[..., 3:], _apply(rgba[..., 3:], moves), atol=1e-6
  )


def test_colours_need_grey_rgb_or_rgba():
  with pytest.raises(ValueError, match=r'must have 1, 3 or 4 channels .*got 2'):
    jax.eval_shape(augment_lib.apply, _images(channels=2), _neutral(2))
  moves = _neutral(2, augment_lib.get_ops('bg'))
  images = _images(channels=2)
  assert jax.eval_shape(augment_lib.apply, images, moves).shape == images.shape


def test_keeps_the_type():
  images = jnp.asarray(_images(2, 16), jnp.bfloat16)
  assert (
    jax.eval_shape(augment_lib.apply, images, _neutral(2)).dtype == jnp.bfloat16
  )


# --- Geometry. ---


def _move(images, **values):
  samples = _neutral(len(images))
  for name, value in values.items():
    samples[name] = np.broadcast_to(np.asarray(value, 'f'), samples[name].shape)
  return np.asarray(_apply(images, samples))


def _ripple(images, axis):
  """Filters an axis as flipping it does: by the filter with itself.

  Where the filter meets its own mirror image, upsampling and downsampling undo
  one another. Flipped, it meets itself.
  """
  kernel = np.convolve(geometry.SYM6, geometry.SYM6)[::-2]
  pad = [(0, 0)] * images.ndim
  pad[axis] = (len(kernel), len(kernel))
  padded = np.pad(images, pad, mode='reflect')
  # Its largest tap is on the pixel.
  assert np.argmax(np.abs(kernel)) == 6
  filtered = np.apply_along_axis(np.convolve, axis, padded, kernel)
  start = len(kernel) + 6
  return np.take(filtered, range(start, start + images.shape[axis]), axis)


# Of float32 sums over 12 taps a pass and axis.
_ROUNDING = 1e-5


def test_a_flip_is_one_but_for_a_ripple():
  images = _images()
  ours = _move(images, xflip=1)
  expected = _ripple(images[:, :, ::-1], 2)
  np.testing.assert_allclose(ours, expected, atol=_ROUNDING)
  # What is smooth is flipped and shifted by the ripple's mean, 0.1 pixels.
  ramp = np.broadcast_to(
    np.linspace(-1, 1, 32, dtype='f')[:, None], (2, 32, 32, 1)
  )
  ramp = np.repeat(ramp, 3, axis=3)
  flipped = _move(ramp, xflip=1)[:, :, 7:-7]
  expected = ramp[:, :, ::-1][:, :, 7:-7]
  np.testing.assert_allclose(flipped, expected, atol=0.1 * 2 / 31)


@pytest.mark.parametrize('quarters', [1, 2, 3])
def test_quarter_turns_are_ones_but_for_ripples(quarters):
  images = _images()
  ours = _move(images, rotate90=quarters)
  turned = np.rot90(images, quarters, axes=(1, 2))
  # A quarter turn flips one of the axes, a half turn both.
  for axis in {1: (1,), 2: (1, 2), 3: (2,)}[quarters]:
    turned = _ripple(turned, axis)
  np.testing.assert_allclose(ours, turned, atol=_ROUNDING)


def test_integer_shifts_bring_in_the_mirrored_image():
  images = _images()
  ours = _move(images, xint=[1 / 32, -3.4 / 32])  # Right, and up.
  padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode='reflect')
  expected = padded[:, 4 + 3 : 36 + 3, 4 - 1 : 36 - 1]
  np.testing.assert_allclose(ours, expected, atol=_ROUNDING)


def test_the_mirrored_image_goes_on_without_end():
  images = _images()
  period = 2 * 32 - 2
  ours = _move(images, xfrac=[5 * period / 32, -period / 32])
  np.testing.assert_allclose(ours, images, atol=_ROUNDING)


def test_any_sample_gives_finite_images():
  images = _images(4, 16)
  ours = _move(
    images,
    scale=[[1e-3], [1e3], [1], [1]],
    aniso=[[1], [1], [1e-3], [1e3]],
    rotate=1,
  )
  assert np.all(np.isfinite(ours))
  assert np.max(np.abs(ours)) < 3  # The filter overshoots, twice an axis.


def test_scales_and_turns_about_the_centre():
  y, x = (np.mgrid[:32, :32] + 0.5) - 16

  def blob(x, y, sigma_x, sigma_y):
    z = np.exp(-np.square(x / sigma_x) / 2 - np.square(y / sigma_y) / 2)
    return np.repeat(z[None, :, :, None], 2, 0).astype('f')

  # Linear interpolation over half pixels is off by 1/8 * 1/4 of the curvature,
  # here 1/9 and 1/9; an axis that is turned moves by up to 0.1 pixels, where
  # the slope is up to 0.2.
  tolerance = 0.03
  ours = _move(blob(x, y, 3, 3), scale=1.3, aniso=1.2)
  expected = blob(x, y, 3 * 1.3 * 1.2, 3 * 1.3 / 1.2)
  np.testing.assert_allclose(ours, expected, atol=tolerance)
  ours = _move(blob(x, y, 4, 3), rotate=[0.3, 0.2])
  c, s = np.cos(0.5), np.sin(0.5)  # Counter-clockwise on the screen.
  expected = blob(c * x - s * y, s * x + c * y, 4, 3)
  np.testing.assert_allclose(ours, expected, atol=tolerance)


def test_the_resampling_matrices_undo_one_another():
  up = geometry.upsampling_matrix(8)
  down = geometry.downsampling_matrix(8)
  np.testing.assert_allclose(up.sum(1), 1, atol=1e-10)
  # The samples that the identity reads begin at -5 and end at 20, of 28.
  rows = np.arange(-5, 21) % len(up)
  np.testing.assert_allclose(down @ up[rows], np.eye(8), atol=1e-10)


# --- Wavelets. ---


@pytest.mark.parametrize('taps', [geometry.SYM6, corruptions.SYM2])
def test_wavelets_are_orthonormal_with_their_vanishing_moments(taps):
  # The table has 12 digits after the point or more.
  assert taps.sum() == pytest.approx(np.sqrt(2), abs=1e-11)
  for shift in range(len(taps) // 2):
    product = taps[2 * shift :] @ taps[: len(taps) - 2 * shift]
    assert product == pytest.approx(float(shift == 0), abs=1e-11)
  positions = np.linspace(-1, 1, len(taps))
  for moment in range(len(taps) // 2):
    highpass = taps * (-1.0) ** np.arange(len(taps))
    assert highpass @ positions**moment == pytest.approx(0, abs=1e-11)


def test_bands_are_symmetric_octaves_that_sum_to_one():
  filters = corruptions.band_filters()
  np.testing.assert_allclose(filters, filters[:, ::-1], atol=1e-15)
  delta = np.arange(filters.shape[1]) == filters.shape[1] // 2
  np.testing.assert_allclose(filters.sum(0), delta, atol=1e-15)
  # A tone in the middle of each octave passes in its band above all.
  positions = np.arange(filters.shape[1]) - filters.shape[1] // 2
  for band, frequency in enumerate([0.04, 0.18, 0.36, 0.8]):
    gains = filters @ np.cos(np.pi * frequency * positions)
    assert np.argmax(gains) == band
    assert gains[band] > 0.6


def test_band_gains_keep_the_power_of_natural_images():
  """With one band amplified, the gains are those of the definition."""
  images = _images(2, 64)
  gains = np.array([[1, 1, 4, 1], [2, 1, 1, 0.5]], 'f')
  ours = _apply(images, {'imgfilter': gains})
  for image, gain, out in zip(images, gains, ours, strict=True):
    power = np.array([10, 1, 1, 1]) / 13
    scale = 1.0
    for i in range(4):
      t = np.where(np.arange(4) == i, gain[i], 1)
      scale = scale / np.sqrt(power @ np.square(t))
    taps = gain * scale @ corruptions.band_filters()
    expected = np.pad(image, ((21, 21), (21, 21), (0, 0)), mode='reflect')
    for axis in (0, 1):
      expected = np.apply_along_axis(
        np.convolve, axis, expected, taps, mode='valid'
      )
    np.testing.assert_allclose(out, expected, atol=1e-5)


# --- As a part of programs. ---


def test_differentiable_twice():
  """R1's gradients are those behind the explicit matrix of the augmentation.

  The matrix is found without derivatives, from images of one lit pixel.
  """
  shape = (6, 6, 3)
  count = np.prod(shape)
  samples = augment_lib.sample(
    jax.random.key(5), 1.0, (1, *shape), augment_lib.get_ops('bgcf')
  )
  lit = np.concatenate([np.zeros((1, count)), np.eye(count)]).astype('f')
  responses = _apply(
    lit.reshape(-1, *shape),
    {name: np.repeat(values, len(lit), 0) for name, values in samples.items()},
  ).reshape(len(lit), count)
  offset, matrix = responses[0], responses[1:] - responses[0]
  rng = np.random.RandomState(0)
  probe = rng.randn(count, 4).astype('f') / 10

  def penalty(augment, probe, images):
    def logits(images):  # Of a discriminator of one hidden layer.
      return jnp.sum(jnp.tanh(augment(images) @ probe))

    return jnp.sum(jnp.square(jax.grad(logits)(images)))

  def by_gathers(images):
    return augment_lib.apply(images.reshape(1, *shape), samples).reshape(
      1, count
    )

  def by_matrix(images):
    return jnp.matmul(images, matrix, precision='highest') + offset

  images = rng.uniform(-1, 1, (1, count)).astype('f')
  results = [
    jax.jit(jax.value_and_grad(penalty, argnums=(1, 2)), static_argnums=0)(
      augment, probe, images
    )
    for augment in (by_gathers, by_matrix)
  ]
  for ours, expected in zip(*map(jax.tree.leaves, results), strict=True):
    # float32: 1e-6 of the largest, through three passes.
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(ours, expected, atol=1e-5 * scale)


def _collectives(compiled) -> set[str]:
  pattern = r'all-gather|all-reduce|all-to-all|collective-permute'
  return set(re.findall(pattern, compiled.as_text()))


def test_shards_without_communication():
  ops = augment_lib.get_ops('bgcfnc')
  images, key = _images(4, 16), jax.random.key(0)

  def gradient_norms(images, key):
    def total(images):
      return jnp.sum(jnp.square(augment_lib.augment(images, key, 0.8, ops)))

    return jnp.sum(jnp.square(jax.grad(total)(images)), axis=(1, 2, 3))

  def both(images, key):
    return augment_lib.augment(images, key, 0.8, ops), gradient_norms(
      images, key
    )

  results = []
  for count in (1, 2):
    mesh = sharding.make_mesh(count)
    spread = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
      compiled = (
        jax.jit(
          both,
          in_shardings=(spread, sharding.replicated(mesh)),
          out_shardings=spread,
        )
        .lower(images, key)
        .compile()
      )
      results.append(jax.device_get(compiled(images, key)))
    assert not _collectives(compiled)
  for one, two in zip(*results, strict=True):
    # The same sums; a batch of two may be vectorized in another order.
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
