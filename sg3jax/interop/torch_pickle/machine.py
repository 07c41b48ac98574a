"""Reads pickles with a machine that cannot execute anything.

The standard library's unpicklers look names up and call what they find.
Overriding `find_class` prevents that, but leaves weaknesses that a file can
exploit without any name. The unpicklers hash values from the file: a tuple that
holds another twice, which holds another twice ..., takes exponential time, and
a deep one overflows the C stack. The C unpickler sizes its memo by an index in
the file. Neither limits its work.

This module therefore implements its own machine, for the opcodes of the binary
protocols that checkpoints use. It imports nothing and calls only functions that
its owner passes. Keys and members of sets are strings and small integers; every
length is checked against the available bytes; every opcode is counted.
Checkpoints have few opcodes and long byte strings, which are not copied, so
Python is fast enough.

Opcodes are described in the standard library's `pickletools`.
"""

import struct
from collections.abc import Callable
from typing import Any, Protocol

from sg3jax.interop.torch_pickle.records import (
  MAX_NESTING,
  Budget,
  CheckpointError,
  UnsafeCheckpointError,
  is_size,
  quoted,
)


class Symbol(Protocol):
  """Represents a global name."""

  name: str

  def reduce(self, args: tuple) -> Any:
    """Returns the record for a call with `args`."""
    ...


class Buildable(Protocol):
  """A value whose state is set after it is created."""

  def build(self, state: Any) -> None:
    """Sets the state."""
    ...


def run(
  data: memoryview,
  start: int,
  find_global: Callable[[str, str], Any],
  persistent_load: Callable[[Any], Any] | None,
  budget: Budget,
) -> tuple[Any, int]:
  """Reads one pickle.

  Args:
    data: The bytes, which may continue after the pickle.
    start: Where the pickle starts.
    find_global: Maps a module and a name to a value, which is a `Symbol` if the
      pickle may call it; raises for names that are not allowed.
    persistent_load: Returns the value of a persistent id, or raises; None for
      pickles without persistent ids.
    budget: Counts opcodes.

  Returns:
    The pickled value, and where the pickle ends.

  Raises:
    CheckpointError: If the pickle is damaged.
    UnsafeCheckpointError: If it uses an opcode or a name that checkpoints do
      not need, or too many opcodes.
  """
  return _Machine(data, start, find_global, persistent_load, budget).run()


class _Machine:
  """The state of reading one pickle; the arguments are those of `run`."""

  def __init__(
    self,
    data: memoryview,
    start: int,
    find_global: Callable[[str, str], Any],
    persistent_load: Callable[[Any], Any] | None,
    budget: Budget,
  ):
    self._data = data
    self._position = start
    self._find_global = find_global
    self._persistent_load = persistent_load
    self._budget = budget
    self._stack: list[Any] = []
    self._marks: list[int] = []  # Heights of the stack at each MARK.
    self._memo: dict[int, Any] = {}

  def run(self) -> tuple[Any, int]:
    """Returns the pickled value, and where the pickle ends."""
    while True:
      self._budget.spend_opcodes()
      opcode = self._take(1)[0]
      if opcode == _STOP:
        break
      handler = _HANDLERS.get(opcode)
      if handler is None:
        raise UnsafeCheckpointError(
          f'the checkpoint uses the pickle opcode 0x{opcode:02x}, which '
          'checkpoints do not need'
        )
      handler(self)
    value = self._pop()
    if self._stack or self._marks:
      raise CheckpointError('a pickle of the checkpoint ends too early')
    return value, self._position

  # Reading.

  def _take(self, count: int) -> memoryview:
    end = self._position + count
    if end > len(self._data):
      raise CheckpointError(
        f'the checkpoint is truncated: {count} bytes are needed, but only '
        f'{len(self._data) - self._position} are left'
      )
    taken = self._data[self._position : end]
    self._position = end
    return taken

  def _unsigned(self, size: int) -> int:
    return int.from_bytes(self._take(size), 'little')

  def _line(self) -> str:
    rest = bytes(self._data[self._position : self._position + 256])
    line, newline, _ = rest.partition(b'\n')
    if not newline:
      raise CheckpointError('a name in the checkpoint has no end')
    self._position += len(line) + 1
    return _decode(line)

  # The stack.

  def _push(self, value: Any) -> None:
    self._stack.append(value)

  def _pop(self) -> Any:
    if len(self._stack) <= (self._marks[-1] if self._marks else 0):
      raise CheckpointError('a pickle of the checkpoint lacks a value')
    return self._stack.pop()

  def _pop_to_mark(self) -> list[Any]:
    if not self._marks:
      raise CheckpointError('a pickle of the checkpoint lacks a mark')
    height = self._marks.pop()
    values = self._stack[height:]
    del self._stack[height:]
    return values

  def _top(self, kind: type) -> Any:
    value = self._pop()
    if type(value) is not kind:
      raise CheckpointError(
        f'a pickle of the checkpoint extends {quoted(value)} as if it were a '
        f'{kind.__name__}'
      )
    self._push(value)
    return value

  def _mark(self) -> None:
    if len(self._marks) >= MAX_NESTING:
      raise UnsafeCheckpointError(
        f'the checkpoint nests values more than {MAX_NESTING} deep'
      )
    self._marks.append(len(self._stack))

  # Values.

  def _protocol(self) -> None:
    version = self._unsigned(1)
    if not 2 <= version <= 5:
      raise CheckpointError(
        f'the checkpoint is a pickle of protocol {version}, not of 2 to 5'
      )

  def _text(self, size: int) -> None:
    self._push(_decode(bytes(self._take(self._unsigned(size)))))

  def _bytes(self, size: int) -> None:
    self._push(self._take(self._unsigned(size)))

  def _long(self) -> None:
    self._push(
      int.from_bytes(self._take(self._unsigned(1)), 'little', signed=True)
    )

  def _tuple(self, count: int) -> None:
    values = [self._pop() for _ in range(count)]
    self._push(tuple(reversed(values)))

  def _append(self, values: list[Any]) -> None:
    self._top(list).extend(values)

  def _set_items(self, values: list[Any]) -> None:
    if len(values) % 2:
      raise CheckpointError('a dictionary of the checkpoint lacks a value')
    keys = values[::2]
    _check_keys(keys)
    self._top(dict).update(zip(keys, values[1::2], strict=True))

  def _add_items(self) -> None:
    members = self._pop_to_mark()
    _check_keys(members)
    self._top(set).update(members)

  # The memo.

  def _get(self, size: int) -> None:
    index = self._unsigned(size)
    if index not in self._memo:
      raise CheckpointError(
        'a pickle of the checkpoint recalls a value that it did not store'
      )
    self._push(self._memo[index])

  def _put(self, index: int) -> None:
    value = self._pop()
    self._memo[index] = value
    self._push(value)

  # Names, and the values created from them.

  def _global(self, module: Any, name: Any) -> None:
    if not isinstance(module, str) or not isinstance(name, str):
      raise CheckpointError('a name in the checkpoint must be a string')
    self._push(self._find_global(module, name))

  def _stack_global(self) -> None:
    name, module = self._pop(), self._pop()
    self._global(module, name)

  def _reduce(self) -> None:
    args, symbol = self._pop(), self._pop()
    if not hasattr(symbol, 'reduce'):
      raise UnsafeCheckpointError(
        f'the checkpoint calls {quoted(symbol)}, which is not a function'
      )
    if type(args) is not tuple:
      raise CheckpointError(
        f'the checkpoint calls {symbol.name} with {quoted(args)}, not a tuple'
      )
    self._push(symbol.reduce(args))

  def _build(self) -> None:
    state, target = self._pop(), self._pop()
    # Drop a dictionary's attributes, which do not belong to a checkpoint.
    if type(target) is not dict:
      if not hasattr(target, 'build'):
        raise UnsafeCheckpointError(
          f'the checkpoint gives {quoted(target)} a state'
        )
      target.build(state)
    self._push(target)

  def _persistent(self) -> None:
    key = self._pop()
    if self._persistent_load is None:
      raise UnsafeCheckpointError(
        'the checkpoint refers to something outside of it by a persistent id'
      )
    self._push(self._persistent_load(key))


