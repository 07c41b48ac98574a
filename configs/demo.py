"""The demo model: a small StyleGAN3-T on emoji, for two CPU cores.

sg3jax train --config=demo --workdir=runs/demo
"""

from sg3jax.train import config as config_lib


def get_config():
  """Returns the configuration."""
  config = config_lib.default_config()
  config.data.source = 'emoji:20000'
  config.data.mirror = True
  model = config.model
  model.resolution = 32
  model.z_dim = model.w_dim = 64
  model.synthesis.num_layers = 8
  model.synthesis.channel_base = 1024
  model.synthesis.channel_max = 32
  model.discriminator.channel_base = 1024
  model.discriminator.channel_max = 64
  config.train.batch = 8
  config.train.total_kimg = 100.0
  config.train.r1_gamma = 0.1
  config.train.ema_kimg = 1.0
  config.train.augment.mode = 'none'
  config.log.kimg_per_tick = 0.5
  config.log.ticks_per_snapshot = 6
  config.log.keep_checkpoints = 2
  config.log.grid = (12, 8)
  return config
