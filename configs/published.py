"""The runs of the paper (Fig. 5, 15, 16) with all their options.

    sg3jax train --config=published:afhqv2,r --workdir=runs/afhqv2-r \
      --config.data.source=afhqv2-512x512.zip

The argument names the data and the model:

    ffhqu256                  FFHQ-U at 256 pixels, batch 64, as in the ablations
    ffhqu, ffhq               1024 pixels
    metfacesu, metfaces       1024 pixels, starting from an FFHQ run
    afhqv2, beaches           512 pixels

    t, r, stylegan2           stylegan2 has Fourier features: config B

The MetFaces runs start from `runs/ffhqu-t` and the like, unless `--init_from`
is given. The paper starts from the checkpoint with the lowest FID, which is not
measured here yet; a run starts from the newest or the given checkpoint.

Results as published for the PyTorch system, at the best snapshot of a run: FID,
EQ-T and EQ-R in dB, and days on 8 A100 without the time for metrics.

    data       stylegan2 (B)           T                       R
    ffhqu256   4.79 16.23 10.81   0.6  4.62 63.01 13.12   1.1  4.50 66.65 40.48   1.4
    ffhqu      3.79 15.89 10.79   4.2  3.67 61.69 13.95   5.8  3.66 64.78 47.64   6.8
    ffhq       2.70 13.58 10.22   4.2  2.79 61.21 13.82   5.8  3.07 64.76 46.62   6.8
    metfacesu 18.98 18.77 13.19   0.7 18.75 64.11 16.63   1.2 18.75 66.34 48.57   1.4
    metfaces  15.22 16.39 12.89   0.7 15.11 65.23 16.82   1.2 15.33 64.86 46.81   1.4
    afhqv2     4.62 13.83 11.50   1.9  4.04 60.15 13.51   3.6  4.40 64.89 40.34   4.1
    beaches    5.03 15.73 12.69   1.9  4.32 59.33 15.88   3.6  4.57 63.66 37.42   4.1

The days of `beaches` are those of `afhqv2`, which has the same resolution.
"""  # noqa: E501

from sg3jax.train import config as config_lib

# Differences from the defaults, which are T, 25 million images and adaptive
# augmentation.
_MODELS = {
  't': {},
  'r': {
    'model.synthesis.conv_kernel': 1,
    'model.synthesis.radial_filters': True,
    'model.synthesis.channel_base': 2 * 32768,
    'model.synthesis.channel_max': 2 * 512,
    'train.blur_init_sigma': 10.0,
  },
  'stylegan2': {
    'model.generator': 'stylegan2',
    'model.stylegan2.input': 'fourier',
    'model.mapping_layers': 8,
    'train.g_lr': 0.002,
    'train.style_mixing_prob': 0.9,
    'train.pl_weight': 2.0,
  },
}
_LARGE = {'model.resolution': 1024, 'train.augment.mode': 'none'}
_FEW = {'model.resolution': 1024, 'train.total_kimg': 5000.0}
_DATA = {
  'ffhqu256': {
    'train.batch': 64,
    'train.augment.mode': 'none',
    'train.g_lr': 0.0025,
    'train.d_lr': 0.0025,
    'model.discriminator.channel_base': 16384,
  },
  'ffhqu': _LARGE,
  'ffhq': _LARGE,
  'metfacesu': _FEW,
  'metfaces': _FEW,
  'afhqv2': {'model.resolution': 512},
  'beaches': {'model.resolution': 512},
}
# Only for these data: at 256 pixels the generators are half as wide, and
# StyleGAN2's discriminator compares more images.
_BOTH = {
  ('ffhqu256', 't'): {'model.synthesis.channel_base': 16384},
  ('ffhqu256', 'r'): {'model.synthesis.channel_base': 2 * 16384},
  ('ffhqu256', 'stylegan2'): {
    'model.stylegan2.channel_base': 16384,
    'model.discriminator.mbstd_group': 8,
  },
}
_STARTS = {'metfacesu': 'ffhqu', 'metfaces': 'ffhq'}
_GAMMAS = {
  'ffhqu256': {'stylegan2': 1.0, 't': 1.0, 'r': 1.0},
  'ffhqu': {'stylegan2': 10.0, 't': 32.8, 'r': 32.8},
  'ffhq': {'stylegan2': 10.0, 't': 32.8, 'r': 32.8},
  'metfacesu': {'stylegan2': 10.0, 't': 16.4, 'r': 6.6},
  'metfaces': {'stylegan2': 5.0, 't': 6.6, 'r': 3.3},
  'afhqv2': {'stylegan2': 5.0, 't': 8.2, 'r': 16.4},
  'beaches': {'stylegan2': 2.0, 't': 4.1, 'r': 12.3},
}


def get_config(arg: str = 'afhqv2,t'):
  """Returns the configuration; `arg` is `DATA,MODEL`."""
  data, _, model = arg.lower().partition(',')
  # The paper writes FFHQ-U; its files are named ffhqu.
  data = data.replace('-', '')
  if data not in _DATA or model not in _MODELS:
    raise ValueError(
      f'the published run {arg!r} is unknown: use DATA,MODEL with DATA among '
      f'{", ".join(_DATA)} and MODEL among {", ".join(_MODELS)}'
    )
  config = config_lib.default_config()
  config.data.mirror = True
  config.model.precision = 'bf16'
  config.train.r1_gamma = _GAMMAS[data][model]
  config.update_from_flattened_dict(
    _MODELS[model] | _DATA[data] | _BOTH.get((data, model), {})
  )
  if data in _STARTS:
    config.train.init_from = f'runs/{_STARTS[data]}-{model}'
  return config
