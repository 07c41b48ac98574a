"""A StyleGAN2 trains, goes on bit for bit, and draws, with few layers."""

import json

import jax
import noise
import numpy as np
import pytest
import tiny

from sg3jax import model as model_lib
from sg3jax.eval import evaluators
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import loop, sharding

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('shared_programs'),
]


def _config(num_steps=4):
  """Every step has a tick and a checkpoint; path lengths, every second."""
  config = tiny.tiny_config('2', total_kimg=0.008 * num_steps)
  config.model.resolution = 8
  config.log.kimg_per_tick = 0.008
  config.log.ticks_per_snapshot = 1
  config.log.keep_checkpoints = 10
  return config


def _train(workdir, num_steps, evaluate=False):
  source, mesh = noise.Noise(resolution=8), sharding.make_mesh(1)
  evaluator = evaluators.SnapshotEvaluator(
    source,
    metrics=(),
    num_samples=16,
    grid=(4, 2),
    seed=0,
    mesh=mesh,
    takes_transforms=False,
  )
  return loop.train(
    _config(num_steps),
    source,
    workdir,
    mesh=mesh,
    evaluators=[evaluator] if evaluate else [],
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory, shared_programs):
  """The run folder of four steps, and the arrays after each of them."""
  workdir = tmp_path_factory.mktemp('run')
  _train(workdir, 4, evaluate=True)
  folder = workdir / checkpoint_lib.FOLDER
  arrays = {
    i: checkpoint_lib.load_arrays(folder / str(i)) for i in (1, 2, 3, 4)
  }
  return workdir, arrays


@pytest.fixture(scope='module')
def stats(run):
  workdir, _ = run
  lines = (workdir / 'stats.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_path_lengths_come_in_every_second_step(run, stats):
  _, arrays = run
  means = [0.0, *(float(arrays[i]['progress']['pl_mean']) for i in arrays)]
  assert means[0] < means[1] == means[2] < means[3] == means[4]
  assert ['Loss/pl_penalty' in tick for tick in stats] == 2 * [True, False]
  for tick in stats[::2]:  # Half of a batch of eight.
    assert tick['Loss/pl_penalty']['num'] == 4
    assert tick['Loss/G/reg']['mean'] == pytest.approx(
      2 * tick['Loss/pl_penalty']['mean']
    )
    assert tick['Gradients/nonfinite/G'] == {'num': 2, 'mean': 0, 'std': 0}
  # The moving average starts at zero: lengths are a hundred times its first
  # value. The mean of squares is at least the square of the mean.
  penalty = stats[0]['Loss/pl_penalty']['mean']
  assert penalty >= (99 * means[1]) ** 2 * (1 - 1e-5)


def _adam(arrays, label):
  (adam, *_) = arrays['progress']['generator_opt']['inner_states'][label][
    'inner_state'
  ]
  return adam


def test_offsets_take_no_step_in_the_phase(run):
  _, arrays = run
  counts = {
    label: [int(_adam(arrays[i], label)['count']) for i in arrays]
    for label in ('others', 'offsets')
  }
  assert counts == {'others': [2, 3, 5, 6], 'offsets': [1, 2, 3, 4]}
  biases = jax.tree.leaves(_adam(arrays[4], 'offsets')['nu'])
  assert [x.shape for x in biases] == [(3,), (3,)]  # One of each ToRGB.


def test_the_phase_reaches_all_other_parameters(run):
  _, arrays = run
  # Without a first momentum, Adam keeps the last gradient: that of the phase.
  gradients = jax.tree.leaves_with_path(_adam(arrays[1], 'others')['mu'])
  parameters = jax.tree.leaves(arrays[1]['networks']['generator']['params'])
  assert len(gradients) == len(parameters) - 2
  for path, gradient in gradients:
    assert np.any(gradient), jax.tree_util.keystr(path)


def test_resumes_bit_for_bit(run, tmp_path):
  _, arrays = run
  _train(tmp_path, 3)
  assert int(_train(tmp_path, 4).step) == 4
  assert 'Resuming:       from step 3' in (tmp_path / 'log.txt').read_text()
  resumed = dict(
    jax.tree.leaves_with_path(checkpoint_lib.load_arrays(tmp_path))
  )
  whole = dict(jax.tree.leaves_with_path(arrays[4]))
  assert resumed.keys() == whole.keys()
  for path, value in whole.items():
    np.testing.assert_array_equal(
      resumed[path], value, jax.tree_util.keystr(path)
    )


def test_leaves_pictures_but_no_clip(run):
  workdir, _ = run
  names = {path.name for path in workdir.iterdir()}
  assert {'reals.png', 'fakes_init.png', 'fakes000000.png'} <= names
  assert 'equivariance.webp' not in names
  log = (workdir / 'log.txt').read_text()
  assert 'Generator:      stylegan2, ' in log
  assert 'filtered_lrelu' not in log


def test_the_run_opens_as_a_model(run):
  workdir, arrays = run
  model = model_lib.load_model(workdir)
  z = model_lib.seed_latents([0, 1], model.z_dim)
  images = model(z)
  assert images.shape == (2, 8, 8, 3)
  assert np.all(np.isfinite(images))
  # Strengths have learned a little: noise makes a difference.
  none, random, other = (
    model(z, noise_mode=mode, noise_seed=seed)
    for mode, seed in (('none', 0), ('random', 0), ('random', 1))
  )
  for a, b in ((images, none), (none, random), (random, other)):
    assert np.abs(a - b).max() > 0
  np.testing.assert_array_equal(random, model(z, noise_mode='random'))
  with pytest.raises(ValueError, match='learned constant'):
    model(z, transform=np.eye(3, dtype=np.float32))
  # Noise is copied to the averaged generator, not averaged.
  networks = arrays[4]['networks']
  jax.tree.map(
    np.testing.assert_array_equal,
    networks['generator_ema']['noise'],
    networks['generator']['noise'],
  )
