"""Recognises published weights of feature networks by their names and shapes.

The rule of each network (`feature_rules`) is tried; the one with which most
arrays fit is taken, and then all of them must fit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sg3jax.interop import feature_rules, schema
from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  NumpyArray,
  ScriptObject,
  Tensor,
  quoted,
)
from sg3jax.nets.features import base

# Arrays by dotted name, as the file has them.
_Arrays = Mapping[str, Tensor | NumpyArray]

# Values of a file may share parts, so that visiting all of them would not end.
_MAX_VISITS = 20_000

# Names that containers and wrappers put before those of the arrays.
_WRAPPERS = frozenset(
  ['state_dict', 'model_state_dict', 'model', 'module', '_orig_mod']
)

_SHOWN = 3


def recognise(value: Any) -> tuple[str, dict[str, np.ndarray]]:
  """Returns which network a file holds, and its arrays.

  Args:
    value: The value that `official.files.read` returned.

  Returns:
    The name of the feature network, and its arrays by path
    (`params/fc/weight`), in our layout, contiguous float32.

  Raises:
    CheckpointError: If the arrays are of no known network, some are missing or
      have other shapes, or values are not finite. The message names the first
      three.
  """
  name, arrays = match(_named_arrays(value))
  return name, {
    path: _as_float32(path, array) for path, array in arrays.items()
  }


def match(arrays: _Arrays) -> tuple[str, dict[str, np.ndarray]]:
  """Returns the network that arrays belong to, and views of them.

  Args:
    arrays: By dotted name, as the file has them.

  Returns:
    The name of the feature network, and its arrays by path in our layout.

  Raises:
    CheckpointError: If they are not exactly those of a known network.
  """
  known = ', '.join(feature_rules.RULES)
  if not arrays:
    raise CheckpointError(
      f'the file must hold the weights of {known}, but has no arrays'
    )
  renamed = {
    name: _renamed(arrays, rule) for name, rule in feature_rules.RULES.items()
  }
  best = max(renamed, key=lambda name: _share(name, renamed[name]))
  if _share(best, renamed[best]) < 0.5:
    some = ', '.join(quoted(name) for name in list(arrays)[:_SHOWN])
    raise CheckpointError(
      f'the file must hold the weights of {known}, got {len(arrays)} arrays of '
      f'another network: {some}, ...'
    )
  found = {}
  for path, array in renamed[best]:
    if path in found:
      raise CheckpointError(f'the file has two arrays for {quoted(path)}')
    found[path] = array
  check_shapes(best, {path: array.shape for path, array in found.items()})
  return best, found


def _share(name: str, renamed: list[tuple[str, np.ndarray]]) -> float:
  """Returns the share of a network's arrays that a file has."""
  wanted = _shapes(name)
  return sum(wanted.get(p) == a.shape for p, a in renamed) / len(wanted)


def check_shapes(name: str, found: Mapping[str, tuple[int, ...]]) -> None:
  """Checks that arrays are exactly those of a network.

  Args:
    name: Name of the feature network.
    found: Shapes by path.

  Raises:
    CheckpointError: If an array is missing, unexpected or has another shape.
  """
  schema.compare_shapes(
    _shapes(name), found, f'the arrays are not those of {name}'
  )


def check_finite(path: str, array: np.ndarray) -> None:
  """Raises CheckpointError unless all values of an array are finite."""
  if not np.isfinite(array).all():
    raise CheckpointError(f'the array {path} has values that are not finite')


def _shapes(name: str) -> Mapping[str, tuple[int, ...]]:
  shapes = base.find(name).shapes
  assert shapes is not None, f'{name} must have shapes'
  return shapes()


def _named_arrays(value: Any) -> dict[str, Tensor | NumpyArray]:
  """Returns all arrays of a file by dotted name, without wrappers' names."""
  found = {}
  stack = [('', value)]
  for _ in range(_MAX_VISITS):
    if not stack:
      return found
    prefix, part = stack.pop()
    if isinstance(part, Tensor | NumpyArray):
      name = _unwrapped(prefix)
      if name in found:
        raise CheckpointError(f'the file has two arrays named {quoted(name)}')
      found[name] = part
    for key, child in reversed(_children(part).items()):
      stack.append((f'{prefix}.{key}' if prefix else str(key), child))
  raise CheckpointError(
    f'the file has more than {_MAX_VISITS:,} parts, more than any network'
  )


def _unwrapped(name: str) -> str:
  """Returns a name without the names of wrappers before it."""
  parts = name.split('.')
  while parts[0] in _WRAPPERS and len(parts) > 1:
    del parts[0]
  return '.'.join(parts)


def _children(value: Any) -> dict[Any, Any]:
  """Returns the parts of a value by name."""
  if isinstance(value, Module):
    parts = ('_parameters', '_buffers', '_modules')
    return {k: v for part in parts for k, v in value.part(part).items()}
  if isinstance(value, ScriptObject):
    return value.state
  return value if isinstance(value, dict) else {}


def _renamed(
  arrays: _Arrays, rule: feature_rules.Rule
) -> list[tuple[str, np.ndarray]]:
  """Returns our path and the array for each array, with repetitions."""
  return [
    pair
    for name, record in arrays.items()
    for pair in rule(name, record.numpy()).items()
  ]


def _as_float32(path: str, array: np.ndarray) -> np.ndarray:
  # NumPy does not know bfloat16, whose kind is V.
  if array.dtype.kind != 'f' and array.dtype.name != 'bfloat16':
    raise CheckpointError(f'the array {path} must be floats, got {array.dtype}')
  with np.errstate(over='ignore'):  # Float64 may overflow; see below.
    result = np.ascontiguousarray(array, np.float32)
  check_finite(path, result)
  return result
