"""The smallest configurations that still are StyleGAN3-T and -R, or 2."""

from sg3jax.train import config as config_lib


def tiny_config(design: str = 't', **train):
  """Returns a 16-pixel configuration; `train` overrides its `train` fields."""
  config = config_lib.default_config()
  config.model.resolution = 16
  config.model.z_dim = config.model.w_dim = 8
  synthesis = config.model.synthesis
  synthesis.num_layers, synthesis.num_critical = 2, 1
  synthesis.channel_base, synthesis.channel_max = 64, 8
  if design == 'r':
    synthesis.conv_kernel, synthesis.radial_filters = 1, True
    config.train.blur_init_sigma = 2.0
  if design == '2':
    config.model.generator = 'stylegan2'
    config.model.stylegan2.channel_base = 64
    config.model.stylegan2.channel_max = 8
    config.train.style_mixing_prob = 0.9
    config.train.pl_weight, config.train.pl_interval = 2.0, 2
  config.model.discriminator.channel_base = 64
  config.model.discriminator.channel_max = 8
  config.train.batch = 8
  config.train.augment.mode = 'none'
  config.train.r1_gamma = 1.0
  config.train.r1_interval = 2
  config.log.grid = (4, 2)
  config.log.transfer_guard = True
  config.log.kimg_per_tick = 0.016
  config.log.ticks_per_snapshot = 2
  config.train.update(train)
  return config
