"""A configuration file of a user's: the smallest run, in seconds."""

from sg3jax.train import config as config_lib


def get_config(precision: str = 'fp32'):
  config = config_lib.default_config()
  config.model.resolution = 16
  config.model.z_dim = config.model.w_dim = 8
  config.model.precision = precision
  config.model.synthesis.num_layers = 2
  config.model.synthesis.num_critical = 1
  config.model.synthesis.channel_base = 64
  config.model.synthesis.channel_max = 8
  config.model.discriminator.channel_base = 64
  config.model.discriminator.channel_max = 8
  config.train.batch = 8
  config.train.augment.mode = 'none'
  config.train.total_kimg = 0.016
  config.log.grid = (4, 2)
  config.log.kimg_per_tick = 0.016
  return config
