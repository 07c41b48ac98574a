"""Runs of several processes: their numbers, and what happens if one fails."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from sg3jax.train.checkpoint import reader
from sg3jax.trees import flatten

pytestmark = pytest.mark.slow

# How often a run is killed by the test that takes minutes for it.
_KILLS = int(os.environ.get('SG3JAX_KILLS', '10'))

_SCRIPT = pathlib.Path(__file__).parent / 'run_hosts.py'


def start(workdir, number, *, kimg, layout='replicated', kill=()):
  """Starts all processes of a run with four devices.

  Args:
    workdir: The run folder.
    number: Number of processes.
    kimg: Length of the run.
    layout: Where the state is stored.
    kill: A process, the fault that befalls it (see run_hosts.py), and after
      which step.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  victim, *strike = kill or (None,)
  return [
    subprocess.Popen(
      [
        sys.executable,
        _SCRIPT,
        *map(str, (workdir, address, number, i, kimg, layout)),
        *(map(str, strike) if i == victim else ()),
      ],
      env=os.environ
      | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(4 // number)},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(number)
  ]


def finish(processes, timeout=400):
  """Returns the exit statuses, and what the processes wrote to stderr."""
  errors = [process.communicate(timeout=timeout)[1] for process in processes]
  return [process.returncode for process in processes], errors


def losses(workdir):
  """Returns the losses of all ticks by name, [tick]."""
  lines = (workdir / 'stats.jsonl').read_text().splitlines()
  ticks = [json.loads(line) for line in lines]
  names = sorted(name for name in ticks[-1] if name.startswith('Loss/'))
  return {name: [tick[name]['mean'] for tick in ticks] for name in names}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of one process, without an interruption."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  statuses, errors = finish(start(workdir, 1, kimg=0.064))
  assert statuses == [0], errors
  return workdir


def test_runs_pass_between_processes_and_layouts(whole, tmp_path):
  workdir = tmp_path / 'run'
  # Two processes begin; one goes on from their checkpoint.
  statuses, errors = finish(start(workdir, 2, kimg=0.032, layout='fsdp'))
  assert statuses == [0, 0], errors
  # Each tick has a table with a line for each process.
  log = (workdir / 'log.txt').read_text()
  ticks = len(re.findall('^tick', log, re.MULTILINE))
  assert log.count('waits for devices') == ticks == 2
  for process in range(2):
    assert len(re.findall(rf'^\| {process} +\| ', log, re.MULTILINE)) == 2
  statuses, errors = finish(start(workdir, 1, kimg=0.064))
  assert statuses == [0], errors
  # Alone there is nobody to compare with.
  log = (workdir / 'log.txt').read_text()
  assert log.count('waits for devices') == 2
  wanted, found = losses(whole), losses(workdir)
  assert wanted.keys() == found.keys()
  for name, values in wanted.items():
    assert len(values) == 4
    np.testing.assert_allclose(
      found[name], values, rtol=1e-5, atol=1e-5, err_msg=name
    )


@pytest.mark.parametrize(
  'number',
  [
    # The other process is told at once, and then waits for the name, too.
    pytest.param(signal.SIGKILL, marks=pytest.mark.exhaustive),
    signal.SIGSTOP,
  ],
)
def test_a_process_that_ends_or_stops_ends_the_run(number, tmp_path):
  kill = (1, number.name, 3)
  first, second = start(tmp_path / 'run', 2, kimg=1, kill=kill)
  begin = time.monotonic()
  try:
    (status,), (error,) = finish([first], timeout=200)
  finally:
    second.kill()
    second.communicate()
  assert status == 75, error
  assert 'process 1 (' in error
  assert 'has not answered for' in error
  assert time.monotonic() - begin < 150


@pytest.mark.exhaustive
def test_kills_at_random_times_change_nothing(tmp_path):
  kimg, folders = 0.064 * _KILLS, [tmp_path / 'whole', tmp_path / 'killed']
  pair = start(folders[0], 2, kimg=kimg)
  begin = time.monotonic()
  while not (folders[0] / 'stats.jsonl').exists():
    time.sleep(0.1)
  start_sec = time.monotonic() - begin
  statuses, errors = finish(pair)
  assert statuses == [0, 0], errors
  train_sec = time.monotonic() - begin - start_sec
  random = np.random.RandomState(int(time.time()))
  for i in range(_KILLS):
    pair = start(folders[1], 2, kimg=kimg)
    # Before the processes have joined, the other one would wait for minutes.
    time.sleep(start_sec + random.uniform(-2, train_sec / _KILLS))
    pair[i % 2].kill()
    statuses, errors = finish(pair)
    # The other one notices, unless both were at their ends. JAX itself aborts
    # it if process 0 has ended, which coordinates.
    others = {0, 75, -signal.SIGABRT} if i % 2 == 0 else {0, 75}
    assert statuses[1 - i % 2] in others, errors
  statuses, errors = finish(start(folders[1], 2, kimg=kimg))
  assert statuses == [0, 0], errors
  wanted, found = (losses(folder) for folder in folders)
  assert found == wanted
  wanted, found = (flatten(reader.load_arrays(folder)) for folder in folders)
  assert found.keys() == wanted.keys()
  for path, array in wanted.items():
    np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_a_full_disk_of_the_writer_ends_all(tmp_path):
  """Only process 0 writes the log; the other one would wait for it."""
  statuses, (first, second) = finish(
    start(tmp_path / 'run', 2, kimg=1, kill=(0, 'FULL_DISK', 3))
  )
  assert statuses == [1, 1]
  assert 'No space left on device' in first
  assert 'process 0 of 2 could not write the tick' in second
