"""Whole runs, tiny ones, that meet with faults."""

import functools
import json
import shutil

import fake_state
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_tiny
import tiny

from sg3jax import model as model_lib
from sg3jax.data import loader as loader_lib
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import loop, preemption, saving, sharding
from sg3jax.train.checkpoint import storage
from sg3jax.train.step import trainer

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('shared_programs'),
]

_SWD = checkpoint_lib.Best('swd', higher_is_better=False)


def _config(**log):
  """Ticks of two steps, a snapshot with each."""
  config = tiny.tiny_config(total_kimg=0.048)
  config.log.ticks_per_snapshot = 1
  config.log.keep_checkpoints = 1
  config.log.update(log)
  return config


def _train(config, workdir, **options):
  mesh = sharding.make_mesh(1)
  return loop.train(
    config, run_tiny.make_source(), workdir, mesh=mesh, **options
  )


def _figures(snapshot):
  """The best is that of the second snapshot of three."""
  return {'swd': abs(snapshot.kimg - 0.032)}


def _broken(snapshot):
  raise FileNotFoundError('the images to compare with are gone')


def _names(workdir):
  return sorted(p.name for p in (workdir / checkpoint_lib.FOLDER).iterdir())


@pytest.fixture(scope='module')
def run(tmp_path_factory, shared_programs):
  workdir = tmp_path_factory.mktemp('run')
  _train(
    _config(keep_best='swd'),
    workdir,
    evaluators=[_broken, _figures],
    profile=range(3, 5),
    best=_SWD,
  )
  return workdir


def test_a_run_outlives_its_evaluators(run):
  text = (run / 'log.txt').read_text()
  assert text.count('Traceback (most recent call last)') == 1
  # At the start and after every tick.
  assert text.count('the run continues (FileNotFoundError: the images') == 4
  assert 'Done: 0.048 kimg' in text


def test_the_best_checkpoint_is_kept_beside_the_newest(run):
  assert _names(run) == ['4', '6']
  best = run / checkpoint_lib.FOLDER / checkpoint_lib.BEST
  assert checkpoint_lib.load_networks(best)[2] == 4


def test_the_steps_asked_for_are_profiled(run):
  (trace,) = (run / 'profile').rglob('*.xplane.pb')
  assert trace.stat().st_size > 1000
  assert f'Profile:        {run / "profile"}' in (run / 'log.txt').read_text()


