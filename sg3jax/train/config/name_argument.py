"""Arguments behind a configuration's name, as in `stylegan3_t:512,batch=16`."""

from typing import Any


def parse_arg(arg: str, **defaults: int | float | None) -> dict[str, Any]:
  """Reads the string behind a configuration's name, as in `NAME:512,batch=16`.

  Args:
    arg: Comma-separated `key=value`; the first may be a value alone, of the
      first key.
    **defaults: The keys and their values where `arg` has none.

  Raises:
    ValueError: If a key is unknown or a value is no number.
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
        f'{key} in the configuration argument {arg!r} is no '
        + ('whole number' if isinstance(defaults[key], int) else 'number')
      ) from error
  return values


def _number(text: str, *, whole: bool) -> int | float:
  try:
    return int(text)
  except ValueError:
    if whole:
      raise
    return float(text)
