"""Which of a run's checkpoints is the best one."""

import dataclasses
import math
import re
from collections.abc import Mapping

# By the letters that a figure's name begins with.
_LOWER = ('swd', 'fid', 'kid', 'ppl')
_HIGHER = ('eqt', 'eqr', 'is', 'pr', 'precision', 'recall')


@dataclasses.dataclass(frozen=True)
class Best:
  """The metric by which the best checkpoint is chosen.

  Attributes:
    name: Name of the metric, as in `metric-NAME.jsonl`.
    higher_is_better: Whether the checkpoint with the highest value is the best.
  """

  name: str
  higher_is_better: bool


def rank(name: str, value: float | int) -> float:
  """Returns a figure with the sign that makes the best one the highest.

  Args:
    name: As in `metric-NAME.jsonl`: swd, fid50k_full, eqt50k_int and so on.
    value: The figure.

  Raises:
    ValueError: If it is not known whether more of it is better.
  """
  match = re.match('[a-z]+', name)
  kind = match[0] if match else name
  if kind not in _LOWER + _HIGHER:
    raise ValueError(
      f'config.log.keep_best is {name!r}: use the name of a figure that begins '
      f'with {", ".join(_LOWER + _HIGHER)}, as in metric-NAME.jsonl'
    )
  return float(-value if kind in _LOWER else value)


def select(figures: Mapping[str, float], name: str) -> dict[str, float] | None:
  """Returns the figure of that name alone; None if there is none, or no number.

  Args:
    figures: Those of a snapshot.
    name: The one to choose checkpoints by.
  """
  value = figures.get(name, math.nan)
  return {name: float(value)} if math.isfinite(value) else None
