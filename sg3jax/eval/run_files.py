"""Finds what a run has written so far, for pages that show it."""

import pathlib
import re
from typing import Any

from sg3jax import files

STATS = 'stats.jsonl'
FIRST = 'fakes_init.png'
_SNAPSHOT = re.compile(r'fakes(?:_init|(\d{6,9}))\.png')


def is_snapshot(name: str) -> bool:
  """Returns whether a file's name is that of a grid of generated images."""
  return _SNAPSHOT.fullmatch(name) is not None


def snapshots(run: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
  """Returns the grids of generated images in the order of training.

  Args:
    run: The run folder.

  Returns:
    The kimg and the file of each grid. The grid of before training is first.

  Raises:
    OSError: If the folder cannot be read.
  """
  found = [
    (int(match[1] or 0), path)
    for path in run.iterdir()
    if (match := _SNAPSHOT.fullmatch(path.name))
  ]
  # A short run also rounds a trained snapshot to 0 kimg.
  return sorted(found, key=lambda item: (item[0], item[1].name != FIRST))


def last_tick(run: pathlib.Path) -> dict[str, Any]:
  """Returns the statistics of the last tick, by name; empty before the first.

  Args:
    run: The run folder.

  Raises:
    OSError: If the file cannot be read.
  """
  path = run / STATS
  if not path.exists():
    return {}
  ticks = [x for x in files.read_json_lines(path) if 'Progress/kimg' in x]
  return ticks[-1] if ticks else {}
