"""Shapes and parameter counts of networks, without computing arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.types import Tree, Variables

Network = generator_lib.Generator | discriminator_lib.Discriminator


def shapes(network: Network, batch: int = 1) -> Variables:
  """Returns the shapes and dtypes of a network's variables, by collection.

  Args:
    network: A generator or a discriminator.
    batch: Number of images, which the minibatch statistics of a discriminator
      must be able to group.

  Raises:
    ValueError: If the design of the network is impossible.
  """
  if isinstance(network, generator_lib.Generator):
    inputs: list[Any] = [_floats(batch, network.z_dim)]
  else:
    side = network.resolution
    inputs = [_floats(batch, side, side, network.img_channels)]
  if network.label_dim:
    inputs.append(_floats(batch, network.label_dim))
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(network.init, key, *inputs)


def count(tree: Tree) -> int:
  """Returns the number of elements in a tree of arrays or their shapes."""
  return sum(x.size for x in jax.tree.leaves(tree))


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)