def _decode(data: bytes) -> str:
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    raise CheckpointError('a text in the checkpoint is not UTF-8') from error


def _check_keys(keys: list[Any]) -> None:
  for key in keys:
    # Large integers can be chosen so that all of them collide.
    if not (type(key) is str or (is_size(key) and key < _MAX_KEY)):
      raise UnsafeCheckpointError(
        f'a key must be a string or a small integer, got {quoted(key)}'
      )


_STOP = ord('.')
_MAX_KEY = 1 << 16

_HANDLERS: dict[int, Callable[[_Machine], None]] = {
  0x80: _Machine._protocol,
  0x95: lambda m: (m._take(8), None)[1],  # FRAME: a hint for stream readers.
  ord('('): _Machine._mark,
  ord('N'): lambda m: m._push(None),
  0x88: lambda m: m._push(True),
  0x89: lambda m: m._push(False),
  ord('J'): lambda m: m._push(struct.unpack('<i', m._take(4))[0]),
  ord('K'): lambda m: m._push(m._unsigned(1)),
  ord('M'): lambda m: m._push(m._unsigned(2)),
  0x8A: _Machine._long,
  ord('G'): lambda m: m._push(struct.unpack('>d', m._take(8))[0]),
  0x8C: lambda m: m._text(1),
  ord('X'): lambda m: m._text(4),
  0x8D: lambda m: m._text(8),
  ord('C'): lambda m: m._bytes(1),
  ord('B'): lambda m: m._bytes(4),
  0x8E: lambda m: m._bytes(8),
  0x96: lambda m: m._bytes(8),  # BYTEARRAY8
  ord('}'): lambda m: m._push({}),
  ord(']'): lambda m: m._push([]),
  ord(')'): lambda m: m._push(()),
  0x8F: lambda m: m._push(set()),
  ord('t'): lambda m: m._push(tuple(m._pop_to_mark())),
  0x85: lambda m: m._tuple(1),
  0x86: lambda m: m._tuple(2),
  0x87: lambda m: m._tuple(3),
  ord('a'): lambda m: m._append([m._pop()]),
  ord('e'): lambda m: m._append(m._pop_to_mark()),
  ord('s'): lambda m: m._set_items([m._pop(), m._pop()][::-1]),
  ord('u'): lambda m: m._set_items(m._pop_to_mark()),
  0x90: _Machine._add_items,
  ord('c'): lambda m: m._global(m._line(), m._line()),
  0x93: _Machine._stack_global,
  ord('R'): _Machine._reduce,
  0x81: _Machine._reduce,  # NEWOBJ
  ord('b'): _Machine._build,
  ord('Q'): _Machine._persistent,
  ord('h'): lambda m: m._get(1),
  ord('j'): lambda m: m._get(4),
  ord('q'): lambda m: m._put(m._unsigned(1)),
  ord('r'): lambda m: m._put(m._unsigned(4)),
  0x94: lambda m: m._put(len(m._memo)),
}
