"""Inert records for the contents of a foreign checkpoint, errors and limits.

Nothing here can run code from the file: records contain names, numbers and
bytes. Values in a file may share parts (a list of two references to a list of
two references ...), so no code may compare, hash, print or traverse them as if
they were trees. Errors therefore quote only names, in shortened form.
"""

import dataclasses
import math
from typing import Any

import numpy as np

# Far above what checkpoints need (one for 1024 pixels has about 30,000 opcodes)
# and low enough that a hostile file only costs seconds.
MAX_FILE_BYTES = 4 << 30
MAX_OPCODES = 500_000
MAX_NESTING = 200
# Tensors may be views of one storage, but conversion copies each of them.
MAX_TENSOR_BYTES_PER_FILE_BYTE = 4
_MAX_PARTS = 1000
_MAX_DIMENSIONS = 8


class CheckpointError(ValueError):
  """A checkpoint is damaged, or of an unsupported kind."""


class UnsafeCheckpointError(CheckpointError):
  """A checkpoint requests something that no checkpoint needs."""


def quoted(name: object) -> str:
  """Shortens a name from a file for an error message, in ASCII."""
  if not isinstance(name, str):
    return f'a {type(name).__name__}'
  text = ascii(name[:80])
  return text if len(text) <= 80 else text[:77] + '...'


def is_size(value: object) -> bool:
  """Returns whether a value can be a size, an offset or a stride."""
  return type(value) is int and 0 <= value < 1 << 48


def are_sizes(values: tuple) -> bool:
  """Returns whether values can be the strides of an array."""
  return len(values) <= _MAX_DIMENSIONS and all(map(is_size, values))


def is_shape(values: tuple) -> bool:
  """Returns whether values can be the shape of an array, possibly empty."""
  # NumPy also multiplies the sizes of an empty array, except those of 0.
  return are_sizes(values) and is_size(math.prod(max(v, 1) for v in values))


@dataclasses.dataclass
class Budget:
  """Counts down the work that a file may cause, over all of its parts.

  Attributes:
    opcodes: Remaining opcodes of all its pickles, including copied values.
    tensor_bytes: Remaining bytes of all its tensors and arrays.
  """

  opcodes: int
  tensor_bytes: int

  @classmethod
  def of_file(cls, num_bytes: int) -> 'Budget':
    """Returns the budget for a file of this size."""
    return cls(MAX_OPCODES, num_bytes * MAX_TENSOR_BYTES_PER_FILE_BYTE)

  def spend_opcodes(self, count: int = 1) -> None:
    """Counts opcodes, or an equivalent amount of work.

    Raises:
      UnsafeCheckpointError: If there were too many.
    """
    self.opcodes -= count
    if self.opcodes < 0:
      raise UnsafeCheckpointError(
        f'the checkpoint has more than {MAX_OPCODES:,} pickle opcodes'
      )

  def spend_bytes(self, count: int) -> None:
    """Counts the bytes of a tensor.

    Raises:
      UnsafeCheckpointError: If there were too many.
    """
    self.tensor_bytes -= count
    if self.tensor_bytes < 0:
      raise UnsafeCheckpointError(
        'the tensors of the checkpoint view its bytes more than '
        f'{MAX_TENSOR_BYTES_PER_FILE_BYTE} times over'
      )


