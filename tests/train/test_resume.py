"""A run that is killed goes on as if it had not been: bit for bit.

SG3JAX_KILLS=20 kills it at as many random times by each signal.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import preemption

_SCRIPT = pathlib.Path(__file__).parent / 'run_tiny.py'
_KILLS = int(os.environ.get('SG3JAX_KILLS', '1'))
_STATUS = {'SIGKILL': -signal.SIGKILL, 'SIGTERM': preemption.EXIT_CODE}


def _run(workdir, *kill) -> tuple[int, str]:
  """Returns the exit status and what was printed."""
  process = subprocess.run(
    [sys.executable, str(_SCRIPT), str(workdir), 't', *map(str, kill)],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  expected = {0, *(_STATUS[name] for name in kill[:1])}
  assert process.returncode in expected, process.stderr[-3000:]
  return process.returncode, process.stdout


def _final(workdir):
  manager = checkpoint_lib.Checkpoints(workdir)
  step = manager.latest()
  manager.close()
  return step, checkpoint_lib.load_arrays(workdir)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The last state, and the seconds from the first step to the end."""
  workdir = tmp_path_factory.mktemp('whole')
  status, out = _run(workdir)
  assert status == 0
  return _final(workdir), float(out.splitlines()[-1])


@pytest.fixture(scope='module')
def uninterrupted(whole):
  """The last state."""
  return whole[0]


@pytest.fixture(scope='module')
def seconds(whole):
  """From the first step, which is compiled by then, to the end."""
  return whole[1]


def _assert_as_if_uninterrupted(workdir, uninterrupted):
  step, arrays = _final(workdir)
  assert step == uninterrupted[0] == 12
  ours, whole = (
    dict(jax.tree.leaves_with_path(tree)) for tree in (arrays, uninterrupted[1])
  )
  assert ours.keys() == whole.keys()
  for path, value in whole.items():
    np.testing.assert_array_equal(ours[path], value, jax.tree_util.keystr(path))
  # The record is that of one run: each tick once, in order.
  lines = (workdir / 'stats.jsonl').read_text().splitlines()
  kimgs = [json.loads(line)['Progress/kimg']['mean'] for line in lines]
  assert kimgs == pytest.approx([0.016 * i for i in range(1, 7)])


# Twelve steps; a checkpoint after every fourth.
@pytest.mark.slow
def test_killed_runs_resume_bit_for_bit(uninterrupted, tmp_path):
  for kill in [
    ('SIGKILL', 'step', 3),  # Before the first checkpoint.
    ('SIGKILL', 'save', 1),
    ('SIGTERM', 'save', 1),
    ('SIGKILL', 'step', 3),  # After it.
  ]:
    assert _run(tmp_path, *kill)[0] == _STATUS[kill[0]], kill
  assert _run(tmp_path)[0] == 0
  _assert_as_if_uninterrupted(tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize('seed', range(_KILLS))
def test_runs_killed_at_random_resume_bit_for_bit(
  uninterrupted, seconds, tmp_path, seed
):
  rng = random.Random(seed)
  names = rng.sample(['SIGKILL', 'SIGTERM'], 2)
  struck = []
  for name in names:
    # Some before the first step: in the middle of reading a checkpoint, say.
    is_early = name == 'SIGKILL' and rng.random() < 0.3
    after = rng.uniform(0, 15 if is_early else seconds)
    status, _ = _run(tmp_path, name, 'start' if is_early else 'time', after)
    struck.append(
      (
        name,
        after,
        status,
        sorted(p.name for p in tmp_path.glob(f'{checkpoint_lib.FOLDER}/*')),
      )
    )
  print(seed, seconds, *struck)
  assert _run(tmp_path)[0] == 0
  _assert_as_if_uninterrupted(tmp_path, uninterrupted)
