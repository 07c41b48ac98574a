import numpy as np
import pytest
import small_models

from sg3jax import model as model_lib
from sg3jax.editing import channels, surgery
from sg3jax.trees import flatten


def parts_of(model):
  return surgery.Parts(
    model.options['model'],
    {
      name: {path: np.asarray(x) for path, x in flatten(tree).items()}
      for name, tree in (
        ('generator_ema', model.variables),
        ('discriminator', model.discriminator_variables),
      )
    },
  )


def other(parts, seed, same_input=True):
  """Returns a model of other weights, as after more training."""
  rng = np.random.RandomState(seed)

  def change(path, x):
    fixed = path.startswith('buffers/') and same_input
    noise = 0 if fixed else rng.standard_normal(np.shape(x))
    return np.asarray(x + 0.1 * noise, np.float32)

  return surgery.Parts(
    parts.design,
    {
      name: {p: change(p, np.asarray(x)) for p, x in arrays.items()}
      for name, arrays in parts.networks.items()
    },
  )


@pytest.fixture(scope='module')
def parts():
  return parts_of(small_models.make_model())


@pytest.fixture(scope='module')
def z():
  return model_lib.seed_latents([0, 1], 8)


def test_averages_are_those_of_the_weights(parts):
  models = [parts, other(parts, 1), other(parts, 2)]
  result = surgery.average(models, [1, 2, 1])
  for path, array in result.networks['generator_ema'].items():
    rows = [np.asarray(m.networks['generator_ema'][path]) for m in models]
    expected = (rows[0] + 2.0 * rows[1] + rows[2]) / 4
    np.testing.assert_allclose(array, expected, rtol=2e-6, atol=1e-6)
  assert result.networks['discriminator'] is models[2].networks['discriminator']


def test_post_hoc_weights_halve_per_half_life():
  assert surgery.post_hoc_weights([1, 3, 5], None) == [1, 1, 1]
  np.testing.assert_allclose(
    surgery.post_hoc_weights([1, 3, 5], 2.0), [0.25, 0.5, 1]
  )
  with pytest.raises(ValueError, match='half_life must be positive'):
    surgery.post_hoc_weights([1, 3], 0.0)


@pytest.mark.parametrize('weights', [[1], [1, -1], [0, 0], [1, np.nan]])
def test_unusable_weights_are_refused(parts, weights):
  with pytest.raises(ValueError, match='weights must be'):
    surgery.average([parts, parts], weights)


def test_models_of_different_runs_are_not_averaged(parts):
  with pytest.raises(ValueError, match='must be from one run'):
    surgery.average([parts, other(parts, 1, same_input=False)], [1, 1])


def test_other_designs_are_refused_by_name(parts):
  stylegan2 = parts_of(small_models.make_model('2'))
  with pytest.raises(ValueError, match='stylegan3'):
    surgery.average([parts, stylegan2], [1, 1])
  with pytest.raises(ValueError, match='must have the same design'):
    surgery.blend(parts, stylegan2, 2)
  design = {**parts.design, 'precision': 'bf16', 'remat': True}
  surgery.check_same_design(parts, surgery.Parts(design, parts.networks))


@pytest.mark.parametrize('design', ['t', '2'])
def test_blends_take_each_layer_from_its_model(design):
  low = parts_of(small_models.make_model(design))
  high = other(low, 1, same_input=False)
  a, b = (m.networks['generator_ema'] for m in (low, high))
  num_ws = small_models.make_model(design).num_ws
  for layer, expected in ((0, b), (num_ws, a)):
    blend = surgery.blend(low, high, layer).networks['generator_ema']
    for path, array in blend.items():
      own = path.split('/')[1] == 'synthesis' and not path.startswith('buffers')
      np.testing.assert_array_equal(
        array, (expected if own else a)[path], err_msg=path
      )
  mixed = surgery.blend(low, high, 2, mapping='high')
  arrays = mixed.networks['generator_ema']
  first, last = ('L0', 'L1') if design == 't' else ('b4/conv1', 'b16/conv1')
  for name, source in ((first, a), (last, b)):
    path = f'params/synthesis/{name}/weight'
    np.testing.assert_array_equal(arrays[path], source[path])
  path = 'params/mapping/fc0/weight'
  np.testing.assert_array_equal(arrays[path], b[path])


