"""StyleGAN3, the alias-free GAN, for JAX.

`load_model(path)` opens a trained model, and `launch.run(config, workdir)`
trains one. The operators are in `sg3jax.ops`, the networks in `sg3jax.nets`.
"""

import importlib
from typing import TYPE_CHECKING

from sg3jax.version import __version__ as __version__

if TYPE_CHECKING:
  from sg3jax import launch as launch
  from sg3jax import model as model
  from sg3jax import nets as nets
  from sg3jax import ops as ops
  from sg3jax.model import Model as Model
  from sg3jax.model import load_model as load_model

_MODULES = ('launch', 'model', 'nets', 'ops')

__all__ = [
  'Model', '__version__', 'launch', 'load_model', 'model', 'nets', 'ops',
]  # fmt: skip


def __getattr__(name: str):
  # Networks and checkpoints take seconds to import, so not before their use.
  if name in _MODULES:
    return importlib.import_module(f'sg3jax.{name}')
  if name in ('Model', 'load_model'):
    return getattr(importlib.import_module('sg3jax.model'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
