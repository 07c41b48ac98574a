"""The smallest models with random weights, for tests that need no training."""

import functools
import pathlib

import jax
import numpy as np
from conftest import run_file

from sg3jax import model as model_lib
from sg3jax import trees
from sg3jax.interop import model_files
from sg3jax.train import config as config_lib
from sg3jax.train.step import build

_TINY = run_file(pathlib.Path(__file__).parent / 'train' / 'tiny.py')


@functools.cache
def make_model(
  design: str = 't', label_dim: int = 0, seed: int = 0, channels: int = 3
):
  """Returns a 16-pixel model of a design: 't', 'r' or '2'."""
  config = _TINY.tiny_config(design)
  config_lib.resolve(config, img_channels=channels, label_dim=label_dim)
  shapes = jax.eval_shape(build.make_trainer(config).init, jax.random.key(0))
  rng = np.random.RandomState(seed)

  def fill(path, leaf):
    if path.endswith('magnitude'):
      return np.ones(leaf.shape, np.float32)
    scale = 1.0
    if '/mapping/' in path:  # These layers store a hundred times what they use.
      scale = 100.0
    elif path.endswith('noise_strength'):
      scale = 0.1
    elif path.endswith(('bias', 'w_avg')):
      scale = 0.0
    x = scale * rng.standard_normal(leaf.shape)
    if path.endswith('affine/bias'):
      x = x + (np.array([1, 0, 0, 0]) if '/input/' in path else 1)
    if path.endswith('input/affine/weight'):
      x = 0.1 * x  # Shifts of a few pixels.
    return np.asarray(x, np.float32)

  networks = {
    name: trees.unflatten(
      {
        path: fill(f'/{path}', leaf)
        for path, leaf in trees.flatten(getattr(shapes, name)).items()
      }
    )
    for name in ('generator_ema', 'discriminator')
  }
  return model_lib.Model(config.to_dict(), networks)


def save(folder, model):
  """Writes a model as `sg3jax import` does, and returns its folder."""
  networks = {'generator_ema': model.variables}
  model_files.save(folder, model.options['model'], networks, {})
  return folder


def images(model, seeds):
  """Returns the images of seeds."""
  z = model_lib.seed_latents(seeds, model.z_dim)
  return np.asarray(model(z))
