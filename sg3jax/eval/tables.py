"""Rows of figures as text that people read: aligned Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def columns(rows: Rows) -> list[str]:
  """Returns the names of all columns, in the order in which they appear."""
  return list(dict.fromkeys(name for row in rows for name in row))


def markdown(rows: Rows, names: Sequence[str] | None = None) -> str:
  """Returns a Markdown table whose columns are aligned, so that it reads as is.

  Args:
    rows: Mappings of column names to values; what is missing or None is empty.
    names: The columns; by default all, in the order of their appearance.
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
  """Returns a value as a table shows it: numbers to four digits."""
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
