"""Describes feature networks, and keeps a registry of all of them.

A feature network maps images to vectors in which distances are meaningful. Its
weights are an argument, because published weights do not come with the package:
`interop.feature_weights` finds and reads them. Modules in this folder are
imported when the registry is first read.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping

from sg3jax.types import AnyArray, Array, Variables


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
  """A network that maps images to vectors.

  Attributes:
    name: Name of the network and of its weights, such as 'inception'.
    title: Its name in texts.
    dims: Length of each output by name. The first output is the one that
      distributions are compared in.
    apply: Maps variables and images, uint8 [n, h, w, c] with 1, 3 or 4
      channels, to the outputs [n, dim] by name. It may be traced. It resizes
      and normalises the images as the network's protocol demands.
    protocol: How `apply` prepares images, in words, for result files.
    init: Returns random variables for a key; None if the weights must be
      imported. Networks with random weights are useful in their own right.
    shapes: Returns the shape of each variable by path (`params/fc/weight`),
      which imported weights are checked against; None if it has `init`.
    remedy: What to get and where to put it if the weights are missing.
  """

  name: str
  title: str
  dims: Mapping[str, int]
  apply: Callable[[Variables, AnyArray], Mapping[str, Array]]
  protocol: str
  init: Callable[[Array], Variables] | None = None
  shapes: Callable[[], Mapping[str, tuple[int, ...]]] | None = None
  remedy: str = ''


_NETWORKS: dict[str, FeatureNetwork] = {}


def register(network: FeatureNetwork) -> FeatureNetwork:
  """Registers a network under its name, and returns it.

  Raises:
    ValueError: If the name is taken.
  """
  if network.name in _NETWORKS:
    raise ValueError(
      f'the name of a feature network must be new, got {network.name}'
    )
  _NETWORKS[network.name] = network
  return network


def find(name: str) -> FeatureNetwork:
  """Returns the network with a name.

  Raises:
    ValueError: If there is none.
  """
  if name not in names():
    raise ValueError(
      f'the feature network must be one of {", ".join(names())}, got {name}'
    )
  return _NETWORKS[name]


def names() -> list[str]:
  """Returns the names of all networks, in alphabetical order."""
  package = importlib.import_module(__package__ or 'sg3jax.nets.features')
  for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f'{package.__name__}.{module.name}')
  return sorted(_NETWORKS)
