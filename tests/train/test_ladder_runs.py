"""Every step of the ladder, and every change of it, in a run: tiny."""

import json

import noise
import numpy as np
import pytest
from conftest import CONFIGS, run_file
from PIL import Image

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.eval import evaluators
from sg3jax.train import sharding
from sg3jax.train.step import trainer

ladder = run_file(CONFIGS / 'ladder.py')

pytestmark = pytest.mark.slow


# Compiling one run takes a quarter of a minute, so most are exhaustive. These
# differ in code; the others, in numbers (taps, stopbands, layers, channels) or
# in filters, which tests/ops/test_filters.py has. A and T are trained in
# test_stylegan2_run.py and test_loop.py too.
_STEPS = {'B', 'D', 'H', 'R'}
_CHANGES = {'mixing', 'noise', 'fixed', 'path_length', 'ideal', 'p4'}


def _marked(name, is_one_of_few):
  """Returns a test's parameter, exhaustive unless it belongs to the few."""
  marks = () if is_one_of_few else pytest.mark.exhaustive
  return pytest.param(name, marks=marks)


# Changes of T and of R take turns.
_ALL_CHANGES = [
  _marked(f'{step}-{change}', change in _CHANGES)
  for step, change in zip('TR' * 20, ladder._changes(0), strict=False)
]
_ALL_STEPS = [_marked(name, name in _STEPS) for name in 'ABCDEFGHTR']


def _config(name: str):
  size = 'resolution=16,batch=4,channel_base=64,channel_max=8'
  config = ladder.get_config(f'{name},{size}')
  if config.model.synthesis.sampling == 'flexible':
    config.model.synthesis.num_layers = 2
    config.model.synthesis.num_critical = 1
  config.model.z_dim = config.model.w_dim = 8
  config.model.precision = 'fp32'
  config.train.blur_init_sigma = min(config.train.blur_init_sigma, 1.0)
  config.train.r1_interval = config.train.pl_interval = 2
  config.train.total_kimg = 0.012
  config.log.kimg_per_tick = 0.004
  config.log.grid = (2, 1)
  config.log.metric_samples = 4
  return config


@pytest.fixture
def _quick(monkeypatch):
  """Lets sessions run the program that the first has made; clips are short."""
  monkeypatch.setattr(evaluators, '_CLIP_FPS', 2)
  for name in ('jit_init', 'jit_step'):
    make, made = getattr(trainer, name), []

    def take(*args, make=make, made=made):
      if not made:
        made.append(make(*args))
      return made[0]

    monkeypatch.setattr(trainer, name, take)


def _train(config, workdir):
  """Trains, and returns the kimg of every tick."""
  source, mesh = noise.Noise(), sharding.make_mesh(1)
  launch.train(config, workdir, source=source, mesh=mesh)
  lines = (workdir / 'stats.jsonl').read_text().splitlines()
  return [json.loads(line)['Progress/kimg']['mean'] for line in lines]


def _check_grid(path):
  with Image.open(path) as image:
    assert image.size == (32, 16)
    assert np.std(image) > 0.1  # Not of one colour.


@pytest.mark.usefixtures('_quick')
@pytest.mark.parametrize('name', _ALL_STEPS)
def test_a_step_trains_resumes_and_is_measured(name, tmp_path):
  config = _config(name)
  np.testing.assert_allclose(_train(config, tmp_path), [0.004, 0.008, 0.012])
  config.train.total_kimg = 0.016
  if name != 'A':  # Its input is a constant, which nothing moves.
    config.log.metrics = ('eqt', 'eqt_frac', 'eqr')
  np.testing.assert_allclose(
    _train(config, tmp_path), [0.004, 0.008, 0.012, 0.016]
  )
  assert model_lib.load_model(tmp_path).step == 4
  for name in ('fakes_init.png', 'fakes000000.png'):
    _check_grid(tmp_path / name)
  results = [
    json.loads(path.read_text().splitlines()[-1])['results']
    for path in tmp_path.glob('metric-*.jsonl')
  ]
  assert len(results) == len(config.log.metrics)
  assert np.all(np.isfinite([x for r in results for x in r.values()]))


@pytest.mark.usefixtures('_quick')
@pytest.mark.parametrize('name', _ALL_CHANGES)
def test_a_change_of_t_or_r_trains(name, tmp_path):
  """Resuming and measuring are the same code for all steps, tried above."""
  config = _config(name)
  np.testing.assert_allclose(_train(config, tmp_path), [0.004, 0.008, 0.012])
  assert model_lib.load_model(tmp_path).step == 3
  for name in ('fakes_init.png', 'fakes000000.png'):
    _check_grid(tmp_path / name)
