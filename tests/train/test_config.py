"""The fields of a configuration, their checks, and the files in configs/."""

import jax
import jax.numpy as jnp
import pytest
import tiny
from conftest import CONFIGS, run_file

from sg3jax.nets import factory, stylegan2
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.train import config as config_lib
from sg3jax.train.step import build


def _get_config(name: str, *arg: str):
  return run_file(CONFIGS / f'{name}.py').get_config(*arg)


@pytest.mark.parametrize(
  ('arg', 'expected'),
  [
    ('', (256, 32, None)),
    ('512', (512, 32, None)),
    ('512,batch=16', (512, 16, None)),
    ('batch=8,gamma=0.5', (256, 8, 0.5)),
    ('resolution=64,gamma=8,batch=4', (64, 4, 8)),
    ('64,gamma=1e-1', (64, 32, 0.1)),
  ],
)
def test_parse_arg(arg, expected):
  values = config_lib.parse_arg(arg, resolution=256, batch=32, gamma=None)
  assert tuple(values.values()) == expected
  assert [type(v) for v in values.values()] == [type(v) for v in expected]


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('512,16', r"'16' in the configuration argument '512,16' .*,batch=NUMBER"),
    ('512,bach=16', r"'bach=16' .* use resolution=NUMBER,batch=NUMBER"),
    ('512,batch=x', 'batch in the configuration argument .* be an integer'),
    ('large', 'resolution in .* must be an integer'),
    ('gamma=x', 'gamma in .* must be a number'),
    ('resolution=2.5e2', 'resolution in .* must be an integer'),
  ],
)
def test_parse_arg_names_what_it_does_not_understand(arg, message):
  with pytest.raises(ValueError, match=message):
    config_lib.parse_arg(arg, resolution=256, batch=32, gamma=None)


@pytest.mark.parametrize(
  ('resolution', 'batch', 'gamma'),
  [
    (128, 32, 0.5),
    (256, 32, 2),
    (512, 32, 8),
    (1024, 32, 32),
    # Proportional to the pixels and to 1 / batch.
    (64, 32, 0.125),
    (192, 32, 1.125),
    (2048, 32, 128),
    (256, 8, 8),
    (256, 64, 1),
    (64, 8, 0.5),
  ],
)
def test_published_gamma(resolution, batch, gamma):
  value, reason = config_lib.published_gamma(resolution, batch)
  assert value == gamma
  assert 'published' in reason
  assert (f'32/{batch}' in reason) == (batch != 32)


def test_resolve_settles_what_is_open_and_says_why():
  config = _get_config('stylegan3_r', '128,batch=16')
  reasons = config_lib.resolve(config, img_channels=1, label_dim=7)
  assert config.train.r1_gamma == 1.0
  assert config.train.ema_kimg == 5.0
  assert config.train.blur_fade_kimg == 100.0
  assert (config.model.img_channels, config.model.label_dim) == (1, 7)
  assert any(
    reason.startswith('train.r1_gamma = 1: published 0.5 at 128 pixels')
    for reason in reasons
  )
  # Settled values stay, and are no news.
  assert not config_lib.resolve(config, img_channels=1, label_dim=7)


def test_gamma_that_is_given_stays():
  for arg, gamma in (('256,gamma=6.6', 6.6), ('256,gamma=8', 8.0)):
    config = _get_config('stylegan3_t', arg)
    reasons = config_lib.resolve(config, img_channels=3, label_dim=0)
    assert config.train.r1_gamma == gamma
    assert not any('gamma' in reason for reason in reasons)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('train.batch', 0),
    ('train.total_kimg', 0.0),
    ('train.total_kimg', float('nan')),
    ('train.g_lr', -0.1),
    ('train.r1_gamma', -1.0),
    ('train.r1_interval', 0),
    ('train.ema_kimg', -1.0),
    ('train.blur_init_sigma', float('inf')),
    ('train.style_mixing_prob', 1.5),
    ('train.pl_weight', -2.0),
    ('train.pl_interval', 0),
    ('train.pl_batch_shrink', 0),
    ('train.pl_decay', 2.0),
    ('data.workers', -1),
    ('log.kimg_per_tick', 0.0),
    ('log.ticks_per_snapshot', 0),
    ('log.keep_checkpoints', 0),
    ('model.discriminator.mbstd_group', 0),
  ],
)
def test_resolve_names_the_field_that_is_out_of_range(field, value):
  config = tiny.tiny_config()
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=rf'^{field} must be .*, got '):
    config_lib.resolve(config, img_channels=3, label_dim=0)


