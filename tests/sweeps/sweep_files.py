"""Sweep files of the smallest networks, for tests."""

import pathlib

TINY = pathlib.Path(__file__).parents[1] / 'cli' / 'tiny_run.py'


def write(folder, text, config=TINY):
  """Writes a sweep file below `folder` and returns its path."""
  path = folder / 'sweep.toml'
  path.write_text(f"config = '{config}'\n{text}")
  return path
