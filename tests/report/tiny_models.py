"""Small random models, as `sg3jax import` writes them, and real images."""

import json

import jax
import numpy as np
from PIL import Image

from sg3jax.interop import model_files
from sg3jax.nets import abstract, factory
from sg3jax.train import config as config_lib


def save(folder, design='t', *, channels=3, label_dim=0, resolution=16):
  """Writes a model and returns its folder.

  Args:
    folder: The folder.
    design: 't' or '2', for StyleGAN3-T or StyleGAN2.
    channels: Channels of its images.
    label_dim: Features of its labels.
    resolution: Pixels per side of its images.
  """
  config = config_lib.default_config()
  config.model.resolution = resolution
  config.model.z_dim = config.model.w_dim = 8
  config.model.synthesis.num_layers = 2
  config.model.synthesis.num_critical = 1
  config.model.synthesis.channel_base = 64
  config.model.synthesis.channel_max = 8
  if design == '2':
    config.model.generator = 'stylegan2'
    config.model.stylegan2.channel_base = 64
    config.model.stylegan2.channel_max = 8
  config_lib.resolve(config, img_channels=channels, label_dim=label_dim)
  model = config.model.to_dict()
  generator = factory.make_generator(model | {'precision': 'fp32'})
  rng = np.random.RandomState(0)
  variables = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype),
    abstract.shapes(generator),
  )
  variables['moving_averages'] = jax.tree.map(
    np.ones_like, variables['moving_averages']
  )
  model_files.save(folder, model, {'generator_ema': variables}, {})
  return folder


def write_images(folder):
  """Writes forty RGB images of 16 pixels, half of each of two classes."""
  rng = np.random.RandomState(0)
  for i in range(40):
    image = rng.randint(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(image).save(folder / f'{i:02d}.png')
  labels = [[f'{i:02d}.png', i % 2] for i in range(40)]
  (folder / 'dataset.json').write_text(json.dumps({'labels': labels}))
  return folder
