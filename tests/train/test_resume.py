"""A run that is killed goes on as if it had not been: bit for bit."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from sg3jax.train import checkpoint

_SCRIPT = pathlib.Path(__file__).parent / 'run_tiny.py'


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """The processes run the same programs: they compile them once."""
  return tmp_path_factory.mktemp('cache')


def _run(cache, workdir, design, *kill) -> int:
  process = subprocess.run(
    [sys.executable, str(_SCRIPT), str(workdir), design, *map(str, kill)],
    env=os.environ
    | {
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PLATFORMS': 'cpu',
    },
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert process.returncode in (0, -signal.SIGKILL), process.stderr[-3000:]
  return process.returncode


def _final(workdir):
  manager = checkpoint.Checkpoints(workdir)
  step = manager.latest()
  manager.close()
  return step, checkpoint.load_arrays(workdir)


@pytest.fixture(scope='module')
def uninterrupted(cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  assert _run(cache, workdir, 't') == 0
  return _final(workdir)


# Twelve steps; a checkpoint after every fourth.
@pytest.mark.slow
@pytest.mark.parametrize(
  'kill', [('step', 3), ('step', 7), ('save', 1), ('save', 2)]
)
def test_killed_runs_resume_bit_for_bit(cache, uninterrupted, tmp_path, kill):
  assert _run(cache, tmp_path, 't', *kill) == -signal.SIGKILL
  assert _run(cache, tmp_path, 't') == 0
  step, arrays = _final(tmp_path)
  assert step == uninterrupted[0] == 12
  ours, whole = (
    dict(jax.tree.leaves_with_path(tree)) for tree in (arrays, uninterrupted[1])
  )
  assert ours.keys() == whole.keys()
  for path, value in whole.items():
    np.testing.assert_array_equal(ours[path], value, jax.tree_util.keystr(path))
  # The record is that of one run: each tick once, in order.
  lines = (tmp_path / 'stats.jsonl').read_text().splitlines()
  kimgs = [json.loads(line)['Progress/kimg']['mean'] for line in lines]
  assert kimgs == pytest.approx([0.016 * i for i in range(1, 7)])
