"""What pages find in the folder of a run."""

import json

from sg3jax.eval import run_files
from sg3jax.view import runs


def test_snapshots_are_in_the_order_of_training(tmp_path):
  for name in ('fakes000003', 'fakes_init', 'fakes000000', 'fakes1000000'):
    (tmp_path / f'{name}.png').touch()
  for name in ('fakes12.png', 'fakes000003.png.part', 'reals.png'):
    (tmp_path / name).touch()
  # A short run rounds a trained snapshot to 0 kimg.
  expected = [
    (0, 'fakes_init.png'),
    (0, 'fakes000000.png'),
    (3, 'fakes000003.png'),
    (1_000_000, 'fakes1000000.png'),
  ]
  found = [(kimg, path.name) for kimg, path in run_files.snapshots(tmp_path)]
  assert found == expected
  shown = runs.read(tmp_path)['grids']
  assert [(grid['kimg'], grid['file']) for grid in shown] == expected


def test_the_last_whole_tick_counts(tmp_path):
  assert run_files.last_tick(tmp_path) == {}
  ticks = [{'Progress/kimg': {'mean': k}} for k in (1.0, 2.0)]
  lines = [*map(json.dumps, ticks), '{"other": 1}', '{"Progress/kimg": {"me']
  (tmp_path / 'stats.jsonl').write_text('\n'.join(lines))
  assert run_files.last_tick(tmp_path) == ticks[1]
