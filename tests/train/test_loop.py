"""Whole runs, tiny ones: what they leave behind, and what they take."""

import json
import shutil

import jax
import jax.numpy as jnp
import noise
import numpy as np
import pytest
import tiny
from PIL import Image

from sg3jax import model as model_lib
from sg3jax.eval import evaluators
from sg3jax.eval.result_page import page
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import loop, sharding
from sg3jax.train.config import compare
from sg3jax.train.run_folder import writer as writer_lib
from sg3jax.train.step import losses, trainer
from sg3jax.types import Snapshot

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('shared_programs'),
]

# The names under which users and their tools look for statistics.
_STATS = (
  'Loss/G/loss', 'Loss/D/loss', 'Loss/scores/real', 'Loss/scores/fake',
  'Loss/signs/real', 'Loss/signs/fake', 'Loss/r1_penalty', 'Loss/D/reg',
  'Progress/tick', 'Progress/kimg', 'Progress/augment',
  'Timing/total_sec', 'Timing/sec_per_tick', 'Timing/sec_per_kimg',
  'Timing/maintenance_sec', 'Resources/cpu_mem_gb',
  'Resources/peak_gpu_mem_gb',
)  # fmt: skip


def _train(config, source, workdir, metrics=None):
  mesh = sharding.make_mesh(1)
  evaluator = evaluators.SnapshotEvaluator(
    source,
    metrics=metrics or (),
    num_samples=16,
    grid=config.log.grid,
    seed=config.seed,
    mesh=mesh,
  )
  return loop.train(
    config,
    source,
    workdir,
    mesh=mesh,
    evaluators=() if metrics is None else [evaluator],
    write_page=None if metrics is None else page.write,
  )


def _read_stats(workdir):
  lines = (workdir / 'stats.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _config(**train):
  config = tiny.tiny_config(total_kimg=0.048)
  config.train.update(train)
  return config


def _ada_config(**train):
  """One adaptation a tick, of up to 0.4."""
  config = _config(**train)
  config.train.augment.update(
    mode='ada', interval=2, speed_kimg=0.04, target=-0.9
  )
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory, shared_programs):
  """Six steps: ticks at 16, 32 and 48 images, snapshots at 0, 32 and 48."""
  workdir = tmp_path_factory.mktemp('run')
  metrics = ('swd', 'eqt', 'eqr')
  state = _train(_ada_config(), noise.Noise(), workdir, metrics=metrics)
  return workdir, state


def _flat(tree):
  return jax.tree.leaves(jax.device_get(tree))


def test_leaves_every_file_that_users_expect(run):
  workdir, _ = run
  names = {path.name for path in workdir.iterdir()}
  events = {name for name in names if name.startswith('events.out.tfevents.')}
  assert len(events) == 1
  assert names - events == {
    '.lock', 'training_options.json', 'data.json', 'log.txt', 'stats.jsonl',
    'checkpoints',
    'reals.png', 'fakes_init.png', 'fakes000000.png', 'curves.png',
    'equivariance.webp', 'index.html', 'metric-swd.jsonl',
    'metric-eqt50k_int.jsonl', 'metric-eqr50k.jsonl',
  }  # fmt: skip
  assert {path.name for path in (workdir / 'checkpoints').iterdir()} == {
    '4',
    '6',
  }


def test_pictures_have_the_grid_asked_for(run):
  workdir, _ = run
  for name in ('reals', 'fakes_init', 'fakes000000'):
    with Image.open(workdir / f'{name}.png') as image:
      assert (image.size, image.mode) == ((4 * 16, 2 * 16), 'RGB')
  with Image.open(workdir / 'equivariance.webp') as clip:
    assert clip.size == (4 * 16, 2 * 16)
    assert clip.n_frames > 24


