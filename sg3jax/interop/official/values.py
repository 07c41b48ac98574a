"""Reads and validates the untrusted attributes of a file's modules.

Values must be numbers, flags and names that networks have, and are only printed
if they are short: a file may contain numbers with a million digits.
"""

from collections.abc import Mapping, Set
from typing import Any

from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  NumpyArray,
  quoted,
)

# Arguments of networks: the official name, ours, the default and the largest
# accepted value. A larger design could have filters that fill the memory.
Table = tuple[tuple[str, str, float, float], ...]

# Bound of integers to print; larger ones could be as long as the file.
_MAX_BITS = 64


def arguments(module: Module) -> dict[str, Any]:
  """Returns the arguments that a module was created with, by name."""
  arguments = module.state.get('_init_kwargs')
  if not isinstance(arguments, dict):
    raise CheckpointError(
      f'the module {quoted(module.class_name)} does not contain its arguments'
    )
  return arguments


def known_arguments(
  module: Module,
  table: Table,
  others: frozenset[str],
  positional: tuple[str, ...] = (),
) -> dict[str, Any]:
  """Returns the arguments of a network, and refuses unknown ones.

  Args:
    module: The network.
    table: Arguments that it may have.
    others: Names of other accepted arguments.
    positional: Names of arguments that may be positional.
  """
  unnamed = module.state.get('_init_args', ())
  if type(unnamed) not in (tuple, list) or len(unnamed) > len(positional):
    raise CheckpointError(
      f'the module {quoted(module.class_name)} was made with arguments that '
      'have no names'
    )
  return known(
    module.class_name,
    arguments(module) | dict(zip(positional, unnamed, strict=False)),
    {name for name, *_ in table} | others,
  )


def known(where: str, arguments: Any, known: Set[str]) -> dict[str, Any]:
  """Returns arguments, and refuses unknown ones."""
  if not isinstance(arguments, dict):
    raise CheckpointError(f'{quoted(where)} of the checkpoint has no names')
  unknown = [name for name in arguments if name not in known]
  if unknown:
    raise CheckpointError(
      f'{quoted(where)} was made with {quoted(unknown[0])}, which this package '
      'does not know'
    )
  return arguments


def numbers(arguments: Mapping[str, Any], table: Table) -> dict[str, Any]:
  """Returns arguments by our names, with the types of their defaults."""
  return {
    ours: number(name, arguments.get(name, default), most, type(default))
    for name, ours, default, most in table
  }


def attribute(module: Module, name: str, most: int) -> int:
  """Returns an attribute of a module, an integer between 0 and `most`."""
  return number(name, module.state.get(name), most, int)


def number(name: str, value: Any, most: float, kind: type) -> Any:
  """Returns a number between 0 and `most` of type `kind`."""
  if (
    type(value) not in (int, float)
    or not 0 <= value <= most
    or (kind is int and value != int(value))
  ):
    raise CheckpointError(
      f'{name} of the checkpoint must be '
      f'{"an integer" if kind is int else "a number"} from 0 to {most:g}, got '
      f'{plain(value)}'
    )
  return kind(value)


def flag(name: str, value: Any) -> bool:
  """Returns a value that must be a boolean."""
  if type(value) is not bool:
    raise CheckpointError(f'{name} must be True or False, got {plain(value)}')
  return value


def clamp(value: Any) -> float | None:
  """Returns a bound of feature maps, or None for none."""
  return None if value is None else number('conv_clamp', value, 1e38, float)


def plain(value: Any) -> Any:
  """Returns a number, a string or a short list of numbers, or describes it."""
  if type(value) is int and value.bit_length() > _MAX_BITS:
    return 'a huge number'
  if isinstance(value, NumpyArray) and value.numpy().size <= 8:
    value = value.numpy().ravel().tolist()
  if isinstance(value, list | tuple) and len(value) <= 8:
    return [plain(item) if _is_scalar(item) else '...' for item in value]
  if _is_scalar(value):
    return value
  return quoted(value)


def _is_scalar(value: Any) -> bool:
  return value is None or isinstance(value, bool | int | float)
