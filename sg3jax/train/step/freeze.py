"""Freezes parameters during training: parts of G, the first layers of D.

Frozen parameters have zero gradients. Adam's state starts at zero and stays
there, so its updates are exactly zero: 0 / (sqrt(0) + epsilon).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.types import Tree

GENERATOR_PARTS = ('mapping', 'synthesis', 'embedding')

# Prefixes of paths in a tree of parameters, such as ('mapping', 'fc0').
Paths = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Frozen:
  """Parameters that are not updated.

  Attributes:
    generator: Parameters of G. The moving averages of a frozen part stay
      constant too. G_ema continues to average, and so approaches the frozen
      values.
    discriminator: Parameters of D.
  """

  generator: Paths = ()
  discriminator: Paths = ()

  def __str__(self) -> str:
    return ', '.join(
      f'{network} {"/".join(path)}'
      for network, paths in (('G', self.generator), ('D', self.discriminator))
      for path in paths
    )


NOTHING = Frozen()


def make_frozen(
  generator: generator_lib.Generator,
  discriminator: discriminator_lib.Discriminator,
  *,
  generator_parts: Sequence[str] = (),
  discriminator_layers: int = 0,
) -> Frozen:
  """Returns the parameters that `freeze_g` and `freeze_d` name.

  Args:
    generator: G.
    discriminator: D.
    generator_parts: Names from `GENERATOR_PARTS`. `mapping` is the whole
      mapping network except the embedding of labels.
    discriminator_layers: Number of convolutions, from the image side:
      `fromrgb`, `conv0`, `conv1` and `skip` of the first block, the last three
      of the other blocks, and that of the last resolution. The paper's 10 and
      13 are thus three and four whole blocks (math.md 5.3).

  Raises:
    ValueError: If the networks lack such a part, or have fewer layers.
  """
  unknown = sorted(set(generator_parts) - set(GENERATOR_PARTS))
  if unknown:
    raise ValueError(
      f'train.freeze_g has the part {unknown[0]!r}: use '
      + ', '.join(GENERATOR_PARTS)
    )
  if 'embedding' in generator_parts and not generator.label_dim:
    raise ValueError(
      'train.freeze_g has the part embedding, but the networks take no '
      'labels: leave it out'
    )
  paths: dict[str, Paths] = {
    'mapping': tuple(
      ('mapping', f'fc{i}') for i in range(generator.mapping_layers)
    ),
    'synthesis': (('synthesis',),),
    'embedding': (('mapping', 'embed'),),
  }
  layers = _convolutions(discriminator)
  if not 0 <= discriminator_layers <= len(layers):
    raise ValueError(
      f'train.freeze_d must be between 0 and {len(layers)}, the '
      f'convolutions of D, got {discriminator_layers}'
    )
  return Frozen(
    generator=sum(
      (paths[part] for part in GENERATOR_PARTS if part in generator_parts), ()
    ),
    discriminator=layers[:discriminator_layers],
  )


def _convolutions(discriminator: discriminator_lib.Discriminator) -> Paths:
  """Returns the paths of D's convolutions, from the image side."""
  first, *blocks, last = discriminator_lib.block_resolutions(
    discriminator.resolution
  )
  return (
    (f'b{first}', 'fromrgb'),
    *(
      (f'b{resolution}', name)
      for resolution in (first, *blocks)
      for name in ('conv0', 'conv1', 'skip')
    ),
    (f'b{last}', 'conv'),
  )


def zero_gradients(grads: Tree, frozen: Paths) -> Tree:
  """Returns the gradients with zeros for frozen parameters."""
  return jax.tree.map_with_path(
    lambda path, grad: (
      jnp.zeros_like(grad) if _is_under(path, frozen) else grad
    ),
    grads,
  )


def hold_averages(old: Tree, new: Tree, frozen: Paths) -> Tree:
  """Returns new moving averages, with the old ones for frozen parts.

  A frozen synthesis network must generate the same images from the same styles,
  which also depends on its input magnitudes.
  """
  return jax.tree.map_with_path(
    lambda path, before, after: before if _is_under(path, frozen) else after,
    old,
    new,
  )


def _is_under(path: tuple[Any, ...], beginnings: Paths) -> bool:
  names = tuple(key.key for key in path)
  return any(names[: len(start)] == start for start in beginnings)