def test_statistics_have_the_official_names(run):
  workdir, _ = run
  stats = _read_stats(workdir)
  assert [tick['Progress/kimg']['mean'] for tick in stats] == pytest.approx(
    [0.016, 0.032, 0.048]
  )
  for tick in stats:
    assert set(_STATS) <= set(tick)
    assert set(tick['Loss/G/loss']) == {'num', 'mean', 'std'}
    # Two steps of eight images; D sees generated ones in both phases.
    assert tick['Loss/scores/real']['num'] == 16
    assert tick['Loss/scores/fake']['num'] == 32
    assert tick['Loss/r1_penalty']['num'] == 8
    assert tick['Gradients/nonfinite/G']['mean'] == 0


def test_augmentation_follows_the_signs_of_a_tick(run):
  workdir, state = run
  p = 0.0
  for tick in _read_stats(workdir):
    p += 0.4 * np.sign(tick['Loss/signs/real']['mean'] + 0.9)
    p = min(max(p, 0.0), 1.0)
    assert tick['Progress/augment']['mean'] == pytest.approx(p, abs=1e-6)
  assert p > 0
  saved = checkpoint_lib.load_arrays(workdir)['progress']['augment']
  assert saved['p'] == state.augment.p == pytest.approx(p, abs=1e-6)
  assert f' augment {p:.3f}' in (workdir / 'log.txt').read_text()


def test_the_log_tells_what_ran(run):
  workdir, _ = run
  text = (workdir / 'log.txt').read_text()
  for expected in (
    'noise, 20 images of 16x16x3',
    'filtered_lrelu: ',
    'Augmentation:   bgc, p adapts to r_t = -0.9',
    'tick 0     kimg 0.016 ',
    'sec/kimg',
    'left ',
    'Settled:        train.ema_kimg = 2.5: batch * 10/32',
    f'Results:        open {workdir}/index.html in a browser\nDone: 0.048 kimg',
  ):
    assert expected in text
  for metric in ('swd', 'eqt50k_int', 'eqr50k'):
    lines = (workdir / f'metric-{metric}.jsonl').read_text().splitlines()
    kimgs = [json.loads(line)['kimg'] for line in lines]
    assert kimgs == [0, 0.032, 0.048]


def test_options_are_the_resolved_configuration(run):
  workdir, _ = run
  options = json.loads((workdir / 'training_options.json').read_text())
  assert options['model']['img_channels'] == 3
  assert options['train']['ema_kimg'] == 2.5


def test_another_configuration_is_refused(run):
  workdir, _ = run
  config = _ada_config(g_lr=0.01)
  config.model.z_dim = 4
  before = _read_stats(workdir)
  with pytest.raises(ValueError, match='another configuration') as error:
    _train(config, noise.Noise(), workdir)
  message = str(error.value)
  assert 'model.z_dim: 8 -> 4' in message
  assert 'train.g_lr: 0.0025 -> 0.01' in message
  assert 'another workdir' in message
  assert _read_stats(workdir) == before


