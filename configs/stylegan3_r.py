"""StyleGAN3-R, translation and rotation equivariant (paper Fig. 16).

    sg3jax train --config=stylegan3_r:512,batch=32 --workdir=runs/r512 \
      --config.data.source=images.zip

The argument sets `resolution`, `batch` and `gamma`. Without `gamma` the R1
weight follows the published table and is printed with its reason.
Augmentation is adaptive. To disable it for 70,000 images and more, as
published, pass --config.train.augment.mode=none.

Cost, as published for the PyTorch system: 25 million images at 512 pixels take
4.1 days on 8 A100. Result: FID 4.40 and EQ-R 40.3 dB on AFHQv2 (512 pixels,
with adaptive augmentation).
"""

from sg3jax.train import config as config_lib


def get_config(arg: str = '256'):
  """Returns the configuration; `arg` is `RESOLUTION[,batch=B][,gamma=G]`."""
  options = config_lib.parse_arg(arg, resolution=256, batch=32, gamma=None)
  config = config_lib.default_config()
  config.model.resolution = options['resolution']
  config.model.precision = 'bf16'
  # Rotations also rotate the kernels, and only 1x1 kernels stay the same. Twice
  # the channels compensate for the lost capacity.
  config.model.synthesis.conv_kernel = 1
  config.model.synthesis.radial_filters = True
  config.model.synthesis.channel_base = 2 * 32768
  config.model.synthesis.channel_max = 2 * 512
  config.train.batch = options['batch']
  config.train.r1_gamma = options['gamma']
  config.train.blur_init_sigma = 10.0
  return config