def test_ramps_mix_the_layers_at_the_boundary(parts):
  high = other(parts, 1)
  arrays = surgery.blend(parts, high, 2, ramp=4).networks['generator_ema']
  for name, share in (('input', 0.125), ('L0', 0.375), ('L1', 0.625)):
    path = f'params/synthesis/{name}/affine/weight'
    a, b = (
      np.asarray(m.networks['generator_ema'][path]) for m in (parts, high)
    )
    np.testing.assert_allclose(
      arrays[path], a + share * (b - a), rtol=1e-5, atol=1e-6
    )
  with pytest.raises(ValueError, match=r'layer must be within 0\.\.4'):
    surgery.blend(parts, high, 5)


LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize('design', ['t', '2'])
def test_images_stay_the_same_with_other_channels(design, z):
  """Rounding: weights of 1e-7 relative, in sums of 8 products."""
  parts = parts_of(small_models.make_model(design))
  model = small_models.make_model(design)
  rgb = np.asarray(model(z))
  scale = np.std(rgb)
  grey_model = channels.adapt(parts, 'grey').model()
  grey = np.asarray(grey_model(z))
  np.testing.assert_allclose(
    grey[..., 0], rgb @ LUMA, atol=1e-5 * scale, rtol=1e-5
  )
  rgba_model = channels.adapt(parts, 'rgba').model()
  rgba = np.asarray(rgba_model(z))
  np.testing.assert_allclose(rgba[..., :3], rgb, atol=1e-5 * scale)
  np.testing.assert_allclose(rgba[..., 3], 1, atol=1e-5)

  def logits(model, images):
    return np.asarray(model.discriminate(np.asarray(images, np.float32)))

  expected = logits(model, rgb)
  tolerance = {'rtol': 1e-4, 'atol': 1e-4 * np.max(np.abs(expected))}
  np.testing.assert_allclose(logits(rgba_model, rgba), expected, **tolerance)
  np.testing.assert_allclose(
    logits(grey_model, grey),
    logits(model, np.repeat(grey, 3, axis=3)),
    **tolerance,
  )


def test_channels_can_be_restored(parts):
  for to in ('rgba', 'grey'):
    adapted = channels.adapt(parts, to, 'mean')
    back = channels.adapt(adapted, 'rgb')
    for name in ('generator_ema', 'discriminator'):
      for path, array in back.networks[name].items():
        original = np.asarray(parts.networks[name][path])
        assert np.shape(array) == original.shape
        if to == 'rgba':
          np.testing.assert_allclose(array, original, rtol=1e-6, atol=1e-7)
  with pytest.raises(ValueError, match=r'to must differ from .* got rgb'):
    channels.adapt(parts, 'rgb')


@pytest.mark.parametrize('design', ['t', '2'])
@pytest.mark.parametrize('resolution', [8, 32])
def test_other_resolutions_keep_the_layers_that_fit(design, resolution):
  parts = parts_of(small_models.make_model(design))
  if design == 't' and resolution == 8:
    pytest.skip('the tiny design has no 8 pixels')
  result, new = surgery.resize(parts, resolution)
  assert result.design['resolution'] == resolution
  discriminator = result.networks['discriminator']
  for path in ('params/b4/conv/weight', 'params/b4/fc/weight'):
    np.testing.assert_array_equal(
      discriminator[path], parts.networks['discriminator'][path]
    )
  if resolution == 32:
    assert {'b32/conv0', 'b32/fromrgb'} <= set(new['discriminator'])
    assert 'b16/conv1' not in new['discriminator']
  if design == '2':
    generator = result.networks['generator_ema']
    path = 'params/synthesis/b8/conv1/weight'
    np.testing.assert_array_equal(
      generator[path], parts.networks['generator_ema'][path]
    )
  with pytest.raises(ValueError, match='size must differ'):
    surgery.resize(parts, 16)


def test_a_cropped_stylegan2_generates_the_smaller_image(z):
  """The skip architecture sums images: without the last block, the rest."""
  parts = parts_of(small_models.make_model('2'))
  result, new = surgery.resize(parts, 8)
  assert new['generator_ema'] == []
  spec = result.model().generator.spec
  assert spec.resolution == 8
  images = result.model()(z)
  assert images.shape == (2, 8, 8, 3)


def test_what_was_written_is_read_back(parts, tmp_path, z):
  path = tmp_path / 'model'
  surgery.write(path, parts, {'surgery': 'none'})
  again = surgery.read(path)
  surgery.check_same_design(parts, again)
  for name, arrays in parts.networks.items():
    for key, array in arrays.items():
      np.testing.assert_array_equal(again.networks[name][key], array)
  with pytest.raises(FileExistsError):
    surgery.write(path, parts, {})
  with pytest.raises(FileNotFoundError, match='no checkpoints'):
    surgery.checkpoints(tmp_path)
