import dataclasses
import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from PIL import Image
from scipy import ndimage

from sg3jax.data import decoding
from sg3jax.editing import ws as ws_lib
from sg3jax.eval import resampling
from sg3jax.inversion import (
  losses,
  noise,
  pivotal,
  projector,
  pyramid,
  refinement,
  targets,
  transforms,
)


def noise_image(*shape, seed=0):
  return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def reference_laplacian(x):
  """The pyramid of [h, w] in float64, by plain correlations."""
  kernel = np.array([1, 3, 3, 1]) / 8
  levels = []
  while min(x.shape) >= 8:
    low = x
    for axis in (0, 1):
      # Four taps around the centre between two values: rows -1..2 of each pair.
      low = ndimage.correlate1d(low, kernel, axis, mode='constant', origin=-1)
      low = np.take(low, np.arange(0, low.shape[axis], 2), axis)
    high = np.zeros(x.shape)
    high[::2, ::2] = low
    for axis in (0, 1):
      high = 2 * ndimage.correlate1d(high, kernel, axis, mode='constant')
    levels.append(x - high)
    x = low
  return [*levels, x]


def test_the_pyramid_is_that_of_float64():
  x = noise_image(2, 32, 32, 1)
  levels = pyramid.laplacian(x)
  assert [level.shape[1] for level in levels] == [32, 16, 8, 4]
  for i in range(2):
    for level, expected in zip(
      levels, reference_laplacian(x[i, ..., 0].astype(np.float64)), strict=True
    ):
      # A dozen roundings of values up to 5.
      np.testing.assert_allclose(level[i, ..., 0], expected, atol=5e-6)


def test_the_distance_sums_means_over_the_levels():
  a, b = noise_image(2, 16, 16, 3), noise_image(2, 16, 16, 3, seed=1)
  expected = []
  for i in range(2):
    difference = (a[i] - b[i]).astype(np.float64)
    channels = [reference_laplacian(difference[..., c]) for c in range(3)]
    levels = [
      np.mean([np.mean(np.abs(channel[k])) for channel in channels])
      for k in range(3)
    ]
    expected.append(sum(levels) + np.mean(difference**2))
  np.testing.assert_allclose(pyramid.distance(a, b), expected, rtol=1e-5)
  np.testing.assert_array_equal(pyramid.distance(a, a), [0, 0])


def test_losses_are_chosen_by_what_is_there():
  def lpips(a, b):
    return jnp.zeros(len(a))

  assert losses.choose('auto', None) == ('pyramid', pyramid.distance)
  assert losses.choose('auto', lpips) == ('lpips', lpips)
  assert losses.choose('pyramid', lpips) == ('pyramid', pyramid.distance)
  with pytest.raises(FileNotFoundError, match='needs weights'):
    losses.choose('lpips', None)
  with pytest.raises(ValueError, match='must be one of'):
    losses.choose('mse', None)


def test_the_last_phase_needs_a_smooth_loss():
  def lpips(a, b):
    return jnp.zeros(len(a))

  assert losses.for_refinement(lpips) is lpips
  a, b = noise_image(2, 4, 4, 3), noise_image(2, 4, 4, 3, seed=1)
  np.testing.assert_allclose(
    losses.for_refinement(pyramid.distance)(a, b),
    np.mean((a - b).astype(np.float64) ** 2, (1, 2, 3)),
    rtol=1e-5,
  )


def test_the_last_phase_finds_the_minimum_of_a_narrow_valley():
  # Rotated, so that no scaling of single numbers helps.
  rotation = np.linalg.qr(noise_image(6, 6).astype(np.float64))[0]
  curvatures = np.diag(10.0 ** np.arange(-2, 4))
  matrix = rotation @ curvatures @ rotation.T
  goal = noise_image(6, seed=1)

  def function(params):
    d = np.concatenate([params['a'], params['b'].ravel()]) - goal
    slope = (2 * matrix @ d).astype(np.float32)
    gradients = {'a': slope[:2], 'b': slope[2:].reshape(2, 2)}
    return d @ matrix @ d, gradients

  params = {'a': jnp.zeros(2), 'b': jnp.zeros((2, 2))}
  first = function(params)[0]
  found = refinement.minimize(function, params, 60)
  assert function(found)[0] < 1e-6 * first
  again = refinement.minimize(function, found, 0)
  assert function(again)[0] <= function(found)[0]