@dataclasses.dataclass(eq=False)
class Storage:
  """A flat array that tensors view.

  Attributes:
    dtype: The type of the elements.
    numel: Number of elements that the file declares.
    data: The bytes of the elements; None before they are read.
  """

  dtype: np.dtype
  numel: int
  data: memoryview | bytes | None = None

  def fill(self, data: memoryview | bytes) -> None:
    """Sets the bytes.

    Raises:
      CheckpointError: If their number is not the declared one.
    """
    if len(data) != self.numel * self.dtype.itemsize:
      raise CheckpointError(
        f'a storage of the checkpoint has {len(data)} bytes, but declares '
        f'{self.numel} elements of {self.dtype.itemsize}'
      )
    self.data = data


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
  """A tensor: a strided view of a storage.

  Attributes:
    storage: Its elements.
    offset: Index of the first element.
    shape: Sizes.
    strides: Strides in elements.

  Raises:
    CheckpointError: If it exceeds its storage or repeats elements.
  """

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def __post_init__(self):
    if len(self.shape) != len(self.strides):
      raise CheckpointError(
        'a tensor of the checkpoint has an impossible shape or strides'
      )
    steps = zip(self.shape, self.strides, strict=True)
    last = self.offset + sum((size - 1) * step for size, step in steps)
    count = math.prod(self.shape)
    # No tensor of a network repeats elements, and a stride of 0 would let a few
    # bytes represent any number of elements.
    if count and (last >= self.storage.numel or count > self.storage.numel):
      raise CheckpointError(
        f'a tensor of the checkpoint reaches element {last} of a storage of '
        f'{self.storage.numel}, or repeats elements'
      )

  @property
  def num_bytes(self) -> int:
    """Number of bytes of all elements."""
    return math.prod(self.shape) * self.storage.dtype.itemsize

  def numpy(self) -> np.ndarray:
    """Returns the elements as a read-only view.

    Raises:
      CheckpointError: If the file declares the storage, but lacks it.
    """
    if self.storage.data is None:
      raise CheckpointError('a tensor of the checkpoint has no storage in it')
    if not math.prod(self.shape):
      return np.zeros(self.shape, self.storage.dtype)
    flat = np.frombuffer(self.storage.data, self.storage.dtype)
    return np.lib.stride_tricks.as_strided(
      flat[self.offset :],
      self.shape,
      [step * flat.itemsize for step in self.strides],
      writeable=False,
    )


@dataclasses.dataclass(eq=False)
class NumpyArray:
  """A NumPy array, empty until its state is read.

  Attributes:
    value: The array; None before its state is read.
  """

  value: np.ndarray | None = None

  def numpy(self) -> np.ndarray:
    """Returns the array.

    Raises:
      CheckpointError: If its state is missing.
    """
    if self.value is None:
      raise CheckpointError('a NumPy array of the checkpoint has no contents')
    return self.value


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
  """A network or a part of one.

  Attributes:
    class_name: The name of its class.
    state: Its attributes. `_parameters` and `_buffers` map names to `Tensor`
      or None, `_modules` maps names to `Module`.
  """

  class_name: str
  state: dict[str, Any]

  def part(self, name: str) -> dict[str, Any]:
    """Returns `_parameters`, `_buffers` or `_modules`.

    Raises:
      CheckpointError: If it is not a dictionary with names as keys, or has more
        parts than any network.
    """
    value = self.state.get(name)
    if (
      not isinstance(value, dict)
      or len(value) > _MAX_PARTS
      or not all(isinstance(key, str) for key in value)
    ):
      raise CheckpointError(
        f'the module {quoted(self.class_name)} of the checkpoint has no '
        f'dictionary {name}'
      )
    return value

  def submodule(self, name: str) -> 'Module':
    """Returns a part by name.

    Raises:
      CheckpointError: If there is no such part.
    """
    value = self.part('_modules').get(name)
    if not isinstance(value, Module):
      raise CheckpointError(
        f'the module {quoted(self.class_name)} of the checkpoint has no part '
        f'{quoted(name)}'
      )
    return value


@dataclasses.dataclass(eq=False)
class ScriptObject:
  """A module of a TorchScript archive, whose code is not read.

  Attributes:
    class_name: The name of its class.
    state: Its attributes by name: tensors, numbers, and its parts, which are
      `ScriptObject`. Empty before they are read.
  """

  class_name: str
  state: dict[str, Any] = dataclasses.field(default_factory=dict)

  def build(self, state: Any) -> None:
    """Sets the attributes.

    Raises:
      CheckpointError: If they have no names.
    """
    if type(state) is not dict or not all(type(key) is str for key in state):
      raise CheckpointError(
        f'the module {quoted(self.class_name)} of the checkpoint has no '
        'attributes by name'
      )
    self.state = state
