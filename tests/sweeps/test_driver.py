"""The right points run, are recorded, and make the table."""

import csv
import json
import sys

import pytest
import sweep_files
from PIL import Image

from sg3jax.eval.metrics import base
from sg3jax.sweeps import driver, points, report, runner, store
from sg3jax.train import preemption

_FIELD = 'model.synthesis.filter_size'


def _driver(folder, text=f'[axes]\n{_FIELD} = [4, 6, 8]', mode='analyse'):
  sweep = points.read(sweep_files.write(folder, text))
  options = {'metrics': ['eqt'], 'samples': 4}
  work = driver.Driver(
    sweep, store.Store(folder / mode), mode=mode, options=options
  )
  return work


@pytest.fixture
def ray(monkeypatch):
  """Runs jobs at once and here; `ray.outcomes` says how some end."""

  class Fake:
    def __init__(self):
      self.outcomes, self.ran, self.stop_after = {}, [], None

    def run(self, jobs, resources, report, *, stop, patient):
      del resources, patient
      self.ran = []
      for job in jobs:
        if len(self.ran) == self.stop_after:
          stop.obeyed = True
          return
        self.ran.append(job.name)
        value = {'size': job.arguments['config'].model.synthesis.filter_size}
        outcome = runner.Outcome(value, seconds=1.5, host='here', device='cpu')
        report(job, self.outcomes.get(job.name, outcome))

  fake = Fake()
  monkeypatch.setattr(runner, 'run', fake.run)
  return fake


def _go(work, **selection):
  todo = work.select(**selection)
  work.run(todo, runner.Resources(), preemption.Stop())
  return {row['point']: row for row in work.rows()}


_FAILURE = runner.Outcome(error='ValueError: no', traceback='Traceback: here')


def test_finished_points_are_not_run_again(tmp_path, ray):
  ray.stop_after = 1
  rows = _go(_driver(tmp_path))
  assert [row['status'] for row in rows.values()] == [
    'done', 'unfinished', 'unfinished',
  ]  # fmt: skip
  ray.stop_after = None
  rows = _go(_driver(tmp_path))
  assert ray.ran == ['filter_size=6', 'filter_size=8']
  assert [row['size'] for row in rows.values()] == [4, 6, 8]
  _go(_driver(tmp_path))
  assert ray.ran == []
  record = store.Store(tmp_path / 'analyse').read('filter_size=8')
  assert record['values'] == {_FIELD: 8}
  assert record['config']['model']['synthesis']['filter_size'] == 8
  assert (record['host'], record['seconds']) == ('here', 1.5)
  assert set(record['versions']) == {'sg3jax', 'jax', 'python'}


_CONFIG = """
from sg3jax.eval.metrics import base
from sg3jax.train import config as config_lib

@base.register('hue', title='Hue', unit='', higher_is_better=True)
def measure(context):
  return base.Measurement({'hue': SHIFT}, 1)

SHIFT = 3.0
get_config = config_lib.default_config
"""


@pytest.mark.parametrize('mode', driver.MODES)
def test_a_worker_knows_the_metrics_of_a_configuration_file(tmp_path, mode):
  cloudpickle = pytest.importorskip('ray.cloudpickle')
  (tmp_path / 'mine.py').write_text(_CONFIG)
  (tmp_path / 'sweep.toml').write_text(
    "config = 'mine.py'\n[axes]\nseed = [0]\n[base]\nlog.metrics = ['hue']\n"
  )
  sweep = points.read(tmp_path / 'sweep.toml')
  work = driver.Driver(
    sweep, store.Store(tmp_path / mode), mode=mode, options={'metrics': ['hue']}
  )
  sent = cloudpickle.dumps(work._job(sweep.points[0]).function)
  base.unregister('hue')
  received = cloudpickle.loads(sent)
  metrics, function = received.args
  assert function.__name__ == mode
  try:
    values = received.func(
      metrics, lambda: dict(base.registry()['hue'].measure(None).values)
    )
    assert values == {'hue': 3.0}
  finally:
    base.unregister('hue')


