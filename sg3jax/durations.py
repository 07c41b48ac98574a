"""Durations as people read them, and lines that say how long something took."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar('_T')


def format_duration(seconds: float | int) -> str:
  """Returns a duration in words: `45s`, `1m 20s`, `2h 03m 20s`.

  From a day on the seconds are dropped: `1d 02h 03m`. Fractions of a second are
  rounded; a negative duration reads `0s`.
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


def announce_first_call(
  function: Callable[..., _T],
  log: Callable[[str], None],
  what: str,
  done: str = 'Compiled:',
) -> Callable[..., _T]:
  """Returns a function whose first call logs that it compiles, and how long.

  Jitted functions compile in their first call, for a minute or more, in which
  nothing else would be seen of them; they return before the devices are done.

  Args:
    function: The function.
    log: Takes a line of text.
    what: What is compiled.
    done: What the second line begins with.
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
