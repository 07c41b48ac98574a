"""Models: styles of classes, official words, precision."""

import copy
import pickle

import jax
import numpy as np
import pytest
from conftest import GOLDENS

from sg3jax import model as model_lib
from sg3jax.eval import resampling
from sg3jax.interop.official import convert, files
from sg3jax.nets import factory
from sg3jax.train import config as config_lib
from sg3jax.train.step import build


def _make_model(label_dim, **options):
  config = config_lib.default_config()
  config.model.resolution = 16
  config.model.z_dim = config.model.w_dim = 8
  config.model.synthesis.num_layers = 2
  config.model.synthesis.num_critical = 1
  config.model.synthesis.channel_max = 4
  config.model.discriminator.channel_max = 4
  config_lib.resolve(config, img_channels=3, label_dim=label_dim)
  state = jax.eval_shape(build.make_trainer(config).init, jax.random.key(0))
  rng = np.random.RandomState(0)
  # Layers of the mapping network hold a hundred times what they apply.
  networks = jax.tree.map(
    lambda x: np.asarray(100 * rng.standard_normal(x.shape), x.dtype),
    {
      'generator_ema': state.generator_ema,
      'discriminator': state.discriminator,
    },
  )
  return model_lib.Model(config.to_dict(), networks, 0, **options)


@pytest.fixture(scope='module')
def model():
  return _make_model(3)


@pytest.fixture(scope='module')
def z():
  return np.random.RandomState(0).randn(3, 8).astype(np.float32)


_CLASSES = np.eye(3, dtype=np.float32)


def test_each_class_has_a_mean_of_its_own(model):
  means = model.mean_styles(_CLASSES)
  rng = np.random.RandomState(1)
  for label, mean in zip(_CLASSES, means, strict=True):
    others = model.mapping(
      rng.randn(5000, 8).astype(np.float32), np.tile(label, (5000, 1))
    )[:, 0]
    # Of 10,000 latents against 5000 others: five standard errors.
    error = np.std(others, axis=0) * np.sqrt(1 / 10_000 + 1 / 5000)
    assert np.all(np.abs(mean - np.mean(others, axis=0)) < 5 * error)
    assert np.max(np.std(others, axis=0)) > 0
  for i, j in ((0, 1), (0, 2), (1, 2)):
    assert np.max(np.abs(means[i] - means[j])) > 10 * np.max(error)


def test_truncated_styles_lie_between_latent_and_mean(model, z):
  ws = model.mapping(z, _CLASSES)
  for towards, center in (
    ('class', model.mean_styles(_CLASSES)[:, None]),
    ('global', model.variables['moving_averages']['w_avg']),
  ):
    scale = np.max(np.abs(ws)) + np.max(np.abs(center))
    for psi in (0.0, 0.7):
      truncated = model.mapping(z, _CLASSES, psi, 2, truncation_towards=towards)
      expected = np.concatenate(
        [(psi * ws + (1 - psi) * center)[:, :2], ws[:, 2:]], axis=1
      )
      # Rounding of sums of two products, there and in `ws`, of two programs.
      np.testing.assert_allclose(truncated, expected, rtol=0, atol=3e-6 * scale)


def test_means_of_vector_labels_too_are_estimated_once(model):
  labels = np.array([[0.5, -1, 2], [1, 0, 0], [0.5, -1, 2]], np.float32)
  means = model.mean_styles(labels)
  np.testing.assert_array_equal(means[0], means[2])
  assert np.any(means[0] != means[1])
  mapping, model.__dict__['_mapping'] = model._mapping, None
  try:
    np.testing.assert_array_equal(model.mean_styles(labels), means)
  finally:
    model.__dict__['_mapping'] = mapping


def test_centers_that_are_not_there(model, z):
  with pytest.raises(ValueError, match='must be one of global, class'):
    model.mapping(z, _CLASSES, 0.5, truncation_towards='mean')
  with pytest.raises(ValueError, match='no classes to truncate towards'):
    _make_model(0).mapping(z, None, 0.5, truncation_towards='class')


def test_official_words_are_understood(model, z):
  """As scripts call G; only the axes of images are others here."""
  assert (model.z_dim, model.c_dim, model.w_dim, model.num_ws) == (8, 3, 8, 4)
  assert (model.img_resolution, model.img_channels) == (16, 3)
  options = {'truncation_psi': 0.7, 'truncation_cutoff': 2}
  ws = model.mapping(z, _CLASSES, **options)
  assert ws.shape == (3, model.num_ws, model.w_dim)
  images = model.synthesis(ws, noise_mode='const', force_fp32=True)
  assert images.shape == (3, 16, 16, 3)
  assert images.dtype == np.float32
  np.testing.assert_array_equal(
    images,
    model(z, _CLASSES, noise_mode='const', force_fp32=True, **options),
  )
  np.testing.assert_array_equal(images, model.synthesis(ws))
  np.testing.assert_array_equal(images, model.synthesis(ws, force_fp32=False))


