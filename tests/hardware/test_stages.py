"""Stages that fail are recorded, and the next ones run."""

import json
import pathlib
import sys
import threading
import time

import pytest
import worker
from hardware import stages

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
  """Runs stages by name; returns how many failed, and their records."""

  def call(*names, seconds=120, processes=1):
    results = stages.Results(tmp_path, {'date': '2026-11-27', 'command': 'x'})
    failures = stages.run(
      [worker.STAGES[name] for name in names],
      results,
      [sys.executable, worker.__file__],
      seconds=seconds,
      processes=processes,
    )
    sessions = json.loads((tmp_path / 'results.json').read_text())['sessions']
    return failures, sessions[-1]['stages']

  return call


def test_failures_are_recorded_and_the_next_stage_runs(run, tmp_path):
  failures, record = run('broken', 'mixed', 'dead', 'timed')
  assert failures == 1 + 3 + 1
  (row,) = record['broken']['rows']
  assert row['error'] == 'ValueError: in two'
  assert 'Traceback' in row['traceback']
  rows = {row['what']: row for row in record['mixed']['rows']}
  assert rows['not compiled']['error'] == 'ValueError: in two'
  assert rows['not measured']['error'] == 'ValueError: in two'
  assert rows['wrong']['ok'] is False
  assert rows['not a number']['value'] is None
  assert rows['right'] == {'what': 'right', 'value': 1.5, 'ok': True}
  crash, after = record['dead']['rows']
  assert crash['what'] == 'crash'
  assert 'ended with status 3' in crash['error']
  assert after == {'what': 'after'}
  assert [row['what'] for row in record['timed']['rows']] == ['one', 'two']
  page = (tmp_path / 'results.md').read_text()
  for text in ('## No tasks', 'ended with status 3', 'right', '2 rows.'):
    assert text in page
  assert 'Traceback' not in page


def test_several_workers_share_the_tasks(run):
  failures, record = run('mixed', 'timed', processes=2)
  assert failures == 3
  assert len(record['mixed']['rows']) == 5
  # Compiled by two, measured by one, and recorded once.
  assert len(record['timed']['rows']) == 2


def test_the_time_ends_a_stage(run):
  start = time.monotonic()
  failures, record = run('late', 'timed', seconds=8)
  assert time.monotonic() - start < 40
  assert failures == 2
  assert record['late']['error'] == 'the time was up'
  assert record['timed']['error'] == 'the time was up before the stage started'


def test_a_killed_worker_is_not_restarted():
  # It would share the device with the next stage.
  alone = stages.Worker(
    [sys.executable, worker.__file__],
    'late:0/1:run:0',
    is_alone=True,
    is_tuned=True,
  )
  rows = []
  thread = threading.Thread(target=lambda: rows.extend(alone.rows()))
  thread.start()
  while alone.task is None:
    time.sleep(0.1)
  alone.kill()
  thread.join(60)
  assert not thread.is_alive()
  assert not rows


def test_a_spoiled_device_gets_another_process(run):
  failures, record = run('spoiled')
  assert failures == 1
  spoiled, first, second = record['spoiled']['rows']
  assert 'JaxRuntimeError' in spoiled['error']
  assert first['pid'] == second['pid']


def test_a_stage_without_tasks_has_failed(run):
  failures, record = run('empty')
  assert failures == 1
  assert 'must have tasks' in record['empty']['error']


def test_sessions_of_one_folder_are_kept(run, tmp_path):
  run('timed')
  run('timed')
  sessions = json.loads((tmp_path / 'results.json').read_text())['sessions']
  assert len(sessions) == 2
  assert pathlib.Path(tmp_path / 'results.md').exists()