def test_failed_points_wait_until_asked_for(tmp_path, ray):
  ray.outcomes = {'filter_size=6': _FAILURE}
  rows = _go(_driver(tmp_path))
  assert [row['status'] for row in rows.values()] == ['done', 'failed', 'done']
  assert rows['filter_size=6']['error'] == 'ValueError: no'
  trace = tmp_path / 'analyse' / 'errors' / 'filter_size=6.txt'
  assert trace.read_text() == 'Traceback: here'
  ray.outcomes = {}
  _go(_driver(tmp_path))
  assert ray.ran == []
  rows = _go(_driver(tmp_path), retry_failed=True)
  assert ray.ran == ['filter_size=6']
  assert rows['filter_size=6']['error'] is None
  assert not trace.exists()


def test_single_points(tmp_path, ray):
  ray.outcomes = {'filter_size=6': _FAILURE}
  _go(_driver(tmp_path), only=['*=6'])
  assert ray.ran == ['filter_size=6']
  _go(_driver(tmp_path), only=['filter_size=6', 'filter_size=4'])
  assert ray.ran == ['filter_size=4', 'filter_size=6']  # A failure again.
  _go(_driver(tmp_path), only=['filter_size=4'])
  assert ray.ran == []
  _go(_driver(tmp_path), only=['filter_size=4'], rerun=True)
  assert ray.ran == ['filter_size=4']
  with pytest.raises(
    ValueError, match=r'--only must match .* got 7: use .*filter_size=4'
  ):
    _driver(tmp_path).select(only=['7'])


def test_changed_points_are_refused_or_run_again_and_kept(tmp_path, ray):
  _go(_driver(tmp_path))
  changed = f'[axes]\n{_FIELD} = [4, 6]\n[base]\nmodel.synthesis.margin = 8'
  with pytest.raises(
    ValueError, match=r'(?s)2 point.*margin: 10 -> 8'
  ) as caught:
    _driver(tmp_path, changed).select()
  assert '--rerun_changed' in str(caught.value)
  statuses = [row['status'] for row in _driver(tmp_path, changed).rows()]
  assert statuses == ['changed', 'changed']
  rows = _go(_driver(tmp_path, changed), rerun_changed=True)
  assert ray.ran == ['filter_size=4', 'filter_size=6']
  assert [row['status'] for row in rows.values()] == ['done', 'done']
  old = tmp_path / 'analyse' / 'results' / 'filter_size=4.json~1'
  assert json.loads(old.read_text())['config']['model']['synthesis'][
    'margin'
  ] == 10  # fmt: skip
  # Back again: nothing is lost this time either.
  _go(_driver(tmp_path), rerun_changed=True)
  assert old.with_name('filter_size=4.json~2').exists()


def test_a_longer_training_goes_on_in_its_folder(tmp_path, ray):
  axes = f'[axes]\n{_FIELD} = [4]\n'
  _go(_driver(tmp_path, axes, 'train'))
  run = tmp_path / 'train' / 'runs' / 'filter_size=4'
  run.mkdir(parents=True)
  longer = f'{axes}[base]\ntrain.total_kimg = 1\n'
  _go(_driver(tmp_path, longer, 'train'), rerun_changed=True)
  assert ray.ran == ['filter_size=4']
  assert run.exists()
  other = f'{longer}train.batch = 4\n'
  _go(_driver(tmp_path, other, 'train'), rerun_changed=True)
  # A name that no point can have, as `filter_size=4.1` could be.
  assert run.with_name('filter_size=4~2').exists()
  assert not run.exists()


def test_options_of_an_analysis_are_part_of_it(tmp_path, ray):
  work = _driver(tmp_path)
  _go(work)
  more = driver.Driver(
    work.sweep, work.store, mode='analyse', options={'samples': 400}
  )
  with pytest.raises(ValueError, match=r'options\.samples: 4 -> 400'):
    more.select()


