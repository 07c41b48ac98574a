"""Which of a run's checkpoints is the best one, and what was measured of each.

Each checkpoint has the values of all metrics of its snapshot, with the metric
that the run keeps its best one by and that metric's direction. A reader thus
finds the best one without knowing any metric, and a run that is resumed may
choose by another metric than before.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

# Name of the part of a checkpoint that holds a `Measured`.
PART = 'measured'

# Older checkpoints hold one value alone, without a direction, which follows
# from the letters that the name begins with. Newer ones need no such table.
_OLD_LOWER = ('swd', 'fid', 'kid', 'ppl')
_OLD_HIGHER = ('eqt', 'eqr', 'is', 'pr', 'precision', 'recall')


@dataclasses.dataclass(frozen=True)
class Best:
  """The metric by which the best checkpoint is chosen.

  Attributes:
    name: Name of the metric, as in `metric-NAME.jsonl`.
    higher_is_better: Whether the checkpoint with the highest value is the best.
  """

  name: str
  higher_is_better: bool


@dataclasses.dataclass(frozen=True)
class Measured:
  """What was measured of the state in one checkpoint.

  Attributes:
    values: Finite values by the name of the metric; empty if nothing was
      measured.
    best: The metric that the run chose its best checkpoint by at that time;
      None if by none.
  """

  values: Mapping[str, float] = dataclasses.field(default_factory=dict)
  best: Best | None = None

  def to_json(self) -> dict[str, Any]:
    """Returns the record that a checkpoint holds."""
    best = None if self.best is None else dataclasses.asdict(self.best)
    return {'values': dict(self.values), 'best': best}


def measure(values: Mapping[str, float] | None, best: Best | None) -> Measured:
  """Returns what to store of a snapshot; values that are not finite are left.

  Args:
    values: Values of all metrics by name, if any was measured.
    best: The metric that the run chooses by.
  """
  finite = {
    name: float(value)
    for name, value in (values or {}).items()
    if math.isfinite(value)
  }
  return Measured(finite, best)


def read(folder: pathlib.Path) -> Measured:
  """Returns what was measured of the checkpoint in a folder.

  Args:
    folder: `RUN/checkpoints/STEP`.

  Raises:
    ValueError: If the record is damaged.
    OSError: If the record is there, but cannot be read now.
  """
  for path, parse in (
    (folder / PART / 'metadata', _parse),
    (folder / 'metrics' / 'metrics', _parse_old),
  ):
    try:
      record = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
      continue
    except ValueError as error:
      raise ValueError(f'{path} is not valid JSON ({error})') from error
    try:
      return parse(record)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
      raise ValueError(f'{path} holds no values of metrics') from error
  return Measured()


def best_step(
  measured: Mapping[int, Measured], best: Best | None = None
) -> int | None:
  """Returns the step of the best checkpoint, None if none has a value.

  Only values of one metric are compared. Of equal ones the newest is the best.

  Args:
    measured: What was measured of each checkpoint, by step.
    best: The metric to choose by; by default that of the newest checkpoint
      which names one.
  """
  named = [measured[step].best for step in sorted(measured)]
  best = best or next(filter(None, reversed(named)), None)
  if best is None:
    return None
  sign = 1 if best.higher_is_better else -1
  ranks = {
    step: (sign * found.values[best.name], step)
    for step, found in measured.items()
    if best.name in found.values
  }
  return max(ranks, key=ranks.__getitem__, default=None)


def _parse(record: Any) -> Measured:
  best = None if record['best'] is None else Best(**record['best'])
  values = {name: float(value) for name, value in record['values'].items()}
  return Measured(values, best)


def _parse_old(record: Any) -> Measured:
  ((name, value),) = record.items()
  return Measured({name: float(value)}, old_best(name))


def old_best(name: str) -> Best:
  """Returns the metric and direction that older checkpoints were chosen by.

  Args:
    name: Name of the metric: swd, fid50k_full, eqt50k_int and so on.

  Raises:
    ValueError: If there was no such metric.
  """
  match = re.match('[a-z]+', name)
  kind = match[0] if match else name
  if kind not in _OLD_LOWER + _OLD_HIGHER:
    raise ValueError(
      'config.log.keep_best must be the name of a metric that begins with '
      f'{", ".join(_OLD_LOWER + _OLD_HIGHER)}, got {name!r}'
    )
  return Best(name, kind in _OLD_HIGHER)
