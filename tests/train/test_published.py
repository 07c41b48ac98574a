"""The paper's runs: `configs/published.py` against the tables of the paper."""

import pytest
from conftest import CONFIGS, run_file

from sg3jax.train import config as config_lib
from sg3jax.train.step import build

_MODELS = ('stylegan2', 't', 'r')

# Fig. 16 and appendix B (math.md 1.1, 2.1). Resolution, thousands of images,
# adaptive augmentation, origin; then R1's gamma of B, T and R.
_RUNS = {
  'ffhqu256': (256, 25_000, False, None, (1, 1, 1)),
  'ffhqu': (1024, 25_000, False, None, (10, 32.8, 32.8)),
  'ffhq': (1024, 25_000, False, None, (10, 32.8, 32.8)),
  'metfacesu': (1024, 5_000, True, 'ffhqu', (10, 16.4, 6.6)),
  'metfaces': (1024, 5_000, True, 'ffhq', (5, 6.6, 3.3)),
  'afhqv2': (512, 25_000, True, None, (5, 8.2, 16.4)),
  'beaches': (512, 25_000, True, None, (2, 4.1, 12.3)),
}
# Columns of Fig. 16: batch, EMA half-life in images, mapping depth, group of
# the minibatch standard deviation, C_base, C_max, rate of G, rate of D.
_COLUMNS = {
  'stylegan2': (32, 10e3, 8, 4, 2**15, 512, 0.0020, 0.0020),
  't': (32, 10e3, 2, 4, 2**15, 512, 0.0025, 0.0020),
  'r': (32, 10e3, 2, 4, 2**16, 1024, 0.0025, 0.0020),
}
_COLUMNS_256 = {
  'stylegan2': (64, 20e3, 8, 8, 2**14, 512, 0.0025, 0.0025),
  't': (64, 20e3, 2, 4, 2**14, 512, 0.0025, 0.0025),
  'r': (64, 20e3, 2, 4, 2**15, 1024, 0.0025, 0.0025),
}
# Layers of StyleGAN2 without ToRGBs; 14 of the others.
_STYLEGAN2_LAYERS = {256: 13, 512: 15, 1024: 17}


def _get_config(arg):
  return run_file(CONFIGS / 'published.py').get_config(arg)


@pytest.mark.parametrize('model', _MODELS)
@pytest.mark.parametrize('data', _RUNS)
def test_runs_are_those_of_the_paper(data, model):
  config = _get_config(f'{data},{model}')
  origin = config.train.init_from
  reasons = config_lib.resolve(config, img_channels=3, label_dim=0)
  resolution, kimg, adapts, start, gammas = _RUNS[data]
  columns = _COLUMNS_256 if data == 'ffhqu256' else _COLUMNS
  batch, half_life, depth, group, base, most, g_lr, d_lr = columns[model]

  train = config.train
  assert (train.batch, train.total_kimg) == (batch, kimg)
  assert train.r1_gamma == gammas[_MODELS.index(model)]
  assert not any('gamma' in reason for reason in reasons)
  assert (train.g_lr, train.d_lr) == (g_lr, d_lr)
  assert train.ema_kimg * 1000 == half_life
  assert train.r1_interval == 16
  assert config.data.mirror
  assert train.augment.mode == ('ada' if adapts else 'none')
  assert (train.augment.pipeline, train.augment.target) == ('bgc', 0.6)
  assert origin == (start and f'runs/{start}-{model}')
  # 0.05 and 500 for new networks; neither ramp nor blur for trained ones.
  assert train.ema_rampup == (0 if start else 0.05)
  assert train.augment.speed_kimg == (100 if start else 500)
  if model == 'r':
    assert train.blur_init_sigma == 10
    assert train.blur_fade_kimg == (0 if start else batch * 200 / 32)
  else:
    assert train.blur_init_sigma == 0
  is_stylegan2 = model == 'stylegan2'
  assert train.style_mixing_prob == (0.9 if is_stylegan2 else 0)
  assert train.pl_weight == (2 if is_stylegan2 else 0)

  trainer = build.make_trainer(config)
  generator, discriminator = trainer.generator, trainer.discriminator
  spec = generator.spec
  assert (spec.resolution, discriminator.resolution) == (resolution,) * 2
  assert (spec.channel_base, spec.channel_max) == (base, most)
  assert spec.num_layers == (
    _STYLEGAN2_LAYERS[resolution] if is_stylegan2 else 14
  )
  assert (generator.mapping_layers, generator.z_dim) == (depth, 512)
  assert generator.w_dim == 512
  if is_stylegan2:  # Config B: Fourier features, and still noise.
    assert (spec.input, spec.noise) == ('fourier', True)
  else:
    assert spec.conv_kernel == (1 if model == 'r' else 3)
    assert spec.radial_filters == (model == 'r')
  # D's capacity is that of the configuration, and never doubled.
  assert discriminator.channel_base == (2**14 if resolution == 256 else 2**15)
  assert discriminator.channel_max == 512
  assert discriminator.mbstd_group == group


def test_names_are_taken_as_the_paper_writes_them():
  assert _get_config('FFHQ-U,R') == _get_config('ffhqu,r')


@pytest.mark.parametrize('arg', ['ffhq', 'cats,t', 'ffhq,g', ''])
def test_unknown_runs_are_named(arg):
  with pytest.raises(ValueError, match=r'use DATA,MODEL .*ffhqu, .*stylegan2'):
    _get_config(arg)


def test_the_table_in_the_docstring_is_that_of_the_paper():
  """FID, EQ-T and EQ-R of B, T and R (Fig. 5 left; Fig. 15 at 256)."""
  lines = {
    line.split()[0]: [float(x) for x in line.split()[1:]]
    for line in (CONFIGS / 'published.py').read_text().splitlines()
    if line.startswith('    ') and len(line.split()) == 13
  }
  published = {
    'ffhqu256': [4.79, 16.23, 10.81, 4.62, 63.01, 13.12, 4.50, 66.65, 40.48],
    'ffhqu': [3.79, 15.89, 10.79, 3.67, 61.69, 13.95, 3.66, 64.78, 47.64],
    'ffhq': [2.70, 13.58, 10.22, 2.79, 61.21, 13.82, 3.07, 64.76, 46.62],
    'metfacesu': [
      18.98,
      18.77,
      13.19,
      18.75,
      64.11,
      16.63,
      18.75,
      66.34,
      48.57,
    ],
    'metfaces': [15.22, 16.39, 12.89, 15.11, 65.23, 16.82, 15.33, 64.86, 46.81],
    'afhqv2': [4.62, 13.83, 11.50, 4.04, 60.15, 13.51, 4.40, 64.89, 40.34],
    'beaches': [5.03, 15.73, 12.69, 4.32, 59.33, 15.88, 4.57, 63.66, 37.42],
  }
  # Seconds a thousand images on 8 A100 (math.md 6).
  seconds = {
    'ffhqu256': (2.19, 3.74, 4.81),
    'ffhqu': (14.57, 20.01, 23.42),
    'metfacesu': (11.80, 21.06, 24.32),
    'afhqv2': (6.60, 12.29, 14.04),
  }
  same = {'ffhq': 'ffhqu', 'metfaces': 'metfacesu', 'beaches': 'afhqv2'}
  assert set(lines) == set(published)
  for data, row in lines.items():
    assert [x for i, x in enumerate(row) if i % 4 != 3] == published[data]
    days = [s * _RUNS[data][1] / 86_400 for s in seconds[same.get(data, data)]]
    assert row[3::4] == pytest.approx(days, abs=0.05)
