"""A trained point reports its metrics."""

import json

from sg3jax.sweeps import training


def _write(path, *lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_values_are_those_of_the_last_snapshot_alone(tmp_path):
  assert training.last_values(tmp_path) == {}
  _write(
    tmp_path / 'stats.jsonl',
    {'Progress/kimg': {'mean': 1.0}},
    {'Progress/kimg': {'mean': 2.0}, 'Timing/sec_per_kimg': {'mean': 9.0}},
  )
  _write(
    tmp_path / 'metric-swd.jsonl',
    {'kimg': 1.0, 'results': {'swd': 100.0}},
    {'kimg': 2.0, 'results': {'swd': 50.0}},
  )
  # Its evaluation of the last snapshot has failed.
  _write(tmp_path / 'metric-x.jsonl', {'kimg': 1.0, 'results': {'x': 3.0}})
  values = training.last_values(tmp_path)
  assert values == {'kimg': 2.0, 'sec_per_kimg': 9.0, 'swd': 50.0}
