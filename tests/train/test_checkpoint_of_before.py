"""A run folder written before the modules moved into rooms still works.

`fixtures/run_before_rooms` was written by revision e3312ff: four steps of the
tiny configuration, with `log.keep_best = 'swd'`.
"""

import json
import logging
import pathlib
import shutil
import sys
import warnings

import numpy as np
import pytest
import tiny

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import preemption, sharding

pytest.importorskip('skimage')  # Its photographs are the data.
pytestmark = pytest.mark.slow

_BEFORE = pathlib.Path(__file__).parent / 'fixtures' / 'run_before_rooms'
_SWD = 343.5741662979126  # Of its last snapshot.


def _config():
  config = tiny.tiny_config(total_kimg=0.048)
  config.model.z_dim = config.model.w_dim = 4
  for networks in (config.model.synthesis, config.model.discriminator):
    networks.channel_base, networks.channel_max = 32, 4
  config.data.source = 'embedded:16'
  config.log.update(
    metrics=('swd',),
    metric_samples=16,
    keep_best='swd',
    grid=(2, 1),
    ticks_per_snapshot=1,
  )
  return config


@pytest.fixture(scope='module')
def globals_before_and_after():
  return []


@pytest.fixture(scope='module')
def run(tmp_path_factory, globals_before_and_after):
  """A copy that was resumed for two steps."""
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  shutil.copytree(_BEFORE, workdir)
  config = _config()
  source = launch.open_source(config)

  def look():
    root = logging.getLogger()
    globals_before_and_after.append(
      (root.handlers[:], root.level, sys.unraisablehook, warnings.showwarning)
    )

  look()
  launch.train(
    config,
    workdir,
    source=source,
    mesh=sharding.make_mesh(1),
    stop=preemption.Stop(),
  )
  look()
  return workdir


def test_it_resumes(run):
  text = (run / 'log.txt').read_text()
  assert 'Resuming:       from step 4, 0.032 kimg' in text
  assert 'Done: 0.048 kimg' in text
  arrays = checkpoint_lib.load_arrays(run)
  assert int(arrays['progress']['step']) == 6
  ticks = [
    json.loads(line)['Progress/tick']['mean']
    for line in (run / 'stats.jsonl').read_text().splitlines()
  ]
  assert ticks == [0, 1, 2]
  lines = (run / 'metric-swd.jsonl').read_text().splitlines()
  assert len(lines) == 4


def test_training_leaves_the_settings_of_the_process(
  run, globals_before_and_after
):
  before, after = globals_before_and_after
  assert after == before


def test_its_checkpoint_is_ranked_among_the_new_ones(run):
  folder = run / checkpoint_lib.FOLDER
  assert checkpoint_lib.load_networks(_BEFORE / 'checkpoints' / 'best')[2] == 4
  lines = (run / 'metric-swd.jsonl').read_text().splitlines()
  new = json.loads(lines[-1])['results']['swd']
  best = 6 if new < _SWD else 4
  assert checkpoint_lib.load_networks(folder / checkpoint_lib.BEST)[2] == best


def test_it_is_evaluated(cli, tmp_path):
  status, out, error = cli(
    'evaluate',
    f'--network={_BEFORE}',
    '--metrics=swd',
    '--data=embedded:16',
    '--samples=16',
    f'--outdir={tmp_path}',
  )
  assert not status, error
  # Computed in float32, by another program than then.
  values = json.loads(out.splitlines()[-1])
  assert values['swd'] == pytest.approx(_SWD, rel=1e-3)


def test_it_generates():
  model = model_lib.load_model(_BEFORE)
  images = model(np.random.RandomState(0).randn(2, model.z_dim))
  assert images.shape == (2, 16, 16, 3)
  assert np.all(np.isfinite(images))