@pytest.mark.parametrize('value', [0.0, np.nan, np.inf])
def test_the_last_phase_leaves_what_it_cannot_improve(value):
  params = {'a': jnp.ones(2)}
  assert refinement.minimize(lambda p: (value, p), params, 5) is params


def test_large_images_are_averaged_before_they_are_compared():
  a, b = noise_image(1, 32, 32, 3), noise_image(1, 32, 32, 3, seed=1)
  seen = []

  def loss(x, y):
    seen.append(x)
    return pyramid.distance(x, y)

  losses.at_most(loss, 8)(a, b)
  expected = a.reshape(1, 8, 4, 8, 4, 3).mean((2, 4))
  np.testing.assert_allclose(seen[0], expected, atol=1e-6)


def test_psnr_is_that_of_clipped_images():
  a = np.full((1, 4, 4, 3), 1.5, np.float32)
  np.testing.assert_allclose(losses.psnr(a, np.full_like(a, 0.8)), [20])
  assert losses.psnr(a, np.ones_like(a)) == np.inf


def test_the_penalty_of_noise_is_that_of_its_definition():
  x = noise_image(1, 16, 16).astype(np.float64)
  total = 0.0
  y = x[0]
  while True:
    for axis in (0, 1):
      total += np.mean(y * np.roll(y, 1, axis)) ** 2
    if len(y) <= 8:
      break
    y = (y[::2, ::2] + y[1::2, ::2] + y[::2, 1::2] + y[1::2, 1::2]) / 2
  found = noise.regularity({'a': jnp.asarray(x, jnp.float32)})
  np.testing.assert_allclose(found, [total], rtol=1e-4)
  smooth = jnp.broadcast_to(jnp.sin(jnp.arange(16) / 3), (1, 16, 16))
  assert noise.regularity({'a': smooth}) > 10 * found


