"""Decides whether a run's metric has stopped improving.

The decision rests on the run's files `metric-NAME.jsonl`, not on memory, so a
resumed run decides as an undisturbed one does.
"""

import math
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from sg3jax import files
from sg3jax.train import schedule
from sg3jax.train.checkpoint import ranking


class Plateau:
  """Ends a run whose metric has not improved for a while.

  Args:
    workdir: The run folder.
    best: The metric, and its direction.
    kimg: Thousands of images without a better value after which the run ends;
      None for a run that goes on to its end.

  Raises:
    ValueError: If there is no metric to watch.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    best: ranking.Best | None,
    kimg: float | int | None,
  ):
    if kimg is not None and best is None:
      raise ValueError(
        'log.keep_best must name the value that train.plateau_kimg watches, '
        'got none: set it, or leave train.plateau_kimg unset'
      )
    self._workdir = workdir
    self._best = best
    self._kimg = kimg

  def reached(self) -> str:
    """Returns why the run ends, or an empty string if it goes on.

    Only the values that the run itself measured count, and only those that are
    finite. An equal value is no improvement. Call it on all hosts.
    """
    if self._kimg is None or self._best is None:
      return ''
    values = self._values(self._best.name)
    sign = 1 if self._best.higher_is_better else -1
    # The first one among equals.
    at = max(values, key=lambda kimg: (sign * values[kimg], -kimg), default=0.0)
    since = round(1000 * (max(values, default=0.0) - at))
    is_over = since >= schedule.images(self._kimg)
    if jax.process_count() > 1:  # Only the first process writes the files.
      found = multihost_utils.broadcast_one_to_all(np.array(is_over))
      is_over = bool(found)
    if not is_over:
      return ''
    value = f' {values[at]:.4g} at {at:g} kimg' if at in values else ''
    return (
      f'{self._best.name} has not improved on{value} for {self._kimg:g} kimg '
      '(train.plateau_kimg)'
    )

  def _values(self, name: str) -> dict[float, float]:
    """Returns the values of a metric by thousands of images shown."""
    values: dict[float, float] = {}
    for path in sorted(self._workdir.glob('metric-*.jsonl')):
      for record in files.read_json_lines(path):
        try:
          value, kimg = record['results'][name], record['kimg']
        except (KeyError, TypeError):
          continue  # It is of another metric.
        # The run's own value comes first; `evaluate` may have added others.
        if kimg is not None:
          values.setdefault(float(kimg), math.nan if value is None else value)
    return {kimg: x for kimg, x in values.items() if math.isfinite(x)}
