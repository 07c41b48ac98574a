"""Inert records that a foreign checkpoint is read into, errors and limits.

Nothing here can run code of the file: records hold names, numbers and bytes.
Values of a file may share parts (a list of two references to a list of two
references ...), so that nothing may compare, hash, print or walk them as if
they were trees; errors therefore quote names only, and shortened.
"""

import dataclasses
import math
from typing import Any

import numpy as np

# Far above what checkpoints need (one of 1024 pixels has about 30,000 opcodes)
# and low enough that a hostile file costs seconds.
MAX_FILE_BYTES = 4 << 30
MAX_OPCODES = 500_000
MAX_NESTING = 200
# Tensors may be views of one storage, but converting copies each.
MAX_TENSOR_BYTES_PER_FILE_BYTE = 4
_MAX_PARTS = 1000
_MAX_DIMENSIONS = 8


class CheckpointError(ValueError):
  """A checkpoint that is damaged, or not of a kind that can be read."""


class UnsafeCheckpointError(CheckpointError):
  """A checkpoint that asks for something a checkpoint has no need of."""


def quoted(name: object) -> str:
  """Returns a name from a file for an error message: short, ASCII."""
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
  """Returns whether values can be the shape of an array, an empty one too."""
  # NumPy multiplies the sizes of an empty array too, those of 0 apart.
  return are_sizes(values) and is_size(math.prod(max(v, 1) for v in values))


@dataclasses.dataclass
class Budget:
  """Counts down the work that a file may cost, over all of its parts.

  Attributes:
    opcodes: Opcodes of all its pickles, and values they copy.
    tensor_bytes: Bytes of all its tensors and arrays.
  """

  opcodes: int
  tensor_bytes: int

  @classmethod
  def of_file(cls, num_bytes: int) -> 'Budget':
    """Returns the budget of a file of this size."""
    return cls(MAX_OPCODES, num_bytes * MAX_TENSOR_BYTES_PER_FILE_BYTE)

  def spend_opcodes(self, count: int = 1) -> None:
    """Counts opcodes, or work that is worth as many.

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
    numel: Elements that the file declares.
    data: Their bytes, or None before they are read.
  """

  dtype: np.dtype
  numel: int
  data: memoryview | bytes | None = None

  def fill(self, data: memoryview | bytes) -> None:
    """Takes the bytes.

    Raises:
      CheckpointError: If they are not as many as declared.
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
    offset: The first element's index.
    shape: Sizes.
    strides: In elements.

  Raises:
    CheckpointError: If it leaves its storage or repeats elements.
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
    # No tensor of a network repeats elements, and a stride of 0 would let few
    # bytes stand for any number.
    if count and (last >= self.storage.numel or count > self.storage.numel):
      raise CheckpointError(
        f'a tensor of the checkpoint reaches element {last} of a storage of '
        f'{self.storage.numel}, or repeats elements'
      )

  @property
  def num_bytes(self) -> int:
    """Bytes of all elements."""
    return math.prod(self.shape) * self.storage.dtype.itemsize

  def numpy(self) -> np.ndarray:
    """Returns the elements, a read-only view.

    Raises:
      CheckpointError: If the file declares the storage, but does not hold it.
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
    value: The array, or None before.
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
      CheckpointError: If it is no dictionary with names as keys, or of more
        parts than any network has.
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
      CheckpointError: If there is none.
    """
    value = self.part('_modules').get(name)
    if not isinstance(value, Module):
      raise CheckpointError(
        f'the module {quoted(self.class_name)} of the checkpoint has no part '
        f'{quoted(name)}'
      )
    return value
