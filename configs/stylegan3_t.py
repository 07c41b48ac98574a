"""StyleGAN3-T, translation equivariant, as published (paper Fig. 16).

    sg3jax train --config=stylegan3_t:512,batch=32 --workdir=runs/t512 \
      --config.data.source=images.zip

The argument sets `resolution`, `batch` and `gamma`. Without `gamma` the R1
weight follows the published table and is printed with its reason.
Augmentation is adaptive. To disable it for 70,000 images and more, as
published, pass --config.train.augment.mode=none.

Cost, as published for the PyTorch system: 25 million images at 512 pixels take
3.6 days on 8 A100. Result: FID 4.04 and EQ-T 60.2 dB on AFHQv2 (512 pixels,
with adaptive augmentation).
"""

from sg3jax.train import config as config_lib


def get_config(arg: str = '256'):
  """Returns the configuration; `arg` is `RESOLUTION[,batch=B][,gamma=G]`."""
  options = config_lib.parse_arg(arg, resolution=256, batch=32, gamma=None)
  config = config_lib.default_config()
  config.model.resolution = options['resolution']
  config.model.precision = 'bf16'
  config.train.batch = options['batch']
  config.train.r1_gamma = options['gamma']
  return config
