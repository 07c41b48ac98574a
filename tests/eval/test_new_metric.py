"""A metric that one file adds is found everywhere, with no other file touched.

The file is a module that this test writes: everything else reads the registry.
"""

import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.data import labels as labels_lib
from sg3jax.eval.metrics import base
from sg3jax.eval.plots import curves
from sg3jax.sweeps import analysis, report, store, training
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import config as config_lib
from sg3jax.train import evaluation, loop, sharding
from sg3jax.train.config import files as config_files
from sg3jax.train.run_folder import writer as writer_lib
from sg3jax.train.step.state import TrainState
from sg3jax.types import Snapshot

_TINY = pathlib.Path(__file__).parents[1] / 'cli' / 'tiny_run.py'

_FILE = """
from sg3jax.eval.metrics import base


@base.register(
  'brightness',
  title='Mean brightness',
  unit='grey levels',
  higher_is_better=True,
  result='brightness8',
  labels={r'brightness(\\d+)': r'of \\1 images'},
)
def measure(context: base.Context) -> base.Measurement:
  images = context.fakes(context.num_samples)
  value = float(images.mean())
  return base.Measurement(
    {'brightness8': value}, len(images), {'brightness8': 0.5}
  )
"""


@pytest.fixture(scope='module', autouse=True)
def metric(tmp_path_factory):
  """Executes the file; the metric is forgotten after the tests."""
  path = tmp_path_factory.mktemp('metrics') / 'brightness.py'
  path.write_text(_FILE)
  spec = importlib.util.spec_from_file_location('brightness', path)
  spec.loader.exec_module(importlib.util.module_from_spec(spec))
  yield base.registry()['brightness']
  base.unregister('brightness')


class _Images:
  """Eight grey images without labels."""

  name, resolution, channels, label_dim = 'grey', 16, 3, 0

  def __len__(self):
    return 8

  def __getitem__(self, index):
    image = np.full((16, 16, 3), 16 * index, np.uint8)
    return {'image': image, 'label': np.zeros(0, np.float32)}

  def labels(self):
    return labels_lib.none(8)


@pytest.fixture(scope='module')
def config():
  config = config_files.load(str(_TINY))
  config.log.metrics = ('brightness',)
  config.log.metric_samples = 8
  config.log.keep_best = 'brightness8'
  return config


@pytest.fixture(scope='module')
def model(config):
  """A model of random weights."""
  config = config.copy_and_resolve_references()
  config_lib.resolve(config, img_channels=3, label_dim=0)
  state = jax.eval_shape(loop.make_trainer(config).init, jax.random.key(0))
  rng = np.random.RandomState(0)
  networks = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype),
    {
      'generator_ema': state.generator_ema,
      'discriminator': state.discriminator,
    },
  )
  return model_lib.Model(config.to_dict(), networks, 0)


@pytest.fixture(scope='module')
def run(model, config, tmp_path_factory):
  """The folder of a run that has evaluated two snapshots, and its values."""
  workdir = tmp_path_factory.mktemp('runs') / 'new'
  mesh = sharding.make_mesh(1)
  resolved = config.copy_and_resolve_references()
  config_lib.resolve(resolved, img_channels=3, label_dim=0)
  evaluator = launch.make_evaluator(resolved, _Images(), mesh)
  values = []
  with writer_lib.RunWriter(workdir) as writer:
    evaluate = evaluation.Evaluators([evaluator], writer.log, lambda: False)
    stat = {'num': 1, 'mean': 0.0, 'std': 0.0}
    (workdir / 'stats.jsonl').write_text(
      json.dumps({'Progress/kimg': stat, 'Loss/G/loss': stat}) + '\n'
    )
    for kimg in (1, 2):
      variables = jax.tree.map(lambda x, k=kimg: x * k, model.variables)
      snapshot = Snapshot(workdir, kimg, False, model.generator, variables)
      values.append(evaluate(snapshot))
  return workdir, values


def test_it_is_in_a_runs_log_and_files(run):
  workdir, values = run
  assert [list(found) for found in values] == [['brightness8']] * 2
  log = (workdir / 'log.txt').read_text()
  assert f'brightness8          {values[1]["brightness8"]:.4g} at 2 kimg' in log
  lines = (workdir / 'metric-brightness8.jsonl').read_text().splitlines()
  for line, found in zip(map(json.loads, lines), values, strict=True):
    assert line['results'] == found
    assert line['ci95'] == {'brightness8': 0.5}
    assert line['num_samples'] == 8


def test_it_has_a_panel_among_the_curves(run):
  workdir, values = run
  assert (workdir / 'curves.png').exists()
  (panel,) = curves._metric_panels(workdir)
  assert panel.title == 'Mean brightness (higher is better)'
  assert panel.ylabel == 'grey levels'
  (line,) = panel.lines
  assert line.label == 'of 8 images'
  assert line.kimg.tolist() == [1, 2]
  assert line.value.tolist() == [found['brightness8'] for found in values]


def _state(step):
  params = {'params': {'bias': jnp.full(2, step, jnp.float32)}}
  return TrainState(
    step=np.int32(step),
    nimg=np.int32(8 * step),
    generator=params,
    discriminator=params,
    generator_ema=params,
    generator_opt=optax.adam(1e-3).init(params['params']),
    discriminator_opt=optax.adam(1e-3).init(params['params']),
    pl_mean=np.float32(0),
  )


def test_the_best_checkpoint_is_kept_by_it(config, tmp_path):
  best = launch.best_by(config)
  checkpoints = checkpoint_lib.Checkpoints(tmp_path, keep=1, best=best)
  for step, value in ((1, 50.0), (2, 90.0), (3, 10.0)):
    state = jax.tree.map(jnp.asarray, _state(step))
    checkpoints.save(state, {}, {'swd': -value, 'brightness8': value})
  checkpoints.close()
  names = {path.name for path in (tmp_path / 'checkpoints').iterdir()}
  assert names == {'2', '3'}


def test_evaluate_measures_it(model, tmp_path):
  values = launch.evaluate(
    model, ['brightness'], tmp_path, num_samples=8, mesh=sharding.make_mesh(1)
  )
  assert 0 < values['brightness8'] < 255
  assert (tmp_path / 'metric-brightness8.jsonl').exists()


def test_it_is_in_the_table_of_a_sweep_of_trainings(run, tmp_path):
  workdir, values = run
  with (workdir / 'stats.jsonl').open('a') as file:
    file.write('{"Progress/kimg": {"mean": 2.0}}\n')
  row = {'point': 'a', 'n': 1, 'status': 'done'} | training.last_values(workdir)
  rows = [row, {**row, 'point': 'b', 'n': 2, 'brightness8': 3.0}]
  paths = report.write(rows, ['n'], store.Store(tmp_path))
  assert 'plot-n.png' in [path.name for path in paths]
  first = json.loads((tmp_path / 'table.json').read_text())[0]
  assert first['brightness8'] == values[1]['brightness8']
  assert report._title('brightness8') == ('Mean brightness', 'grey levels')


def test_it_is_in_the_table_of_a_sweep_of_analyses(config):
  assert 'brightness' in analysis.metric_names()
  values = analysis.analyse(config, metrics=['brightness'], samples=8)
  assert 0 < values['brightness'] < 255
  assert values['brightness_ci95'] == 0.5
  assert report._title('brightness') == (
    'Mean brightness at initialisation', 'grey levels',
  )  # fmt: skip
