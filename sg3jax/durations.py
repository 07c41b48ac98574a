"""Durations as people read them."""


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
