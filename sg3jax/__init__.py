"""StyleGAN3, the alias-free GAN, for JAX.

`load_model(path)` opens a trained model; the operators are in `sg3jax.ops`,
the networks in `sg3jax.nets`.
"""

from typing import TYPE_CHECKING

from sg3jax.version import __version__ as __version__

if TYPE_CHECKING:
  from sg3jax.model import Model as Model
  from sg3jax.model import load_model as load_model

__all__ = ['Model', '__version__', 'load_model']


def __getattr__(name: str):
  # Networks and checkpoints take seconds to import, so not before their use.
  if name in ('Model', 'load_model'):
    from sg3jax import model

    return getattr(model, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
