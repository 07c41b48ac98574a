"""Models for tests: the recorded official networks, and a tiny one."""

import functools
import sys

import jax
import numpy as np
from conftest import GOLDENS

from sg3jax import model as model_lib
from sg3jax.interop.official import convert, files
from sg3jax.nets import factory
from sg3jax.train import config as config_lib

sys.path.append(str(GOLDENS.parent / 'cli'))

import tiny_run

# The names under which commands find them in tests.
NAMES = {
  't': 'stylegan3_t32',
  'r': 'stylegan3_r32_cond',
  '2': 'stylegan2_32',
}


@functools.cache
def load(name: str, precision: str = 'fp32') -> model_lib.Model:
  """Returns a model: `t`, `r` (conditional) or `2` (StyleGAN2)."""
  read = files.read(GOLDENS / f'official_{NAMES[name]}.pkl')[0]
  converted = convert.convert(read)
  return model_lib.Model(
    {'model': converted.model}, converted.networks, 0, precision
  )


@functools.cache
def tiny(
  label_dim: int = 0, img_channels: int = 3, seed: int = 0
) -> model_lib.Model:
  """Returns a random model of 16 pixels that compiles in a second or two."""
  config = tiny_run.get_config()
  config_lib.resolve(config, img_channels=img_channels, label_dim=label_dim)
  generator = factory.make_generator(config.model.to_dict())
  z = np.zeros((1, generator.z_dim), np.float32)
  c = np.zeros((1, label_dim), np.float32) if label_dim else None
  shapes = jax.eval_shape(generator.init, jax.random.key(0), z, c)
  rng = np.random.RandomState(seed)
  variables = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes
  )
  # Layers of the mapping network hold a hundred times what they apply.
  params = variables['params']
  params['mapping'] = jax.tree.map(lambda x: 100 * x, params['mapping'])
  # Means of squares are positive.
  averages = variables['moving_averages']
  variables['moving_averages'] = jax.tree.map(
    lambda x: np.abs(x) + 1 if x.ndim == 0 else x, averages
  )
  options = config.to_dict()
  if label_dim:
    options['class_names'] = ['cat', 'dog', 'two, words'][:label_dim]
  return model_lib.Model(
    options, {'generator_ema': variables, 'discriminator': {}}
  )
