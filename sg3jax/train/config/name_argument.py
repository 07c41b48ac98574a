"""Parses configuration arguments, as in `stylegan3_t:512,batch=16`."""

from typing import Any


def parse_arg(arg: str, **defaults: int | float | None) -> dict[str, Any]:
  """Parses the argument that follows a configuration's name and a colon.

  Args:
    arg: Comma-separated `key=value` pairs, such as `512,batch=16`. The first
      may be a bare value, for the first key.
    **defaults: The keys and their default values.

  Raises:
    ValueError: If a key is unknown or a value is not a number.
  """
  values: dict[str, Any] = dict(defaults)
  for i, part in enumerate(filter(None, arg.split(','))):
    key, separator, text = part.partition('=')
    if not separator and i == 0:
      key, text = next(iter(defaults)), key
    if key not in defaults:
      raise ValueError(
        f'{part!r} in the configuration argument {arg!r} is not understood: '
        f'use {",".join(f"{name}=NUMBER" for name in defaults)}'
      )
    try:
      values[key] = _number(text, whole=isinstance(defaults[key], int))
    except ValueError as error:
      raise ValueError(
        f'{key} in the configuration argument {arg!r} must be '
        + ('an integer' if isinstance(defaults[key], int) else 'a number')
      ) from error
  return values


def _number(text: str, *, whole: bool) -> int | float:
  try:
    return int(text)
  except ValueError:
    if whole:
      raise
    return float(text)
