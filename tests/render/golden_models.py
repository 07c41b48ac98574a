"""The recorded official networks as models, converted once."""

import functools

from conftest import GOLDENS

from sg3jax import model as model_lib
from sg3jax.interop.official import convert, files

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
