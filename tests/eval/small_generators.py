"""Generators with random weights, small enough for tests."""

import jax
import numpy as np

from sg3jax.nets import factory
from sg3jax.train import config as config_lib


def make_stylegan2():
  """Returns a StyleGAN2 generator of 16 pixels, and its variables."""
  config = config_lib.default_config()
  config.model.generator = 'stylegan2'
  config.model.resolution = 16
  config.model.z_dim = config.model.w_dim = 8
  config.model.stylegan2.channel_base = 64
  config.model.stylegan2.channel_max = 8
  config_lib.resolve(config, img_channels=3, label_dim=0)
  generator = factory.make_generator(config.model.to_dict())
  z = np.zeros((1, 8), np.float32)
  return generator, jax.jit(generator.init)(jax.random.key(0), z)
