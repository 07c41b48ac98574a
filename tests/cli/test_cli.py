"""The commands in processes of their own, from training to pictures."""

import json
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from PIL import Image

import sg3jax
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import config as config_lib
from sg3jax.train.step import build

_CONFIG = tiny_run.__file__


@pytest.fixture(scope='session')
def data(tmp_path_factory):
  """A folder of twelve images, of two classes."""
  folder = tmp_path_factory.mktemp('data')
  rng = np.random.RandomState(0)
  for i in range(12):
    image = rng.randint(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(image).save(folder / f'{i:02d}.png')
  labels = [[f'{i:02d}.png', i % 2] for i in range(12)]
  (folder / 'dataset.json').write_text(json.dumps({'labels': labels}))
  return folder


def _train(cli, workdir, data, *args):
  status, out, error = cli(
    'train',
    f'--config={_CONFIG}',
    f'--config.data.source={data}',
    f'--workdir={workdir}',
    *args,
  )
  assert status == 0, error
  return out


@pytest.fixture(scope='session')
def run(cli, data, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('runs') / 'plain'
  _train(cli, workdir, data, '--config.log.metrics=swd')
  return workdir


@pytest.fixture(scope='session')
def conditional_run(tmp_path_factory):
  """A checkpoint of random networks of two classes, as a run would leave it."""
  workdir = tmp_path_factory.mktemp('runs') / 'conditional'
  config = tiny_run.get_config()
  config_lib.resolve(config, img_channels=3, label_dim=2)
  rng = np.random.RandomState(0)
  state = jax.tree.map(
    lambda x: np.ones(x.shape, x.dtype),
    jax.eval_shape(build.make_trainer(config).init, jax.random.key(0)),
  )
  params = jax.tree.map(
    lambda x: rng.randn(*x.shape).astype(x.dtype),
    state.generator_ema['params'],
  )
  state = state.replace(
    step=np.int32(2),
    nimg=np.int32(16),
    generator_ema=state.generator_ema | {'params': params},
  )
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  options = config.to_dict() | {'class_names': ['cat', 'dog']}
  checkpoints.save(jax.tree.map(jnp.asarray, state), options)
  checkpoints.close()
  return workdir


@pytest.fixture(scope='session')
def pictures(cli, run, tmp_path_factory):
  """Pictures of five seeds."""
  outdir = tmp_path_factory.mktemp('pictures')
  status, out, error = cli(
    'generate', f'--network={run}', '--seeds=0,1,4-6', f'--outdir={outdir}'
  )
  assert status == 0, error
  compiling, compiled = error.splitlines()
  assert compiling == ('Compiling:      the generator, for 5 images at a time')
  assert re.fullmatch(r'Compiled:       in \d+s', compiled)
  names = [f'seed{seed:04d}.png' for seed in (0, 1, 4, 5, 6)]
  assert out.split() == [str(outdir / name) for name in names]
  assert sorted(path.name for path in outdir.iterdir()) == names
  return outdir


@pytest.fixture(scope='module')
def model(run):
  return sg3jax.load_model(run)


@pytest.fixture(scope='module')
def z():
  return np.random.RandomState(0).randn(2, 8).astype(np.float32)


def _read(path):
  with Image.open(path) as image:
    return np.asarray(image)


def _to_uint8(images):
  scaled = np.asarray(images) * 127.5 + 128
  return np.clip(scaled, 0, 255).astype(np.uint8)


def _fails(cli, *args) -> str:
  """Runs a command that must end with one line; returns that line."""
  status, out, error = cli(*args)
  assert status not in (0, None)
  assert not out
  first, *rest = error.splitlines()
  assert first.startswith('error: ')
  assert rest in ([], ['(--debug shows where)'])
  return first


@pytest.mark.slow
class TestTrain:
  def test_leaves_a_run_folder(self, run):
    assert (run / 'checkpoints' / '2').is_dir()
    assert len((run / 'stats.jsonl').read_text().splitlines()) == 1
    assert (run / 'metric-swd.jsonl').exists()

  def test_the_log_says_what_is_compiled(self, run):
    lines = (run / 'log.txt').read_text().splitlines()
    for what, done in (
      ('the networks as new', 'Compiled:'),
      ('the evaluation', 'Evaluated:'),
      ('a training step', 'Compiled:'),
    ):
      start = lines.index(f'Compiling:      {what}')
      ends = [line.startswith(f'{done:15} in ') for line in lines[start:]]
      assert any(ends)

  def test_the_same_command_again_has_nothing_to_do(self, cli, run, data):
    before = (run / 'stats.jsonl').read_text()
    out = _train(cli, run, data, '--config.log.metrics=swd')
    assert 'Resuming:       from step 2' in out
    assert (run / 'stats.jsonl').read_text() == before

  def test_a_signal_ends_it_with_a_status_to_try_again(
    self, cli, run, data, tmp_path
  ):
    process = cli.start(
      'train',
      f'--config={_CONFIG}',
      f'--config.data.source={data}',
      f'--workdir={tmp_path}',
      '--config.train.total_kimg=1000',
    )
    while not process.stdout.readline().startswith('tick 0 '):
      assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    (line,) = (x for x in out.splitlines() if x.startswith('Stopped:'))
    step = int(re.search(r'by SIGTERM at step (\d+),', line)[1])
    assert step >= 2
    assert (tmp_path / 'checkpoints' / str(step)).is_dir()
    assert error.splitlines()[-1].startswith(
      'SIGTERM: the run finishes its step, saves and stops'
    )
    assert 'Traceback' not in error

  def test_a_misspelt_metric_ends_before_the_run_folder_is_made(
    self, cli, data, tmp_path
  ):
    error = _fails(
      cli,
      'train',
      f'--config={_CONFIG}',
      f'--config.data.source={data}',
      f'--workdir={tmp_path / "run"}',
      '--config.data.cond=1',
      '--config.log.metrics=swd,eqq',
    )
    assert 'got eqq: did you mean eq' in error
    assert not (tmp_path / 'run').exists()

  def test_metrics_that_a_generator_cannot_have_end_before_it_too(
    self, cli, data, tmp_path
  ):
    error = _fails(
      cli,
      'train',
      '--config=stylegan2:16',
      f'--config.data.source={data}',
      f'--workdir={tmp_path / "run"}',
      '--config.data.cond=1',
      '--config.log.metrics=swd,eqt',
    )
    assert 'this one has a learned constant: use d_shift, swd' in error
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
class TestGenerate:
  def test_a_seed_names_the_official_latent(self, model, pictures):
    for seed in (0, 5):
      z = np.random.RandomState(seed).randn(1, 8).astype(np.float32)
      expected = _to_uint8(model(z))[0].astype(int)
      # Another batch size may round a value to its neighbour.
      assert (
        np.abs(_read(pictures / f'seed{seed:04d}.png') - expected).max() < 2
      )

  def test_existing_files_are_kept_unless_told(self, cli, run, pictures):
    path = pictures / 'seed0004.png'
    args = ('generate', f'--network={run}', f'--outdir={pictures}', '--trunc=0')
    before = path.read_bytes()
    error = _fails(cli, *args, '--seeds=4')
    assert f'{path} exists: pass --overwrite or another --outdir' in error
    assert path.read_bytes() == before
    pixels = _read(path)
    status, _, error = cli(*args, '--seeds=4,5', '--overwrite')
    assert status == 0, error
    assert np.any(_read(path) != pixels)  # The files also name their commands.
    # Without truncation's rest there is one picture: that of the mean style.
    assert path.read_bytes() == (pictures / 'seed0005.png').read_bytes()

  def test_translates_and_rotates(self, cli, run, model, tmp_path):
    args = ('generate', f'--network={run}', '--seeds=2', '--trunc=0.7')
    status, _, error = cli(
      *args, f'--outdir={tmp_path}', '--translate=0.25,0', '--rotate=90'
    )
    assert status == 0, error
    # The inverse: back by 0.25, then clockwise by a quarter turn.
    back = np.array([[1, 0, -0.25], [0, 1, 0], [0, 0, 1]])
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    z = np.random.RandomState(2).randn(1, 8).astype(np.float32)
    picture = _read(tmp_path / 'seed0002.png').astype(int)
    plain, expected = (
      _to_uint8(model(z, truncation_psi=0.7, transform=transform))[0]
      for transform in (None, (turn @ back).astype(np.float32))
    )
    assert np.abs(picture - plain).max() > 2
    assert np.abs(picture - expected).max() < 2

  def test_precision_and_batch(self, cli, run, pictures, tmp_path):
    status, _, error = cli(
      'generate', f'--network={run}', '--seeds=0,1,4', f'--outdir={tmp_path}',
      '--precision=bf16', '--batch=2',
    )  # fmt: skip
    assert status == 0, error
    z = sg3jax.model.seed_latents([0, 1, 4], 8)
    images = sg3jax.load_model(run, precision='bf16')(z)
    for seed, image in zip((0, 1, 4), _to_uint8(images), strict=True):
      picture = _read(tmp_path / f'seed{seed:04d}.png').astype(int)
      assert np.abs(picture - image).max() < 2
    exact = sg3jax.load_model(run)(z)
    assert np.abs(images - exact).max() > 0

  def test_classes(self, cli, conditional_run, tmp_path):
    args = (
      'generate', f'--network={conditional_run}', '--seeds=0', '--overwrite',
      f'--outdir={tmp_path}',
    )  # fmt: skip
    error = _fails(cli, *args)
    assert 'the network is conditional: pass --class=0 to --class=1' in error
    assert '--class=1' in _fails(cli, *args, '--class=2')
    pictures = []
    for chosen, named in (('0', '0 cat'), ('dog', '1 dog')):
      status, _, error = cli(
        *args,
        f'--class={chosen}',
        '--trunc=0',
        '--truncation_towards=class',
      )
      assert status == 0, error
      assert f'Class:          {named}' in error
      pictures.append(_read(tmp_path / 'seed0000.png'))
    assert np.any(pictures[0] != pictures[1])


@pytest.mark.slow
def test_evaluate_prints_and_appends_json(cli, run, data, tmp_path):
  args = (
    'evaluate', f'--network={run}', '--metrics=swd,eqt', f'--outdir={tmp_path}',
    '--samples=12',
  )  # fmt: skip
  assert 'compares with real images: pass --data' in _fails(cli, *args)
  status, out, error = cli(*args, f'--data={data}')
  assert status == 0, error
  figures = json.loads(out)
  assert set(figures) == {
    'swd', 'eqt50k_int', 'eqt50k_int_ceiling', 'kimg', 'precision',
  }  # fmt: skip
  assert figures['precision'] == 'fp32'
  for what in ('the generator, for', 'eqt of'):
    assert f'Compiling:      {what} 16 images at a time\n' in error
  assert error.count('Compiled:       in ') == 2
  for name in ('swd', 'eqt50k_int'):
    (line,) = (tmp_path / f'metric-{name}.jsonl').read_text().splitlines()
    result = json.loads(line)
    assert result['results'][name] == figures[name]
    assert (result['num_samples'], result['kimg']) == (12, 0.016)
    assert result['precision'] == 'fp32'


@pytest.mark.slow
def test_evaluate_measures_in_the_precision_that_is_asked_for(
  cli, run, tmp_path
):
  args = (
    'evaluate', f'--network={run}', '--metrics=eqt', f'--outdir={tmp_path}',
    '--samples=8', '--batch=8',
  )  # fmt: skip
  values = {}
  for precision in ('fp32', 'bf16'):
    status, out, error = cli(*args, f'--precision={precision}')
    assert status == 0, error
    values[precision] = json.loads(out)['eqt50k_int']
  lines = (tmp_path / 'metric-eqt50k_int.jsonl').read_text().splitlines()
  results = [json.loads(line) for line in lines]
  assert [result['precision'] for result in results] == ['fp32', 'bf16']
  # Rounding to 8 bits does not move with the pixels.
  assert values['bf16'] < values['fp32'] - 1


@pytest.mark.slow
def test_doctor_examines_this_machine(cli):
  status, out, error = cli('doctor')
  assert status == 0, error
  assert f'jax                  {jax.__version__}\n' in out
  assert 'platform             cpu\n' in out
  assert "mesh                 {'data': 1}\n" in out
  assert out.endswith('self-test            passed\n')


@pytest.mark.slow
class TestModel:
  def test_call_is_mapping_then_synthesis(self, model, z):
    images = model(z)
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype == np.float32
    ws = model.mapping(z)
    assert ws.shape == (2, 4, 8)
    np.testing.assert_array_equal(model.synthesis(ws), images)
    assert (model.resolution, model.z_dim, model.label_dim) == (16, 8, 0)

  def test_checkpoints_open_too(self, run, model, z):
    other = sg3jax.load_model(run / 'checkpoints' / '2')
    np.testing.assert_array_equal(other.mapping(z), model.mapping(z))

  def test_truncation(self, model, z):
    mean = model.mapping(z, truncation_psi=0)
    assert np.ptp(mean, axis=0).max() == 0
    ws = model.mapping(z)
    half = model.mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    np.testing.assert_allclose(
      half[:, :2], (ws + mean)[:, :2] / 2, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(half[:, 2:], ws[:, 2:], rtol=1e-6, atol=1e-6)

  def test_transforms(self, model, z):
    ws = model.mapping(z)
    eye = np.eye(3, dtype=np.float32)
    plain = model.synthesis(ws)
    np.testing.assert_allclose(
      model.synthesis(ws, eye), plain, rtol=1e-5, atol=1e-5
    )
    shift = eye.copy()
    shift[0, 2] = 0.25
    both = model.synthesis(ws, np.stack([eye, shift]))
    np.testing.assert_allclose(both[0], plain[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
      both[1], model.synthesis(ws, shift)[1], rtol=1e-5, atol=1e-5
    )
    assert np.abs(both[1] - plain[1]).max() > 1e-3

  def test_noise_modes(self, model, z):
    for mode in ('random', 'none'):
      np.testing.assert_array_equal(model(z, noise_mode=mode), model(z))
    with pytest.raises(ValueError, match="const, random, none, got 'loud'"):
      model(z, noise_mode='loud')

  def test_discriminate(self, model, z):
    logits = model.discriminate(model(z))
    assert logits.shape == (2, 1)
    assert np.all(np.isfinite(logits))

  def test_labels(self, conditional_run, z):
    model = sg3jax.load_model(conditional_run)
    assert model.label_dim == 2
    c = np.eye(2, dtype=np.float32)
    images = model(z[:1].repeat(2, axis=0), c)
    assert np.abs(images[0] - images[1]).max() > 0
    assert model.discriminate(images, c).shape == (2, 1)
