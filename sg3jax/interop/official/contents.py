"""Finds the networks in a file.

The official pickle is a dictionary of modules `G`, `D` and `G_ema`. Other files
contain a single module, a single state dictionary or several by name. Wrappers
of a module add their names to those of its arrays.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  NumpyArray,
  Tensor,
  quoted,
)

# A state dictionary: arrays by official name.
Arrays = Mapping[str, Tensor | NumpyArray]

# Names of networks in files, in lower case, and our names.
_NAMES = {
  'g_ema': 'generator_ema',
  'generator_ema': 'generator_ema',
  'ema': 'generator_ema',
  'g': 'generator',
  'generator': 'generator',
  'd': 'discriminator',
  'discriminator': 'discriminator',
}

# Names for the only state dictionary of a file.
_CONTAINERS = ('state_dict', 'model_state_dict', 'model')

# Names that wrappers for several devices and for compilation add to arrays.
_WRAPPERS = frozenset(['module', '_orig_mod'])


def find_networks(
  checkpoint: Any,
) -> tuple[dict[str, Module | Arrays], list[str]]:
  """Returns the networks of a checkpoint.

  Args:
    checkpoint: The value that `files.read` returned.

  Returns:
    Modules or state dictionaries by our name, including `generator_ema`; and
    the quoted names of the other parts of the file.

  Raises:
    CheckpointError: If there is no G_ema.
  """
  if isinstance(checkpoint, Module):
    return {_only_network(checkpoint.part('_modules')): checkpoint}, []
  if not isinstance(checkpoint, dict):
    raise CheckpointError(
      'the checkpoint must be a network or a dictionary with the networks G, D '
      'and G_ema'
    )
  found = {
    network: value
    for key, value in checkpoint.items()
    if (network := _network_of(key)) and _is_network(value)
  }
  if not found:
    arrays = _lone_arrays(checkpoint)
    if arrays is not None:
      return _split(arrays), []
  if 'generator_ema' not in found:
    keys = ', '.join(quoted(key) for key in list(checkpoint)[:8])
    raise CheckpointError(f'the checkpoint has no network G_ema, but {keys}')
  ignored = [
    quoted(key)
    for key, value in checkpoint.items()
    if not any(value is network for network in found.values())
  ]
  return {
    network: value if isinstance(value, Module) else _unwrapped(value)
    for network, value in found.items()
  }, ignored


def _network_of(key: Any) -> str | None:
  """Returns our name for the network that a key names, or None."""
  if not isinstance(key, str):
    return None
  return _NAMES.get(key[:40].lower().removesuffix('_state_dict'))


def _is_network(value: Any) -> bool:
  return isinstance(value, Module) or _is_arrays(value)


def _is_arrays(value: Any) -> bool:
  """Returns whether a value is a state dictionary, possibly a damaged one."""
  return isinstance(value, dict) and any(
    isinstance(item, Tensor | NumpyArray) for item in value.values()
  )


def _lone_arrays(checkpoint: dict) -> dict | None:
  """Returns the only state dictionary of a file, or None."""
  if _is_arrays(checkpoint):
    return checkpoint
  for name in _CONTAINERS:
    if _is_arrays(checkpoint.get(name)):
      return checkpoint[name]
  return None


def _split(arrays: dict) -> dict[str, Module | Arrays]:
  """Returns the networks of a state dictionary of one or of several."""
  unwrapped = _unwrapped(arrays)
  networks: dict[str, dict[str, Tensor | NumpyArray]] = {}
  for name, array in unwrapped.items():
    first, _, rest = name.partition('.')
    network = _network_of(first)
    if network is None or not rest:
      return {_only_network(unwrapped): unwrapped}
    networks.setdefault(network, {})[rest] = array
  if 'generator_ema' not in networks:
    raise CheckpointError(
      f'the checkpoint has arrays of {", ".join(networks)}, but none of G_ema'
    )
  return {**networks}


def _unwrapped(arrays: dict) -> Arrays:
  """Returns a state dictionary without the names that wrappers add."""
  result = {}
  for key, array in arrays.items():
    if not isinstance(key, str) or not isinstance(array, Tensor | NumpyArray):
      raise CheckpointError(f'{quoted(key)} of the checkpoint must be a tensor')
    name = '.'.join(p for p in key.split('.') if p not in _WRAPPERS)
    if name in result:
      raise CheckpointError(
        f'the checkpoint has two arrays named {quoted(name)}'
      )
    result[name] = array
  return result


def _only_network(names: Iterable[str]) -> str:
  """Returns our name for the only network of a file.

  Args:
    names: Names of its parts or arrays.
  """
  firsts = {name.partition('.')[0] for name in names}
  if 'synthesis' not in firsts and any(
    re.fullmatch('b[0-9]+', first) for first in firsts
  ):
    raise CheckpointError(
      'the checkpoint has only a discriminator: import a file with the '
      'generator G_ema'
    )
  return 'generator_ema'
