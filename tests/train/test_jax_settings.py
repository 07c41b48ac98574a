"""Runs under every setting of JAX that a user may have made globally."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sg3jax.train import config as config_lib
from sg3jax.train import loop, sharding
from sg3jax.train.step import build

_SCRIPT = """
  import pathlib
  import sys

  sys.path.append(sys.argv[2])
  import jax
  import noise
  import tiny

  from sg3jax import launch

  def train(name, total_kimg):
    config = tiny.tiny_config(total_kimg=total_kimg, r1_interval=1)
    config.train.augment.update(mode='ada', interval=1, pipeline='blit,color')
    config.data.cond = True
    config.log.update(
      kimg_per_tick=0.008, ticks_per_snapshot=1, metrics=('swd', 'eqt')
    )
    config.log.update(metric_samples=8, grid=(2, 2))
    source = noise.Noise(label_dim=3)
    workdir = pathlib.Path(sys.argv[1]) / name
    state = launch.train(config, workdir, source=source)
    dtypes = {x.dtype.name for x in jax.tree.leaves(state)}
    assert dtypes == {'float32', 'int32'}

  train('plain', 0.008)
  jax.config.update('jax_enable_x64', True)
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_numpy_dtype_promotion', 'strict')
  jax.config.update('jax_transfer_guard', 'disallow')
  jax.config.update('jax_debug_nans', True)
  train('plain', 0.016)
  train('set', 0.008)
"""


@pytest.mark.slow
def test_a_run_is_the_same_under_all_settings_at_once(tmp_path):
  """It begins, resumes one that began without them, and is evaluated."""
  process = subprocess.run(
    [
      sys.executable,
      '-c',
      textwrap.dedent(_SCRIPT),
      str(tmp_path),
      str(pathlib.Path(__file__).parent),
    ],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=600,
    check=False,
  )
  assert process.returncode == 0, process.stderr[-3000:]
  assert 'Warning' not in process.stdout  # An evaluation that has failed.
  for name in ('plain', 'set'):
    stats = (tmp_path / name / 'stats.jsonl').read_text().splitlines()
    assert len(stats) == {'plain': 2, 'set': 1}[name]
  # The numbers are those of a run without them.
  first, other = (
    (tmp_path / name / 'metric-swd.jsonl').read_text().splitlines()
    for name in ('plain', 'set')
  )
  assert [_value(line) for line in first[:2]] == [
    _value(line) for line in other
  ]


def _value(line):
  return json.loads(line)['results']['swd']


def test_the_transfer_guard_covers_the_step(monkeypatch):
  """A step that takes an array from the host fails with the guard."""

  def jit_step(trainer, mesh):
    ones = jnp.ones(3)
    return lambda state, batch, key: (
      state, {'sum': ones + np.ones(3, np.float32)}
    )  # fmt: skip

  monkeypatch.setattr(loop.trainer_lib, 'jit_step', jit_step)
  config = tiny.tiny_config()
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer, mesh = build.make_trainer(config), sharding.make_mesh(1)
  state = jax.eval_shape(trainer.init, jax.random.key(0))
  for guard in (False, True):
    config = tiny.tiny_config()
    config.log.transfer_guard = guard
    step = loop._make_step_fn(trainer, mesh, config, lambda line: None)
    if guard:
      with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
        step(state, {})
    else:
      assert step(state, {})[1]['sum'].tolist() == [2.0] * 3
