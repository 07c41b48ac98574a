"""Records the metrics of checkpoints and chooses the best checkpoint of a run.

Each checkpoint stores the values of all metrics of its snapshot, the metric
by which the run keeps its best checkpoint, and that metric's direction. A
reader can thus find the best one without knowing any metric, and a resumed run
may choose by a different metric than before.
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

# Older checkpoints hold a single value without a direction. The direction
# follows from the prefix of the name. Newer checkpoints need no such table.
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
  """The metrics measured on the state in one checkpoint.

  Attributes:
    values: Finite values by the name of the metric; empty if nothing was
      measured.
    best: The metric by which the run chose its best checkpoint at that time;
      None if it did not choose one.
  """

  values: Mapping[str, float] = dataclasses.field(default_factory=dict)
  best: Best | None = None

  def to_json(self) -> dict[str, Any]:
    """Returns the record to store in a checkpoint."""
    best = None if self.best is None else dataclasses.asdict(self.best)
    return {'values': dict(self.values), 'best': best}


def measure(values: Mapping[str, float] | None, best: Best | None) -> Measured:
  """Returns what to store of a snapshot, without values that are not finite.

  Args:
    values: Values of all metrics by name; None if none was measured.
    best: The metric by which the run chooses; None for no choice.
  """
  finite = {
    name: float(value)
    for name, value in (values or {}).items()
    if math.isfinite(value)
  }
  return Measured(finite, best)


def read(folder: pathlib.Path) -> Measured:
  """Returns what was measured on the checkpoint in a folder.

  Args:
    folder: `RUN/checkpoints/STEP`.

  Raises:
    ValueError: If the record is damaged.
    OSError: If the record exists, but cannot be read now.
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
  """Returns the step of the best checkpoint, or None if none has a value.

  Only values of one metric are compared. Among equal values, the newest wins.

  Args:
    measured: Measurements of each checkpoint, by step.
    best: The metric to choose by; by default the one that the newest
      checkpoint with such a record names.
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
  """Returns the metric and direction by which older checkpoints were chosen.

  Args:
    name: Name of the metric: swd, fid50k_full, eqt50k_int and so on.

  Raises:
    ValueError: If no such metric existed.
  """
  match = re.match('[a-z]+', name)
  kind = match[0] if match else name
  if kind not in _OLD_LOWER + _OLD_HIGHER:
    raise ValueError(
      'log.keep_best must be the name of a metric that begins with '
      f'{", ".join(_OLD_LOWER + _OLD_HIGHER)}, got {name!r}'
    )
  return Best(name, kind in _OLD_HIGHER)