# Significant bits of the types of feature maps.
_BITS = {'bf16': 8, 'fp16': 11}


@pytest.mark.slow
@pytest.mark.parametrize('precision', list(_BITS))
@pytest.mark.parametrize(
  'name', ['stylegan3_t32', 'stylegan3_r32_cond', 'stylegan2_32']
)
def test_pictures_in_16_bits_are_those_of_float32(name, precision):
  converted = convert.convert(files.read(GOLDENS / f'official_{name}.pkl')[0])
  options = {'model': converted.model}
  exact = model_lib.Model(options, converted.networks)
  model = model_lib.Model(options, converted.networks, precision=precision)
  rng = np.random.RandomState(0)
  z = rng.randn(8, model.z_dim).astype(np.float32)
  c = np.eye(max(model.c_dim, 1))[np.arange(8) % max(model.c_dim, 1)]
  ws = exact.mapping(z, c.astype(np.float32) if model.c_dim else None)
  images = exact.synthesis(ws)
  error = np.sqrt(np.mean((model.synthesis(ws) - images) ** 2) / np.var(images))
  # Each layer rounds its kernel, what the convolution puts out, and its result,
  # by u / sqrt(3) at most on average, and independently: sqrt(3 L) of that.
  bound = 2.0 ** -_BITS[precision] * np.sqrt(model.generator.spec.num_layers)
  assert bound / 8 < error < bound
  np.testing.assert_array_equal(model.synthesis(ws, force_fp32=True), images)
  assert images.dtype == model.synthesis(ws).dtype == np.float32


def test_unknown_precisions_are_refused():
  with pytest.raises(ValueError, match='precision must be one of fp32, bf16'):
    _make_model(0, precision='fp8')


def test_float32_is_unbounded_and_16_bits_are_as_in_training():
  assert _make_model(0).generator.conv_clamp is None
  for precision in _BITS:
    model = _make_model(0, precision=precision)
    assert model.generator.conv_clamp == 256
    assert factory.precision_of(model.generator) == model.precision == precision
    assert model.discriminator.low_precision_dtype is None


def test_labels_of_no_features_are_none(z):
  """Scripts make `zeros([1, G.c_dim])` for every model."""
  unconditional = _make_model(0)
  none = np.zeros((3, unconditional.c_dim), np.float32)
  np.testing.assert_array_equal(
    unconditional.mapping(z, none, 0.5), unconditional.mapping(z, None, 0.5)
  )
  with pytest.raises(ValueError, match='no classes to truncate towards'):
    unconditional.mapping(z, none, 0.5, truncation_towards='class')


@pytest.mark.parametrize(
  'copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_models_can_be_copied_after_their_first_call(model, z, copied):
  images = model(z, _CLASSES)
  logits = model.discriminate(images, _CLASSES)
  other = copied(model)
  np.testing.assert_array_equal(other(z, _CLASSES), images)
  np.testing.assert_array_equal(other.discriminate(images, _CLASSES), logits)
  np.testing.assert_array_equal(model(z, _CLASSES), images)  # As it was.


def test_seeds_are_generated_in_whole_batches(model):
  seeds = [3, 1, 4]
  found = list(model.generate(seeds, _CLASSES[1], batch_size=2))
  assert [seed for seed, _ in found] == seeds
  z = model_lib.seed_latents(seeds, 8)
  expected = model(z, np.tile(_CLASSES[1], (3, 1)))
  for (_, image), other in zip(found, expected, strict=True):
    # Another batch size sums in another order.
    np.testing.assert_allclose(image, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'options',
  [
    *({'truncation_psi': x} for x in (np.nan, np.inf, -np.inf, 1e9)),
    *({'truncation_cutoff': x} for x in (-1, 5)),
  ],
)
def test_impossible_truncation_is_refused(model, z, options):
  with pytest.raises(ValueError, match=f'{next(iter(options))} must be '):
    model.mapping(z, _CLASSES, **options)


def test_transforms_are_inverse():
  assert resampling.inverse_transform() is None
  turned = resampling.inverse_transform((0.25, 0), 90)
  back = np.array([[1, 0, -0.25], [0, 1, 0], [0, 0, 1]])
  turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
  np.testing.assert_allclose(turned, turn @ back, atol=1e-6)
  np.testing.assert_allclose(
    resampling.inverse_transform((0.25, 0), 90 + 360e3), turned, atol=1e-6
  )
  for bad in (((np.nan, 0), 0), ((0, np.inf), 0), ((0, 1e30), 0)):
    with pytest.raises(ValueError, match='translate must be'):
      resampling.inverse_transform(*bad)
  with pytest.raises(ValueError, match='rotate must be'):
    resampling.inverse_transform((0, 0), np.nan)