@pytest.mark.parametrize('field', ['img_channels', 'label_dim'])
def test_resolve_refuses_what_the_data_contradict(field):
  config = tiny.tiny_config()
  config.model[field] = 4
  with pytest.raises(
    ValueError, match=rf'model\.{field} must be 1, as in the data, got 4'
  ):
    config_lib.resolve(config, img_channels=1, label_dim=1)


def test_a_misspelt_field_is_an_error_that_suggests_the_right_one():
  config = config_lib.default_config()
  with pytest.raises(AttributeError, match='Did you mean "batch"'):
    config.train.bathc = 8


_SMALL = spec_lib.stylegan3_t(
  32, num_layers=8, channel_base=1024, channel_max=32
)


@pytest.mark.parametrize(
  ('name', 'arg', 'spec'),
  [
    ('stylegan3_t', ['64,batch=8'], spec_lib.stylegan3_t(64)),
    ('stylegan3_r', ['64'], spec_lib.stylegan3_r(64)),
    ('stylegan2', ['64'], stylegan2.StyleGAN2Spec(resolution=64)),
    ('quickstart', [], _SMALL),
    ('demo', [], _SMALL),
  ],
)
def test_configs_describe_their_designs(name, arg, spec):
  config = _get_config(name, *arg)
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = build.make_trainer(config)
  assert trainer.generator.spec == spec
  state = jax.eval_shape(trainer.init, jax.random.key(0))
  # The same arrays as the design has with all else at its default.
  plain = generator_lib.Generator(
    spec,
    z_dim=config.model.z_dim,
    w_dim=config.model.w_dim,
    mapping_layers=8 if name == 'stylegan2' else 2,
  )
  expected = jax.eval_shape(
    plain.lazy_init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, config.model.z_dim), jnp.float32),
  )
  assert jax.tree.map(
    lambda x: (x.shape, x.dtype), dict(state.generator)
  ) == jax.tree.map(lambda x: (x.shape, x.dtype), dict(expected))


def test_every_config_is_covered():
  names = {path.stem for path in CONFIGS.glob('*.py')}
  designs = {'quickstart', 'demo', 'stylegan2', 'stylegan3_t', 'stylegan3_r'}
  # Which have tests of their own.
  assert names == designs | {'published', 'finetune', 'ladder', 'few_images'}


def test_few_images_are_two_hundred_that_adapt_soon():
  config = _get_config('few_images')
  config_lib.resolve(config, img_channels=3, label_dim=0)
  recipe = build.make_trainer(config).recipe
  assert (config.data.max_images, recipe.augmentation.speed_kimg) == (200, 30)


def test_stylegan2_has_its_own_regularisation():
  config = _get_config('stylegan2', '256,batch=16')
  reasons = config_lib.resolve(config, img_channels=3, label_dim=0)
  recipe = build.make_trainer(config).recipe
  assert (recipe.style_mixing_prob, recipe.pl_weight) == (0.9, 2.0)
  assert (recipe.pl_interval, recipe.pl_batch_shrink) == (4, 2)
  assert recipe.pl_decay == 0.01
  assert (config.train.g_lr, config.train.d_lr) == (0.002, 0.002)
  # 0.0002 * 256^2 / 16.
  assert recipe.r1_gamma == pytest.approx(0.8192)
  assert any('published 0.0002 * 256^2 / 16' in reason for reason in reasons)


def test_stylegan3_has_neither_mixing_nor_path_lengths():
  for name in ('stylegan3_t', 'stylegan3_r', 'quickstart'):
    train = _get_config(name).train
    assert (train.style_mixing_prob, train.pl_weight) == (0, 0)


def test_an_unknown_generator_is_refused():
  config = tiny.tiny_config()
  config.model.generator = 'stylegan'
  config_lib.resolve(config, img_channels=3, label_dim=0)
  with pytest.raises(ValueError, match="stylegan3, stylegan2, got 'stylegan'"):
    build.make_trainer(config)


def test_r_blurs_and_t_does_not():
  t, r = _get_config('stylegan3_t'), _get_config('stylegan3_r')
  assert (t.train.blur_init_sigma, r.train.blur_init_sigma) == (0.0, 10.0)
  assert t.train.batch == r.train.batch == 32


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_precisions(precision):
  config = tiny.tiny_config()
  config.model.precision = precision
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = build.make_trainer(config)
  expected = factory.PRECISIONS[precision]
  assert trainer.generator.low_precision_dtype == expected
  assert trainer.discriminator.low_precision_dtype == expected


def test_an_unknown_precision_is_refused():
  config = tiny.tiny_config()
  config.model.precision = 'tf32'
  config_lib.resolve(config, img_channels=3, label_dim=0)
  with pytest.raises(ValueError, match=r"fp32, bf16, fp16, got 'tf32'"):
    build.make_trainer(config)
