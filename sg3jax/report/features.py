"""The features in which a report compares images."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float

from sg3jax import launch
from sg3jax.eval.analysis import neighbours
from sg3jax.nets.features import base
from sg3jax.types import ImagesU8, Variables

# Networks in order of preference.
_PREFERRED = ('vgg16', 'inception', 'random')


@dataclasses.dataclass(frozen=True)
class Features:
  """Maps images to vectors in which distances are meaningful.

  Attributes:
    title: Its name in the report.
    apply: Maps images, uint8 [n, h, w, c], to features [n, d].
  """

  title: str
  apply: Callable[[ImagesU8], Float[np.ndarray, 'n d']]


LOW_PASS = Features(
  f'low-pass pixels ({neighbours.LOW_PASS}x{neighbours.LOW_PASS})',
  neighbours.low_pass_pixels,
)


def choose(
  folder: str | pathlib.Path | None = None, names: Sequence[str] = _PREFERRED
) -> Features:
  """Returns the features of the first network whose weights are there.

  Args:
    folder: The folder of weights; see `launch.feature_weights`.
    names: Names of networks in order of preference.

  Returns:
    The features of the first network that has weights; low-pass pixels if none
    has.

  Raises:
    ValueError: If there is no such network, or weights are damaged.
  """
  for name in names:
    try:
      weights = launch.feature_weights([name], folder)
    except FileNotFoundError:
      continue
    return of_network(base.find(name), weights[name])
  return LOW_PASS


def of_network(network: base.FeatureNetwork, variables: Variables) -> Features:
  """Returns the first output of a network as features."""
  output = next(iter(network.dims))
  program = jax.jit(network.apply)

  def apply(variables: Variables, images: ImagesU8) -> Float[np.ndarray, 'n d']:
    return np.asarray(program(variables, images)[output], np.float32)

  return Features(
    f'{network.title} ({output}; {network.protocol})',
    functools.partial(apply, variables),
  )
