"""Trains on two hundred embedded photographs, to study augmentation.

    sg3jax train --config=few_images --workdir=runs/few_images

It suits two CPU cores. `scripts/study_augmentation.py` runs it with and without
adaptive augmentation, and compares how much the discriminators memorize; see
docs/augmentation.md.
"""

from sg3jax.train import config as config_lib


def get_config():
  """Returns the configuration."""
  config = config_lib.default_config()
  config.data.source = 'embedded:4000'
  config.data.max_images = 200
  model = config.model
  # The fastest generator, because augmentation concerns the discriminator.
  model.generator = 'stylegan2'
  model.resolution = 32
  model.z_dim = model.w_dim = 64
  model.stylegan2.channel_base = 1024
  model.stylegan2.channel_max = 32
  model.discriminator.channel_base = 1024
  model.discriminator.channel_max = 64
  config.train.batch = 8
  config.train.total_kimg = 50.0
  config.train.r1_gamma = 0.02
  config.train.ema_kimg = 1.0
  # The published value of 500 is for runs of 25,000 kimg.
  config.train.augment.speed_kimg = 30.0
  config.log.kimg_per_tick = 1.0
  config.log.ticks_per_snapshot = 5
  config.log.keep_checkpoints = 100
  config.log.grid = (12, 8)
  return config
