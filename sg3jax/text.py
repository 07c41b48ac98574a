"""Readable text: durations, progress of compilation, tables."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

_T = TypeVar('_T')


def format_duration(seconds: float | int) -> str:
  """Returns a duration as text: `45s`, `1m 20s`, `2h 03m 20s`.

  Durations of a day or more have no seconds: `1d 02h 03m`. Fractions of a
  second are rounded; a negative duration becomes `0s`.
  """
  total = max(round(seconds), 0)
  minutes, s = divmod(total, 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f'{days}d {h:02d}h {m:02d}m'
  if hours:
    return f'{h}h {m:02d}m {s:02d}s'
  if minutes:
    return f'{m}m {s:02d}s'
  return f'{s}s'


def counted(number: int, noun: str) -> str:
  """Returns a number and a noun that agree: `1 image`, `1,200 images`."""
  return f'{number:,} {noun}' + ('' if number == 1 else 's')


def announce_first_call(
  function: Callable[..., _T],
  log: Callable[[str], None],
  what: str,
  done: str = 'Compiled:',
) -> Callable[..., _T]:
  """Returns a function whose first call logs its compilation and duration.

  Jitted functions compile in their first call, which may take minutes without
  any other output. They return before the devices have finished.

  Args:
    function: The function.
    log: Receives each line of text.
    what: Description of the program that is compiled.
    done: Beginning of the second line.
  """
  is_first = True

  def call(*args: Any, **kwargs: Any) -> _T:
    nonlocal is_first
    if not is_first:
      return function(*args, **kwargs)
    is_first = False
    log(f'{"Compiling:":15} {what}')
    start = time.monotonic()
    result = function(*args, **kwargs)
    log(f'{done:15} in {format_duration(time.monotonic() - start)}')
    return result

  return call


Rows = Sequence[Mapping[str, Any]]


def columns(rows: Rows) -> list[str]:
  """Returns the names of all columns, in the order in which they appear."""
  return list(dict.fromkeys(name for row in rows for name in row))


def markdown(rows: Rows, names: Sequence[str] | None = None) -> str:
  """Returns a Markdown table with aligned columns, readable as plain text.

  Args:
    rows: Mappings of column names to values; the cells of missing values and
      None are empty.
    names: The columns; by default all, in the order in which they appear.
  """
  names = columns(rows) if names is None else list(names)
  cells = [[cell(row.get(name)) for name in names] for row in rows]
  numeric = [
    all(_is_number(row.get(name)) for row in rows if row.get(name) is not None)
    for name in names
  ]
  widths = [
    max(3, len(name), *(len(line[i]) for line in cells))
    for i, name in enumerate(names)
  ]

  def line(texts: Sequence[str]) -> str:
    padded = (
      text.rjust(width) if right else text.ljust(width)
      for text, width, right in zip(texts, widths, numeric, strict=True)
    )
    return f'| {" | ".join(padded)} |'

  rule = [
    '-' * (width - 1) + (':' if right else '-')
    for width, right in zip(widths, numeric, strict=True)
  ]
  return '\n'.join([line(names), line(rule), *map(line, cells)])


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def cell(value: Any) -> str:
  """Returns the text of a table cell, with floats to four digits."""
  if value is None:
    return ''
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, int):
    return f'{value:,}' if abs(value) >= 10_000 else str(value)
  if isinstance(value, float):
    if math.isfinite(value) and abs(value) >= 1000:
      return f'{value:,.0f}'
    return f'{value:.4g}'
  # A line break or a bar would end the row or the cell.
  return ' '.join(str(value).split()).replace('|', '\\|')
