"""Result lines: what they hold and that anyone can read them."""

import importlib.metadata
import json
import math
import time

import jax

import sg3jax
from sg3jax.eval import results


def _result(**options):
  options = {'num_samples': 64, 'seed': 3, 'total_time': 75.4} | options
  return results.make_result('eqr50k', {'eqr50k': 47.5}, **options)


def test_a_result_says_how_it_came_about():
  before = time.time()
  result = _result(snapshot='network-snapshot-000200')
  assert before <= result.pop('timestamp') <= time.time()
  assert result == {
    'results': {'eqr50k': 47.5},
    'metric': 'eqr50k',
    'num_samples': 64,
    'seed': 3,
    'total_time': 75.4,
    'total_time_str': '1m 15s',
    'num_gpus': 4,
    'snapshot_pkl': 'network-snapshot-000200',
    'device': {'platform': 'cpu', 'kind': 'cpu', 'count': 4},
    'versions': {
      'sg3jax': sg3jax.__version__,
      'jax': jax.__version__,
      'jaxlib': importlib.metadata.version('jaxlib'),
      'flax': importlib.metadata.version('flax'),
    },
  }


def test_devices_that_took_part():
  result = _result(devices=jax.devices()[:2])
  assert result['num_gpus'] == result['device']['count'] == 2


def test_lines_are_appended(tmp_path):
  folder = tmp_path / 'run'
  written = [_result(seed=seed) for seed in (0, 1)]
  for result in written:
    path = results.append_result(folder, result)
  assert path == folder / 'metric-eqr50k.jsonl'
  lines = path.read_text().splitlines()
  assert [json.loads(line) for line in lines] == written


def test_any_json_reader_takes_odd_values(tmp_path):
  values = {'infinite': math.inf, 'nan': math.nan, 'finite': 0.5}
  result = results.make_result(
    'odd', values, num_samples=1, seed=0, total_time=0.1
  )
  path = results.append_result(tmp_path, result)

  def refuse(constant):
    raise AssertionError(constant)

  line = json.loads(path.read_text(), parse_constant=refuse)
  assert line['results'] == {'infinite': None, 'nan': None, 'finite': 0.5}
