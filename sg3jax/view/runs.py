"""Reads what a training run has written so far, without touching the run."""

import math
import os
import pathlib
from typing import Any

import numpy as np

from sg3jax.eval import run_files
from sg3jax.eval.plots import curves

# Bytes at the end of a log, and lines of it, that are shown.
_LOG_BYTES, _LOG_LINES = 64 * 1024, 200

# Points of a curve that are sent; a screen shows no more.
_MAX_POINTS = 600

_LOG, _OPTIONS = 'log.txt', 'training_options.json'
_CLIP, _REALS = 'equivariance.webp', 'reals.png'


def is_run(folder: pathlib.Path) -> bool:
  """Returns whether a folder is one that training writes to."""
  return any(
    (folder / name).is_file() for name in (_OPTIONS, run_files.STATS, _LOG)
  )


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the state of a run, for JSON.

  Files that are missing, or incomplete because they are being written, are left
  out.

  Args:
    folder: The run folder.

  Returns:
    `name`; `panels`, the charts; `grids`, each with the `file` and `kimg` of a
    grid of images; `reals` and `clip`, the names of files, or empty; `log`, the
    last lines; and `kimg` and `seconds`, the progress at the last tick, or
    None.
  """
  stats = folder / run_files.STATS
  panels = _attempt(lambda: curves.read_panels(stats), [])
  last = _attempt(lambda: run_files.last_tick(folder), {})
  return {
    'name': folder.name,
    'kimg': _mean(last, 'Progress/kimg'),
    'seconds': _mean(last, 'Timing/total_sec'),
    'seconds_per_kimg': _mean(last, 'Timing/sec_per_kimg'),
    'panels': [_panel(panel) for panel in panels],
    'grids': _attempt(lambda: _grids(folder), []),
    'reals': _REALS if (folder / _REALS).is_file() else '',
    'clip': _CLIP if (folder / _CLIP).is_file() else '',
    'log': _attempt(lambda: _tail(folder / _LOG), []),
  }


def find_picture(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns the path of a picture of a run; None if it is no such file.

  Args:
    folder: The run folder.
    name: Name of the picture, which may come from outside.
  """
  is_picture = name in (_CLIP, _REALS) or run_files.is_snapshot(name)
  path = folder / name
  # A link could lead out of the folder.
  if not is_picture or path.is_symlink() or not path.is_file():
    return None
  return path


def _attempt(read_part, default: Any) -> Any:
  """Returns what a function reads, or the default if it cannot be read."""
  try:
    return read_part()
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return default


def _mean(tick: dict[str, Any], name: str) -> float | None:
  value = tick.get(name, {}).get('mean')
  return value if isinstance(value, int | float) else None


def _panel(panel: curves.Panel) -> dict[str, Any]:
  return {
    'title': panel.title,
    'unit': panel.ylabel,
    'log': panel.log,
    'markers': panel.markers,
    'from_zero': panel.from_zero,
    'lines': [
      {'label': line.label, 'points': _points(line)} for line in panel.lines
    ],
  }


def _points(line: curves.Line) -> list[list[float]]:
  """Returns at most `_MAX_POINTS` finite points, with the last one.

  A point has its kimg, value and, if the chart shows it, standard deviation.
  """
  columns = [line.kimg, line.value]
  if line.std is not None:
    columns.append(line.std)
  pairs = np.stack([np.asarray(x, np.float64) for x in columns], axis=1)
  pairs = pairs[np.isfinite(pairs).all(1)]
  step = max(math.ceil(len(pairs) / _MAX_POINTS), 1)
  return pairs[::-1][::step][::-1].tolist()


def _grids(folder: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the grids of generated images, in the order of training."""
  return [
    {'file': path.name, 'kimg': kimg}
    for kimg, path in run_files.snapshots(folder)
  ]


def _tail(path: pathlib.Path) -> list[str]:
  """Returns the last lines of a text file, however long it is."""
  with open(path, 'rb') as file:
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(max(size - _LOG_BYTES, 0))
    lines = file.read().decode('utf-8', 'replace').splitlines()
  # The first of them may have been cut.
  return lines[1 if size > _LOG_BYTES else 0 :][-_LOG_LINES:]
