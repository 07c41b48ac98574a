"""Which arrays, of which shapes, the networks of a configuration have."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sg3jax.interop.records import CheckpointError
from sg3jax.nets import factory
from sg3jax.types import Tree, flatten

GENERATORS = ('generator_ema', 'generator')
NETWORKS = (*GENERATORS, 'discriminator')

_SHOWN = 3


def expected_shapes(
  network: str, model: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every array of a network, by path.

  Args:
    network: One of `NETWORKS`.
    model: The `model` part of a configuration.
  """
  # The form of the nonlinearity that is traced fastest; it has no arrays.
  model = {**model, 'filtered_lrelu_implementation': 'reference'}
  labels = (1, model['label_dim'])
  if network == 'discriminator':
    module = factory.make_discriminator(model)
    side = model['resolution']
    images = (1, side, side, model['img_channels'])
    inputs = [jax.ShapeDtypeStruct(shape, 'float32') for shape in (images,)]
  else:
    module = factory.make_generator(model)
    inputs = [jax.ShapeDtypeStruct((1, model['z_dim']), 'float32')]
  if model['label_dim']:
    inputs.append(jax.ShapeDtypeStruct(labels, 'float32'))
  tree = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return {path: leaf.shape for path, leaf in flatten(tree).items()}


def check_shapes(
  network: str, model: Mapping[str, Any], variables: Tree
) -> None:
  """Checks that a tree has exactly the arrays that its network needs.

  Args:
    network: One of `NETWORKS`.
    model: The `model` part of a configuration.
    variables: Our variables, collection first.

  Raises:
    CheckpointError: If an array is missing, left over or of another shape (the
      message names the first three), or if the design is impossible.
  """
  try:
    wanted = expected_shapes(network, model)
  except (ValueError, TypeError, ArithmeticError) as error:
    reason = str(error).partition('\n')[0]
    raise CheckpointError(
      f'the {network} has an impossible design: {reason[:200]}'
    ) from error
  found = {path: np.shape(array) for path, array in flatten(variables).items()}
  differences = [
    f'{path} is {found.get(path, "absent")}, not {wanted.get(path, "there")}'
    for path in dict.fromkeys((*wanted, *found))
    if found.get(path) != wanted.get(path)
  ]
  if differences:
    more = len(differences) - _SHOWN
    raise CheckpointError(
      f"the arrays of the {network} are not those of its design's: "
      + '; '.join(differences[:_SHOWN])
      + (f' and {more} more' if more > 0 else '')
    )