def test_invalid_points_are_in_the_table(tmp_path, ray):
  rows = _go(_driver(tmp_path, f"[axes]\n{_FIELD} = [4, 'six']"))
  assert ray.ran == ['filter_size=4']
  assert rows['filter_size=six']['status'] == 'invalid'
  assert "must be an integer, got 'six'" in rows['filter_size=six']['error']


def test_two_drivers_do_not_share_a_folder(tmp_path):
  first, second = (store.Store(tmp_path) for _ in range(2))
  first.lock()
  with pytest.raises(ValueError, match='another process is running the sweep'):
    second.lock()


def test_a_damaged_record_is_named(tmp_path, ray):
  _go(_driver(tmp_path))
  path = tmp_path / 'analyse' / 'results' / 'filter_size=4.json'
  path.write_text('{"status"')
  with pytest.raises(ValueError, match=r'filter_size=4\.json must be a valid'):
    _driver(tmp_path).select()


def test_the_table_and_the_plots(tmp_path):
  rows = [
    {'point': f'{n}-{kind}--seed={seed}', 'filter_size': n, 'seed': seed,
     'kind': kind, 'status': 'done', 'eqt_db': 10.0 * n + seed, 'same': 1,
     'none': None, 'seconds': 1.0, 'error': None}
    for n in (4, 6) for seed in (0, 1) for kind in ('a', 'b')
  ]  # fmt: skip
  rows.append({'point': 'x', 'filter_size': 8, 'seed': 0, 'kind': 'a',
               'status': 'failed', 'error': 'one, "two"'})  # fmt: skip
  folder = store.Store(tmp_path)
  paths = report.write(rows, ['filter_size', 'seed', 'kind'], folder)
  assert [path.name for path in paths] == [
    'table.csv', 'table.json', 'table.md', 'seeds.md', 'plot-filter_size.png',
    'plot-kind.png',
  ]  # fmt: skip
  with (tmp_path / 'table.csv').open() as file:
    table = list(csv.DictReader(file))
  assert table[0]['eqt_db'] == '40.0'
  assert (table[-1]['error'], table[-1]['eqt_db']) == ('one, "two"', '')
  loaded = json.loads((tmp_path / 'table.json').read_text())
  assert loaded[-1]['eqt_db'] is None
  assert (tmp_path / 'table.md').read_text().count('\n') == len(rows) + 2
  assert (
    '| 6-b   |     2 | 60.5 ± 0.71 |' in (tmp_path / 'seeds.md').read_text()
  )
  for path in paths[4:]:
    with Image.open(path) as image:
      assert image.width > 300


def test_lines_join_what_differs_in_one_field_alone():
  rows = [
    {'n': n, 'm': m, 'figure': n * m}
    for n, m in ((6, 2), (4, 2), (8, 2), (6, 1), (6, 4))
  ]
  groups = report._groups(rows, 'n', ['n', 'm'])
  assert {k: [r['n'] for r in v] for k, v in groups.items()} == {
    'm = 2': [6, 4, 8]
  }
  assert report._plottable(rows, ['n', 'm']) == ['figure']


def test_configurations_are_labelled_by_what_they_do_not_share():
  configs = ['ladder:B,batch=8', 'ladder:T-ideal,batch=8']
  rows = [{'config': config} for config in configs]
  assert report._positions(rows, 'config')[1] == ['B', 'T-ideal']
  rows = [{'config': 'a.py'}, {'config': 'b.py:1'}]
  assert report._positions(rows, 'config')[1] == ['a.py', 'b.py,1']


def test_without_ray_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(ImportError, match=r"pip install 'sg3jax\[sweep\]'"):
    runner.import_ray()


def test_a_worker_passes_on_all_arguments_of_its_function():
  given = {'config': None, 'metrics': ['eqt'], 'function': 3}
  assert driver._call_with([], lambda **arguments: arguments, **given) == given