def test_a_change_of_options_is_made_when_told(run, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  config = _config(keep_best='swd')
  config.train.total_kimg = 0.064
  config.train.augment.p = 0.5  # Not used: the program stays the same.
  with pytest.raises(ValueError, match='change with allow_config_change'):
    _train(config, workdir)
  state = _train(config, workdir, allow_config_change=True, best=_SWD)
  assert int(state.step) == 8
  changes = json.loads((workdir / 'options_changes.jsonl').read_text())
  assert changes['step'] == 6
  assert 'train.augment.p: 0.2 -> 0.5' in changes['changes']
  assert 'train.augment.p: 0.2 -> 0.5' in (workdir / 'log.txt').read_text()
  options = json.loads((workdir / 'training_options.json').read_text())
  assert options['train']['augment']['p'] == 0.5


@pytest.mark.parametrize('batch', [4, 16])
def test_another_batch_counts_images(run, tmp_path, batch):
  """A run of 48 images goes on to 80, and shows each image in its turn."""
  workdir = shutil.copytree(run, tmp_path / 'run')
  config = _config(keep_best='swd')
  config.train.batch, config.train.total_kimg = batch, 0.08
  shown = []
  source = run_tiny.make_source()

  class Recorded(type(source)):
    def __getitem__(self, index):
      shown.append(index)
      return super().__getitem__(index)

  source.__class__ = Recorded
  config.data.workers = 0  # Nothing is read ahead.
  mesh = sharding.make_mesh(1)
  state = loop.train(
    config, source, workdir, mesh=mesh, allow_config_change=True, best=_SWD
  )
  assert (int(state.step), int(state.nimg)) == (6 + 32 // batch, 80)
  # 40 images an epoch: the end of the second one.
  assert len(shown) == len(set(shown)) == 32
  lines = (workdir / 'stats.jsonl').read_text().splitlines()
  kimgs = [json.loads(line)['Progress/kimg']['mean'] for line in lines]
  np.testing.assert_allclose(kimgs, [0.016, 0.032, 0.048, 0.064, 0.08])
  assert model_lib.load_model(workdir).kimg == 0.08
  # As many images as one batch size would have shown.
  with loader_lib.make_loader(
    run_tiny.make_source(), batch_size=32, seed=0, start_image=48
  ) as loader:
    expected = next(loader)['image']
  ours = [run_tiny.make_source()[i]['image'] for i in shown]
  np.testing.assert_array_equal(ours, expected)


def test_a_stop_right_after_a_sick_tick_saves_nothing(tmp_path, monkeypatch):
  """Though the statistics since the tick are empty."""

  class AfterTwo(preemption.Stop):
    def reached(self, step):
      self.signal = 'SIGTERM'
      return step == 2

  accumulator = loop.statistics.Accumulator
  result = accumulator.result

  def sick_result(self):  # The state is finite, so only the losses show it.
    stats = result(self)
    for name in stats:
      stats[name]['mean'] = np.nan
    return stats

  monkeypatch.setattr(accumulator, 'result', sick_result)
  stop = AfterTwo()
  _train(_config(ticks_per_snapshot=2), tmp_path, stop=stop)
  assert stop.obeyed
  assert _names(tmp_path) == []
  assert 'Not saved:      the losses' in (tmp_path / 'log.txt').read_text()


def test_a_run_is_not_done_before_its_checkpoint_is(run, tmp_path, monkeypatch):
  """As Orbax loses what is saved where it takes the folder for a pattern."""
  workdir = shutil.copytree(run, tmp_path / 'run[1]')
  monkeypatch.setattr(storage, 'safe_path', lambda folder: folder)
  config = _config(keep_best='swd')
  config.train.total_kimg = 0.064
  with pytest.raises(OSError, match=r'points/8: what was written is not compl'):
    _train(config, workdir, best=_SWD)
  assert 'Done: 0.064 kimg' not in (workdir / 'log.txt').read_text()


def test_the_metric_that_chooses_may_change_on_resume(run, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  config = _config(keep_best='eqt')
  config.train.total_kimg = 0.064
  eqt = checkpoint_lib.Best('eqt', higher_is_better=True)
  _train(config, workdir, evaluators=[lambda _: {'eqt': 1.0}], best=eqt)
  assert _names(workdir) == ['8']
  best = workdir / checkpoint_lib.FOLDER / checkpoint_lib.BEST
  assert checkpoint_lib.load_networks(best)[2] == 8


def test_a_change_of_shapes_is_never_made(run, tmp_path):
  workdir = shutil.copytree(run, tmp_path / 'run')
  before = (workdir / 'training_options.json').read_text()
  config = _config()
  config.model.w_dim = 4
  with pytest.raises(ValueError, match='is of other networks'):
    _train(config, workdir, allow_config_change=True)
  assert (workdir / 'training_options.json').read_text() == before
  assert _names(workdir) == ['4', '6']


def test_a_request_to_stop_is_obeyed_between_two_ticks(tmp_path):
  class AfterThree(preemption.Stop):
    def reached(self, step):
      self.signal = 'SIGTERM' if step == 3 else None
      return step == 3

  stop = AfterThree()
  state = _train(_config(), tmp_path, stop=stop)
  assert stop.obeyed
  assert int(state.step) == 3
  assert _names(tmp_path) == ['3']
  text = (tmp_path / 'log.txt').read_text()
  assert 'Stopped:        by SIGTERM at step 3, 0.024 kimg. Run the' in text
  assert 'Done' not in text


def _sicken(monkeypatch):
  """D begins with parameters that are no numbers."""
  jit_init = trainer.jit_init

  def sick_init(key, init):
    state = init(key)
    sick = jax.tree.map(lambda x: x * jnp.nan, state.discriminator)
    return state.replace(discriminator=sick)

  monkeypatch.setattr(
    trainer,
    'jit_init',
    lambda *args: functools.partial(sick_init, init=jit_init(*args)),
  )


def test_a_state_that_cannot_be_saved_ends_the_run():
  """Though its losses are finite: or it would end with nothing saved."""

  class Checkpoints(checkpoint_lib.Checkpoints):
    sick = True

    def __init__(self):
      pass

    def save(self, *_):
      if self.sick:
        raise FloatingPointError('pl_mean has values that are not finite')

    def describe_latest(self):
      return 'runs/a/checkpoints/7'

  checkpoints = Checkpoints()
  saver = saving.Saver(
    checkpoints, options={}, best=None, max_refused=2, log=lambda _: None
  )
  state = fake_state.make_state(0, width=2)
  for sick in (True, False, True):
    checkpoints.sick = sick
    saver.save(state, {}, healthy=True)
  with pytest.raises(FloatingPointError, match=r'pl_mean .*points/7\. Try'):
    saver.save(state, {}, healthy=True)


def test_a_run_that_diverges_stops_and_says_why(tmp_path, monkeypatch):
  _sicken(monkeypatch)
  with pytest.raises(FloatingPointError) as error:
    _train(_config(max_nonfinite_ticks=2), tmp_path)
  message = str(error.value)
  assert 'Loss/scores/real = nan' in message
  assert 'not finite since 0.016 kimg, for 2 tick(s) in a row' in message
  assert 'The last good checkpoint is none' in message
  assert _names(tmp_path) == []
  text = (tmp_path / 'log.txt').read_text()
  assert 'Not saved:      the losses are not finite' in text
  assert 'number 1' in text
  lines = (tmp_path / 'stats.jsonl').read_text().splitlines()
  assert len(lines) == 2
  assert np.isnan(json.loads(lines[0])['Loss/scores/real']['mean'])
