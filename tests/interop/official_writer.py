"""Writes checkpoints in the official pickle's structure, without PyTorch.

Pickles name functions of modules that are not here; stand-ins are put in
`sys.modules` while one is written, since a pickler looks up what it names.
"""

import collections
import contextlib
import io
import pickle
import struct
import sys
import types
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_NAMES = {
  'torch': [
    'FloatStorage', 'HalfStorage', 'DoubleStorage', 'LongStorage',
    'BFloat16Storage', 'Size',
  ],
  'torch._utils': ['_rebuild_tensor_v2', '_rebuild_parameter'],
  'torch.storage': ['_load_from_bytes'],
  'torch_utils': [],
  'torch_utils.persistence': ['_reconstruct_persistent_obj'],
  'dnnlib': [],
  'dnnlib.util': ['EasyDict'],
}  # fmt: skip
_STORAGES = {
  'f4': 'FloatStorage',
  'f2': 'HalfStorage',
  'f8': 'DoubleStorage',
  'i8': 'LongStorage',
  'V2': 'BFloat16Storage',
}


def _stand_in(module: str, name: str):
  """Returns something that is pickled as `module.name`."""
  if name == 'EasyDict':
    return type(name, (dict,), {'__module__': module})

  def function():
    raise AssertionError('a stand-in was called')

  function.__module__, function.__qualname__ = module, name
  return function


_MODULES = {}
for _module, _names in _NAMES.items():
  _MODULES[_module] = types.ModuleType(_module)
  for _name in _names:
    setattr(_MODULES[_module], _name, _stand_in(_module, _name))

EasyDict = _MODULES['dnnlib.util'].EasyDict


@contextlib.contextmanager
def _named():
  before = {name: sys.modules.get(name) for name in _MODULES}
  sys.modules.update(_MODULES)
  try:
    yield
  finally:
    for name, module in before.items():
      if module is None:
        del sys.modules[name]
      else:
        sys.modules[name] = module


class Call:
  """Is pickled as a call of `module.name`, whatever that is.

  Args:
    module: Where the function is; it must be there while this is pickled.
    name: The function's name.
    *args: Arguments.
  """

  def __init__(self, module: str, name: str, *args: Any):
    self._call = (getattr(_MODULES[module], name), args)

  def __reduce__(self):
    return self._call


class _StreamPickler(pickle.Pickler):
  def persistent_id(self, obj):
    return obj.key if isinstance(obj, _PersistentId) else None


class _PersistentId:
  def __init__(self, key):
    self.key = key


def storage_stream(array: np.ndarray, **changes: Any) -> bytes:
  """Returns the stream of one storage, as `torch.save` once wrote it.

  Args:
    array: The elements.
    **changes: Other values of `numel` and `stored_numel`, to lie.
  """
  file = io.BytesIO()
  storage_type = getattr(_MODULES['torch'], _STORAGES[array.dtype.str[1:]])
  numel = changes.get('numel', array.size)
  system = {'protocol_version': 1001, 'little_endian': True}
  key = ('storage', storage_type, '94473332066416', 'cpu', numel, None)
  with _named():
    for value in (_MAGIC, 1001, system, _PersistentId(key), [key[2]]):
      _StreamPickler(file, protocol=2).dump(value)
  file.write(struct.pack('<q', changes.get('stored_numel', numel)))
  file.write(array.tobytes())
  return file.getvalue()


def tensor(array: np.ndarray, **changes: Any) -> Call:
  """Returns what is pickled as a tensor with these elements.

  Args:
    array: The elements.
    **changes: Other values of `offset`, `shape` and `strides`, to lie.
  """
  array = np.asarray(array, order='C')
  strides = tuple(step // array.itemsize for step in array.strides)
  return Call(
    'torch._utils',
    '_rebuild_tensor_v2',
    Call('torch.storage', '_load_from_bytes', storage_stream(array)),
    changes.get('offset', 0),
    changes.get('shape', array.shape),
    changes.get('strides', strides),
    False,
    {},
  )


def parameter(array: np.ndarray) -> Call:
  """Returns what is pickled as a parameter with these elements."""
  return Call('torch._utils', '_rebuild_parameter', tensor(array), True, {})


def module(
  class_name: str,
  parameters: dict[str, np.ndarray],
  buffers: dict[str, np.ndarray],
  modules: dict[str, Any],
  **attributes: Any,
) -> Call:
  """Returns what is pickled as a network or a part of one."""
  state = {
    'training': False,
    '_parameters': {k: parameter(v) for k, v in parameters.items()},
    '_buffers': {
      k: None if v is None else tensor(v) for k, v in buffers.items()
    },
    '_non_persistent_buffers_set': set(),
    '_modules': modules,
    **attributes,
  }
  meta = {
    'type': 'class',
    'version': 6,
    'module_src': 'raise SystemExit("source was run")\n',
    'class_name': class_name,
    'state': state,
  }
  return Call('torch_utils.persistence', '_reconstruct_persistent_obj', meta)


def dumps(value: Any, protocol: int = 4) -> bytes:
  """Returns the pickle of a value made of the parts above."""
  with _named():
    return pickle.dumps(value, protocol=protocol)


def state_dict(arrays: dict[str, np.ndarray]) -> collections.OrderedDict:
  """Returns what is pickled as `module.state_dict()`, with its metadata."""
  result = collections.OrderedDict((k, tensor(v)) for k, v in arrays.items())
  result._metadata = collections.OrderedDict({'': {'version': 1}})
  return result
