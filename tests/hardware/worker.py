"""A worker of stages that fail in every way, for test_stages.py."""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / 'scripts'))

import jax
from hardware import stages


def _fail():
  raise ValueError('in two\nlines')


def _die():
  os._exit(3)


def _fault():
  raise jax.errors.JaxRuntimeError('INTERNAL: an illegal address')


def _sleep():
  time.sleep(60)
  return {}


def _task(name, measure):
  return stages.Task({'what': name}, lambda: measure)


STAGES = {
  stage.name: stage
  for stage in (
    stages.Stage('broken', 'No tasks', _fail),
    stages.Stage(
      'mixed',
      'Tasks',
      lambda: [
        stages.Task({'what': 'not compiled'}, _fail),
        _task('not measured', _fail),
        _task('wrong', lambda: {'ok': False, 'error': 'wrong'}),
        _task('not a number', lambda: {'value': float('nan')}),
        _task('right', lambda: {'value': 1.5, 'ok': True}),
      ],
    ),
    stages.Stage(
      'dead', 'A crash', lambda: [_task('crash', _die), _task('after', dict)]
    ),
    stages.Stage(
      'timed',
      'Timed',
      lambda: [_task('one', lambda: {'value': 1}), _task('two', dict)],
      is_timed=True,
      summarize=lambda rows: [f'{len(rows)} rows.'],
    ),
    stages.Stage(
      'spoiled',
      'A device that faults',
      lambda: [
        _task('fault', _fault),
        *(_task(i, lambda: {'pid': os.getpid()}) for i in range(2)),
      ],
    ),
    stages.Stage('empty', 'Nothing', lambda: []),
    stages.Stage('late', 'Too long', lambda: [_task('slow', _sleep)]),
  )
}

if __name__ == '__main__':
  stages.work(
    list(STAGES.values()), sys.argv[1].removeprefix('--worker='), only=''
  )
