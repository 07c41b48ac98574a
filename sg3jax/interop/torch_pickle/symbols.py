"""Maps the names that a checkpoint may use to inert substitutes.

No name gives access to the function it denotes. Each maps to a `Function` of
this module, which checks its arguments and returns an inert record. All other
names are refused.

This module knows the names of Python, NumPy and PyTorch. Names of a code base
that pickles its own classes are an argument of the reader, with `dictionary`
and `module` as their substitutes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from sg3jax.interop.torch_pickle.records import (
  Budget,
  CheckpointError,
  Module,
  NumpyArray,
  ScriptObject,
  Storage,
  Tensor,
  UnsafeCheckpointError,
  are_sizes,
  is_shape,
  is_size,
  quoted,
)

# A module and a name in it.
Name = tuple[str, str]

# Further names, and functions that return the records for their calls.
Names = Mapping[Name, Callable[..., Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
  """A name that a pickle may call.

  Attributes:
    name: For messages.
    call: Takes the arguments of a call and returns its record.
  """

  name: str
  call: Callable[..., Any]

  def reduce(self, args: tuple) -> Any:
    """Returns the record for a call.

    Raises:
      CheckpointError: If the arguments are invalid.
    """
    return self.call(*args[:8])


@dataclasses.dataclass(frozen=True, eq=False)
class Type:
  """A name that a pickle may only mention: a storage type, or `ndarray`.

  Attributes:
    name: For messages.
    dtype: The type of the elements, if it names a storage.
  """

  name: str
  dtype: np.dtype | None = None


@dataclasses.dataclass(eq=False)
class Dtype:
  """A NumPy dtype, whose byte order is set later.

  Attributes:
    code: Kind and size, such as 'f4'.
    order: '<', '>' or '|'.
  """

  code: str
  order: str = '<'

  def build(self, state: Any) -> None:
    """Sets the state of a pickled dtype: version, byte order, ..."""
    if not (
      type(state) is tuple and len(state) >= 2 and state[1] in ('<', '>', '|')
    ):
      raise CheckpointError('a dtype of the checkpoint has no byte order')
    self.order = state[1]

  def numpy(self) -> np.dtype:
    """Returns the NumPy dtype."""
    return np.dtype(self.order + self.code)


_NUMPY_CODES = frozenset(
  ['b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8']
)

# All are little-endian, like the files: `reader` refuses others.
_STORAGES = {
  'FloatStorage': '<f4',
  'HalfStorage': '<f2',
  'DoubleStorage': '<f8',
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': '<i8',
  'IntStorage': '<i4',
  'ShortStorage': '<i2',
  'CharStorage': 'i1',
  'ByteStorage': 'u1',
  'BoolStorage': '?',
}

_NDARRAY = Type('numpy.ndarray')

# The classes of a TorchScript archive are in modules below this name. Their
# code is in other members of the archive, which nothing reads.
_SCRIPT = '__torch__'

# TorchScript wraps lists and dictionaries in these types.
_TYPED_LISTS = [
  ('torch.jit._pickle', name)
  for name in (
    'build_boollist',
    'build_doublelist',
    'build_intlist',
    'build_tensorlist',
    'restore_type_tag',
  )
]

STORAGE_TYPES: dict[Name, Any] = {
  ('torch', name): Type(f'torch.{name}', np.dtype(dtype))
  for name, dtype in _STORAGES.items()
}


def dictionary(*args: Any) -> dict:
  """Substitutes for the constructor of a dictionary, which is filled later."""
  if args:
    raise CheckpointError('a dictionary of the checkpoint has an old form')
  return {}


def module(*args: Any) -> Module:
  """Substitutes for a call that creates a module from a class name and a state.

  Args:
    *args: One dictionary, with `type` = 'class', `class_name` and `state`.
  """
  meta = _only(args, 1, dict)[0]
  name, state = meta.get('class_name'), meta.get('state')
  if (
    meta.get('type') != 'class'
    or type(name) is not str
    or type(state) is not dict
  ):
    raise CheckpointError('a module of the checkpoint has no class or state')
  return Module(name, state)


def allowed_symbols(
  budget: Budget,
  load_from_bytes: Callable[[memoryview], Storage],
  names: Names,
) -> dict[Name, Any]:
  """Returns the substitutes for all names that a checkpoint may use.

  Args:
    budget: Counts what calls copy.
    load_from_bytes: Reads the storage in an embedded file.
    names: Names besides those of Python, NumPy and PyTorch.
  """
  calls = _Calls(budget, load_from_bytes)
  functions: dict[Name, Callable[..., Any]] = {
    ('collections', 'OrderedDict'): dictionary,
    ('builtins', 'set'): calls.make_set,
    ('__builtin__', 'set'): calls.make_set,
    ('_codecs', 'encode'): calls.encode,
    ('torch', 'Size'): calls.size,
    ('torch._utils', '_rebuild_tensor_v2'): calls.tensor,
    ('torch._utils', '_rebuild_parameter'): calls.parameter,
    ('torch.storage', '_load_from_bytes'): calls.load_storage,
    ('numpy', 'dtype'): calls.dtype,
    **dict.fromkeys(_TYPED_LISTS, calls.typed_value),
    **names,
  }
  for numpy_core in ('numpy.core', 'numpy._core'):
    multiarray, numeric = f'{numpy_core}.multiarray', f'{numpy_core}.numeric'
    functions |= {
      (multiarray, 'scalar'): calls.scalar,
      (multiarray, '_reconstruct'): calls.empty_array,
      (numeric, '_frombuffer'): calls.array_from_buffer,
    }
  return {
    **STORAGE_TYPES,
    ('numpy', 'ndarray'): _NDARRAY,
    **{
      name: Function('.'.join(name), call) for name, call in functions.items()
    },
  }


def find_in(
  symbols: dict[Name, Any], *, has_scripts: bool = False
) -> Callable[[str, str], Any]:
  """Returns a function that looks up a name or refuses it.

  Args:
    symbols: The substitutes by name.
    has_scripts: Whether classes of TorchScript, which can have any name, get
      records as substitutes too.
  """
  return functools.partial(_find, symbols, has_scripts)


def _find(
  symbols: dict[Name, Any], has_scripts: bool, module: str, name: str
) -> Any:
  if has_scripts and module.partition('.')[0] == _SCRIPT:
    path = f'{module}.{name}'
    return Function(path, lambda *args: ScriptObject(path))
  symbol = symbols.get((module, name))
  if symbol is None:
    raise UnsafeCheckpointError(
      f'the checkpoint asks for {quoted(f"{module}.{name}")}, which is not '
      'among the names that checkpoints need: nothing of it was run. If you '
      'trust the file, convert it where it was made'
    )
  return symbol


class _Calls:
  """Returns the records for calls of the allowed functions.

  Args:
    budget: Counts what the calls copy.
    load_from_bytes: Reads the storage in an embedded file.
  """

  def __init__(
    self, budget: Budget, load_from_bytes: Callable[[memoryview], Storage]
  ):
    self._budget = budget
    self._load_from_bytes = load_from_bytes

  def make_set(self, *args: Any) -> set:
    members = _only(args, 1, list)[0]
    self._budget.spend_opcodes(len(members))
    if not all(type(member) is str for member in members):
      raise UnsafeCheckpointError(
        'a set in the checkpoint must only contain strings'
      )
    return set(members)

  def encode(self, *args: Any) -> bytes:
    text, encoding = _only(args, 2, str, str)
    self._budget.spend_bytes(len(text))
    try:
      if encoding == 'latin1':
        return text.encode('latin1')
    except UnicodeEncodeError:
      pass
    raise CheckpointError('a byte string of the checkpoint is damaged')

  def typed_value(self, *args: Any) -> Any:
    value = _only(args, 1, object, at_least=True)[0]
    if type(value) not in (list, dict):
      raise CheckpointError(
        f'a list of the checkpoint must be one, got {quoted(value)}'
      )
    return value

  def size(self, *args: Any) -> tuple:
    return _only(args, 1, tuple)[0]

  def tensor(self, *args: Any) -> Tensor:
    storage, offset, shape, strides = _only(
      args, 4, Storage, int, tuple, tuple, at_least=True
    )
    if not (is_size(offset) and is_shape(shape) and are_sizes(strides)):
      raise CheckpointError(
        'a tensor of the checkpoint has an impossible shape or strides'
      )
    tensor = Tensor(storage, offset, shape, strides)
    self._budget.spend_bytes(tensor.num_bytes)
    return tensor

  def parameter(self, *args: Any) -> Tensor:
    return _only(args, 1, Tensor, at_least=True)[0]

  def load_storage(self, *args: Any) -> Storage:
    blob = _bytes(_only(args, 1, object)[0])
    self._budget.spend_bytes(len(blob))
    return self._load_from_bytes(memoryview(blob))

  def dtype(self, *args: Any) -> Dtype:
    code = _only(args, 1, str, at_least=True)[0]
    if code not in _NUMPY_CODES:
      raise UnsafeCheckpointError(
        f'a NumPy array must have plain numbers, got the dtype {quoted(code)}'
      )
    return Dtype(code)

  def scalar(self, *args: Any) -> int | float | bool:
    dtype, data = _only(args, 2, Dtype, object)
    return self._from_buffer(_bytes(data), dtype, ()).item()

  def empty_array(self, *args: Any) -> '_PickledArray':
    if _only(args, 3, Type, tuple, object)[0] is not _NDARRAY:
      raise UnsafeCheckpointError('the checkpoint has a strange kind of array')
    return _PickledArray(self._from_buffer)

  def array_from_buffer(self, *args: Any) -> NumpyArray:
    data, dtype, shape, order = _only(args, 4, object, Dtype, tuple, str)
    array = self._from_buffer(_bytes(data), dtype, shape, order)
    return NumpyArray(array)

  def _from_buffer(
    self,
    data: memoryview | bytes,
    dtype: Dtype,
    shape: tuple,
    order: str = 'C',
  ) -> np.ndarray:
    if not is_shape(shape):
      raise CheckpointError('an array of the checkpoint has an invalid shape')
    num_bytes = math.prod(shape) * dtype.numpy().itemsize
    if num_bytes != len(data):
      raise CheckpointError(
        f'an array of the checkpoint has {len(data)} bytes, but declares '
        f'{num_bytes}'
      )
    self._budget.spend_bytes(num_bytes)
    flat = np.frombuffer(data, dtype.numpy())
    return flat.reshape(shape, order='F' if order == 'F' else 'C')


class _PickledArray(NumpyArray):
  """An array whose contents are set after it is created.

  Args:
    from_buffer: Creates an array from bytes, dtype, shape and order.
  """

  def __init__(self, from_buffer: Callable[..., np.ndarray]):
    super().__init__()
    self._from_buffer = from_buffer

  def build(self, state: Any) -> None:
    """Sets the state: version, shape, dtype, whether Fortran order, bytes."""
    _, shape, dtype, is_fortran, data = _only(
      state, 5, int, tuple, Dtype, bool, object
    )
    order = 'F' if is_fortran else 'C'
    self.value = self._from_buffer(_bytes(data), dtype, shape, order)


def _only(args: tuple, count: int, *types: type, at_least=False) -> tuple:
  """Returns the first arguments after checking their types."""
  if (
    not isinstance(args, tuple)
    or len(args) < count
    or (len(args) > count and not at_least)
  ):
    raise CheckpointError('a call in the checkpoint has wrong arguments')
  for arg, kind in zip(args, types, strict=False):
    if kind is not object and not isinstance(arg, kind):
      raise CheckpointError(
        f'a call in the checkpoint has {quoted(arg)} where a '
        f'{kind.__name__} belongs'
      )
  return args[:count]


def _bytes(value: Any) -> memoryview | bytes:
  if not isinstance(value, memoryview | bytes):
    raise CheckpointError(f'{quoted(value)} in the checkpoint must be bytes')
  return value