def test_the_finished_run_opens_as_a_model(run):
  workdir, state = run
  model = model_lib.load_model(workdir)
  assert (model.step, model.kimg) == (6, 0.048)
  for ours, theirs in zip(
    _flat(model.variables), _flat(state.generator_ema), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_other_hosts_compute_but_write_nothing(run, tmp_path, monkeypatch):
  workdir, state = run
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  evaluator = evaluators.SnapshotEvaluator(
    noise.Noise(),
    metrics=('swd',),
    num_samples=16,
    grid=(4, 2),
    seed=0,
    mesh=sharding.make_mesh(1),
  )
  figures = evaluator(
    Snapshot(
      workdir=tmp_path,
      kimg=0.048,
      is_last=True,
      generator=model_lib.load_model(workdir).generator,
      variables=state.generator_ema,
    )
  )
  assert figures['swd'] > 0
  assert not list(tmp_path.iterdir())


def test_a_larger_total_goes_on(run, tmp_path):
  original, state = run
  workdir = shutil.copytree(original, tmp_path / 'run')
  same = _train(_ada_config(), noise.Noise(), workdir)
  for ours, theirs in zip(_flat(same), _flat(state), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  longer = _train(_ada_config(total_kimg=0.064), noise.Noise(), workdir)
  assert (int(longer.step), int(longer.nimg)) == (8, 64)
  stats = _read_stats(workdir)
  assert [tick['Progress/tick']['mean'] for tick in stats] == [0, 1, 2, 3]
  text = (workdir / 'log.txt').read_text()
  assert 'train.total_kimg: 0.048 -> 0.064' in text
  assert 'Resuming:       from step 6, 0.048 kimg' in text
  options = json.loads((workdir / 'training_options.json').read_text())
  assert options['train']['total_kimg'] == 0.064


def test_non_finite_gradients_are_counted_and_harmless(tmp_path, monkeypatch):
  loss = losses.generator_loss

  def sick(logits):  # One image of the batch gives no number.
    return loss(logits) * jnp.ones_like(logits).at[0].set(jnp.nan)

  config = _config(total_kimg=0.016)
  monkeypatch.setattr(losses, 'generator_loss', sick)
  monkeypatch.setattr(trainer, 'jit_step', trainer.jit_step.__wrapped__)
  state = _train(config, noise.Noise(), tmp_path)
  for leaf in _flat(state):
    assert np.all(np.isfinite(leaf))
  (tick,) = _read_stats(tmp_path)
  size = sum(x.size for x in _flat(state.generator['params']))
  count = tick['Gradients/nonfinite/G']
  assert count['num'] == 2
  assert 0 < count['mean'] <= size
  assert tick['Gradients/nonfinite/D']['mean'] == 0
  total = round(count['mean'] * count['num'])
  assert (
    f'Warning: {total} non-finite gradient values of G were replaced'
    in (tmp_path / 'log.txt').read_text()
  )


@pytest.mark.parametrize(
  ('precision', 'channels', 'label_dim', 'count', 'batch'),
  [
    # Between them: both 16-bit types, grey and RGBA, labels, ten images and
    # one, and a batch of one; adaptive augmentation and a fixed one.
    ('bf16', 1, 3, 10, 8),
    ('fp16', 4, 0, 1, 1),
  ],
)
def test_trains_on(tmp_path, precision, channels, label_dim, count, batch):
  config = _config(batch=batch, total_kimg=20 * batch / 1000)
  config.model.precision = precision
  if batch == 1:
    config.train.augment.update(mode='ada', speed_kimg=0.05)
  else:
    config.train.augment.update(mode='fixed', p=0.5)
  config.data.cond = label_dim > 0
  config.log.kimg_per_tick = 10 * batch / 1000
  source = noise.Noise(count, channels=channels, label_dim=label_dim)
  state = _train(config, source, tmp_path)
  assert int(state.step) == 20
  for leaf in _flat(state):
    assert np.all(np.isfinite(leaf))
  for tick in _read_stats(tmp_path):
    assert tick['Gradients/nonfinite/G']['mean'] == 0
    assert tick['Gradients/nonfinite/D']['mean'] == 0
  model = model_lib.load_model(tmp_path)
  c = np.eye(3, dtype=np.float32)[:2] if label_dim else None
  images = model(model_lib.seed_latents([0, 1], 8), c)
  assert images.shape == (2, 16, 16, channels)
  assert images.dtype == jnp.float32
  assert np.all(np.isfinite(images))


def test_an_unwritable_workdir_is_refused_before_compute(tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  # Nothing is computed.
  monkeypatch.setattr(loop.trainer_lib, 'jit_init', None)
  with pytest.raises(OSError, match=r'Cannot write to the workdir .*/file/run'):
    _train(_config(), noise.Noise(), tmp_path / 'file' / 'run')


def test_a_run_older_than_a_field_goes_on_with_its_default(tmp_path):
  config = _config()
  options = config.to_dict()
  del options['model']['synthesis']['noise']

  def check(difference):
    return compare.check_changes(difference, tmp_path, allow_all=False)

  with writer_lib.RunWriter(tmp_path) as run:
    run.write_options(options)
    assert check(run.open_options(config)) == []
    config.model.synthesis.noise = True
    with pytest.raises(ValueError, match=r'noise: \(absent\) -> true'):
      check(run.open_options(config))
