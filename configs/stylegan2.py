"""StyleGAN2, the baseline of the paper's ladder (paper Fig. 16).

    sg3jax train --config=stylegan2:512,batch=32 --workdir=runs/s512 \
      --config.data.source=images.zip

The argument sets `resolution`, `batch` and `gamma`. Without `gamma` the R1
weight follows the published rule and is printed with its reason. For fixed
Fourier features (config B) pass `--config.model.stylegan2.input=fourier`; to
also remove the noise (config C), `--config.model.stylegan2.noise=0`.

Cost, as published for the PyTorch system: 25 million images at 512 pixels take
1.9 days on 8 A100. Result of config B: FID 4.62 on AFHQv2 (512 pixels, with
adaptive augmentation).
"""

from sg3jax.train import config as config_lib


def get_config(arg: str = '256'):
  """Returns the configuration; `arg` is `RESOLUTION[,batch=B][,gamma=G]`."""
  options = config_lib.parse_arg(arg, resolution=256, batch=32, gamma=None)
  config = config_lib.default_config()
  config.model.generator = 'stylegan2'
  config.model.resolution = options['resolution']
  config.model.precision = 'bf16'
  config.model.mapping_layers = 8
  config.train.batch = options['batch']
  config.train.g_lr = 0.002
  config.train.r1_gamma = options['gamma']
  config.train.style_mixing_prob = 0.9
  config.train.pl_weight = 2.0
  return config
