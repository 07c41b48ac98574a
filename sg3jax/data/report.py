"""Formats names of files and classes for logs and messages."""

from collections.abc import Iterable


def printable(name: str) -> str:
  """Returns a name with escapes for characters that would break a log line.

  These are line breaks, and bytes of file names that are not UTF-8.
  """
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in name
  )


def examples(names: Iterable[str], most: int = 3) -> str:
  """Returns the first names and the number of the remaining ones."""
  names = list(names)
  shown = ', '.join(map(printable, names[:most]))
  rest = len(names) - most
  return f'{shown} and {rest:,} more' if rest > 0 else shown


def count(number: int, noun: str) -> str:
  """Returns a number with its noun: `1 image`, `2,000 images`."""
  if number == 1:
    return f'1 {noun}'
  plural = f'{noun}es' if noun.endswith('s') else f'{noun}s'
  return f'{number:,} {plural}'