def test_noise_is_normalised_image_by_image():
  x = 3 * noise_image(2, 8, 8) + np.array([1, -2]).reshape(2, 1, 1)
  y = noise.normalize({'a': jnp.asarray(x, jnp.float32)})['a']
  np.testing.assert_allclose(np.mean(y, (1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(np.std(y, (1, 2)), 1, atol=1e-5)


@pytest.fixture(scope='module')
def model():
  return small_models.make_model()


def test_a_transform_is_absorbed_into_the_first_style(model):
  ws = np.array(model.mapping(noise_image(3, 8)))
  moved = np.asarray(
    transforms.rigid(np.float32([0.4, -2.0, 0.0]), 0.1 * noise_image(3, 2))
  )
  expected = model.synthesis(ws, moved)
  first = transforms.absorb(model.variables, ws[:, 0], moved)
  assert first is not None
  unmoved = model.synthesis(ws)
  ws[:, 0] = first
  found = model.synthesis(ws)
  scale = np.std(expected)
  # The layers turn errors of 1e-6 in phase into as much of their outputs.
  np.testing.assert_allclose(found, expected, atol=1e-4 * scale)
  assert np.std(unmoved[:2] - expected[:2]) > 0.1 * scale


def test_no_style_absorbs_a_transform_if_the_input_ignores_styles(model):
  variables = jax.tree.map(np.array, dict(model.variables))
  affine = variables['params']['synthesis']['input']['affine']
  affine['weight'] = np.zeros_like(affine['weight'])
  w = noise_image(1, 8)
  moved = np.asarray(transforms.rigid(jnp.ones(1), jnp.zeros((1, 2))))
  assert transforms.absorb(variables, w, moved) is None


def test_rigid_transforms_are_those_of_the_commands():
  found = transforms.rigid(jnp.array([0.3]), jnp.zeros((1, 2)))[0]
  expected = resampling.inverse_transform((0.0, 0.0), float(np.degrees(0.3)))
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_impossible_transforms_are_refused():
  constant = small_models.make_model('2').generator.spec
  assert transforms.check_mode(None, constant) == 'fixed'
  with pytest.raises(ValueError, match='must be fixed for this generator'):
    transforms.check_mode('free', constant)


@pytest.mark.parametrize(
  ('field', 'value'),
  [('space', 'z'), ('steps', 0), ('learning_rate', 0.0), ('refine_steps', -1)],
)
def test_settings_out_of_range_are_refused(field, value):
  with pytest.raises(ValueError, match=field):
    projector.Settings(**{field: value})


_SHORT = {
  'steps': 40,
  'steps_per_check': 20,
  'candidates': 16,
  'refine_steps': 15,
}


@pytest.fixture(scope='module')
def projected(model):
  goal = small_models.images(model, [1, 2])
  project = projector.Projector(
    model, pyramid.distance, projector.Settings(**_SHORT)
  )
  return project, goal, project(goal)


def test_projection_improves_on_its_start_and_the_mean(projected):
  _, goal, result = projected
  assert np.all(result.start_loss <= result.mean_loss)
  assert np.all(result.loss < 0.8 * result.start_loss)
  np.testing.assert_allclose(
    result.psnr, losses.psnr(result.images, goal), rtol=1e-6
  )


def test_the_last_phase_comes_closer(projected):
  *_, result = projected
  *_, before, after = result.checks
  assert after.step == 40 + 15
  assert np.all(after.psnr > before.psnr + 0.1)
  assert np.all(result.loss <= before.loss)


def test_styles_reproduce_the_images(model, projected):
  *_, result = projected
  assert result.styles.transform is None  # It was absorbed.
  images = projector.generate(model, result.styles)
  np.testing.assert_allclose(
    images, result.images, atol=1e-4 * np.std(result.images)
  )


def test_the_same_projection_twice_has_the_same_bits(projected):
  project, goal, result = projected
  again = project(goal)
  np.testing.assert_array_equal(again.styles.w, result.styles.w)
  np.testing.assert_array_equal(again.images, result.images)


def test_a_finished_image_ends_the_projection(projected, monkeypatch):
  project, goal, result = projected
  limit = float(result.checks[0].psnr.min())
  settings = dataclasses.replace(project.settings, stop_psnr=limit)
  monkeypatch.setattr(project, 'settings', settings)
  assert [check.step for check in project(goal).checks] == [20]


def test_targets_of_other_shapes_are_refused(projected):
  project, goal, _ = projected
  with pytest.raises(ValueError, match=r'targets must have the shape'):
    project(goal[:, :8])


@pytest.mark.slow
def test_a_fixed_input_stays_where_it_starts(model):
  goal = small_models.images(model, [1])
  short = {**_SHORT, 'steps': 10}  # Much remains for the last phase.
  settings = projector.Settings(transform='fixed', **short)
  project = projector.Projector(model, pyramid.distance, settings)
  result = project(goal)
  mean = ws_lib.statistics(model).mean
  start, *_ = project._starts(goal, mean)
  assert result.styles.transform is None
  np.testing.assert_array_equal(result.styles.w[:, 0], start[:, 0])
  assert np.all(result.styles.w[:, 1:] != start[:, 1:])
  assert result.psnr > result.checks[-2].psnr


@pytest.mark.slow
def test_noise_inputs_are_optimised_and_stay_noise():
  model = small_models.make_model('2')
  goal = small_models.images(model, [1])
  settings = projector.Settings(space='w', **_SHORT)
  result = projector.Projector(model, pyramid.distance, settings)(goal)
  assert result.styles.noise
  for x in result.styles.noise.values():
    np.testing.assert_allclose(np.mean(x, (1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(x, (1, 2)), 1, atol=1e-3)
  w = result.styles.w
  np.testing.assert_array_equal(w, np.repeat(w[:, :1], w.shape[1], axis=1))
  images = projector.generate(model, result.styles)
  np.testing.assert_allclose(images, result.images, atol=1e-5)
  assert np.all(result.loss < result.start_loss)


@pytest.mark.slow
def test_pivotal_tuning_fits_the_photograph_and_keeps_other_images(model):
  photo = np.tanh(noise_image(1, 4, 4, 3).repeat(4, 1).repeat(4, 2))
  styles = ws_lib.Styles(np.asarray(model.mapping(noise_image(1, 8))))
  before = pyramid.distance(model.synthesis(styles.w), photo)
  others = model.mapping(noise_image(16, 8, seed=5))
  originals = model.synthesis(others)
  changes = {}
  for weight in (0.0, 10.0):
    settings = pivotal.Settings(
      steps=60, learning_rate=0.01, locality_weight=weight, steps_per_check=30
    )
    tuned = pivotal.tune(model, photo, styles, pyramid.distance, settings)
    assert np.all(tuned.loss < (0.9 if weight == 0 else 0.98) * before)
    mapping = tuned.variables['params']['mapping']
    assert mapping is model.variables['params']['mapping']
    images = projector.generate(
      model, ws_lib.Styles(np.asarray(others)), tuned.variables
    )
    changes[weight] = np.mean((images - originals) ** 2)
  assert changes[10.0] < 0.7 * changes[0.0]


def save(path, array):
  Image.fromarray(array).save(path)


def test_photographs_are_cropped_and_resized(tmp_path):
  pixels = np.zeros((20, 40, 3), np.uint8)
  pixels[:, 10:30] = 200  # The central square.
  save(tmp_path / 'wide.png', pixels)
  save(tmp_path / 'exact.png', pixels[:16, 10:26])
  (tmp_path / 'notes.txt').write_text('')
  read = targets.read(tmp_path, 16, 3)
  assert read.names == ('exact', 'wide')
  np.testing.assert_array_equal(read.images, np.float32(200 / 127.5) - 1)
  assert '1 file skipped: notes.txt' in read.notes
  assert any('cropped from 40x20' in note for note in read.notes)
  assert not any(note.startswith('exact') for note in read.notes)


def test_photographs_get_the_channels_of_the_model(tmp_path):
  pixels = np.zeros((16, 16, 4), np.uint8)
  pixels[..., 0] = 255  # Red, and transparent in the left half.
  pixels[:, 8:, 3] = 255
  save(tmp_path / 'a.png', pixels)
  rgb = targets.read(tmp_path / 'a.png', 16, 3)
  np.testing.assert_array_equal(rgb.images[0, 0, 0], [1, 1, 1])
  np.testing.assert_array_equal(rgb.images[0, 0, 15], [1, -1, -1])
  assert 'transparent parts' in rgb.notes[0]
  grey = targets.read(tmp_path / 'a.png', 16, 1)
  np.testing.assert_allclose(grey.images[0, 0, 15], 0.299 * 2 - 1, atol=0.01)
  save(tmp_path / 'b.png', pixels[..., :3])
  opaque = targets.read(tmp_path / 'b.png', 16, 4)
  np.testing.assert_array_equal(opaque.images[0, 0, 0], [1, -1, -1, 1])


def test_photographs_are_turned_upright(tmp_path):
  pixels = np.zeros((16, 16, 3), np.uint8)
  pixels[:8] = 255
  exif = Image.Exif()
  exif[0x0112] = 3  # Half a turn.
  Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
  read = targets.read(tmp_path / 'a.png', 16, 3)
  assert np.all(read.images[0, :8] == -1)
  assert 'turned upright' in read.notes[0]


def _fail_to_read(*_):
  raise OSError(errno.EIO, 'Input/output error')


def test_unusable_photographs_are_named(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match='does not exist'):
    targets.read(tmp_path / 'missing.png', 16, 3)
  with pytest.raises(ValueError, match='must contain files'):
    targets.read(tmp_path, 16, 3)
  (tmp_path / 'a.png').write_bytes(b'no image')
  with pytest.raises(ValueError, match=r'a\.png cannot be read \(it is not an'):
    targets.read(tmp_path, 16, 3)
  with monkeypatch.context() as patch:
    patch.setattr(decoding, 'read_header', _fail_to_read)
    with pytest.raises(OSError, match=r'a\.png .* may be intact; check'):
      targets.read(tmp_path, 16, 3)
  save(tmp_path / 'a.bmp', np.zeros((4, 4, 3), np.uint8))
  with pytest.raises(ValueError, match='several of a'):
    targets.read(tmp_path, 16, 3)
