"""`sg3jax project` on a model folder; its results are read back."""

import json

import in_process
import numpy as np
import pytest
import small_models
from PIL import Image

from sg3jax import model as model_lib
from sg3jax.cli import project
from sg3jax.editing import ws as ws_lib
from sg3jax.inversion import results


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  path = tmp_path_factory.mktemp('project') / 'model'
  model = small_models.make_model()
  results.save_model(path, model, model.variables, {})
  return path


@pytest.fixture
def photos(tmp_path):
  folder = tmp_path / 'photos'
  folder.mkdir()
  rng = np.random.RandomState(0)
  for name in 'abc':
    pixels = rng.randint(0, 255, (4, 4, 3), np.uint8).repeat(5, 0).repeat(5, 1)
    Image.fromarray(pixels).save(folder / f'{name}.png')
  return folder


_SHORT = (
  '--steps=2',
  '--refine_steps=2',
  '--candidates=4',
)


@pytest.mark.slow
def test_a_folder_is_projected_and_the_model_tuned(network, photos, tmp_path):
  outdir = tmp_path / 'out'
  status, out = in_process.run(
    project,
    f'--network={network}',
    f'--target={photos}',
    f'--outdir={outdir}',
    '--batch=2',
    '--pti',
    '--pti_steps=2',
    '--pti_learning_rate=0.01',
    '--loss=pyramid',
    *_SHORT,
  )
  assert status in (0, None)
  rows = [json.loads(line) for line in out.splitlines()]
  assert [row['name'] for row in rows] == ['a', 'b', 'c']
  summary = json.loads((outdir / 'projection.json').read_text())
  assert summary['loss'] == 'pyramid'
  assert summary['settings']['transform'] == 'later'
  for row in summary['images']:
    assert row['loss'] <= row['course'][0]['loss']
  model = small_models.make_model()
  styles = ws_lib.read(outdir / 'w.npz', model.num_ws, model.w_dim)
  assert styles.w.shape == (3, 4, 8)
  for name in 'abc':
    assert Image.open(outdir / f'{name}.png').size == (4 * 16, 16)
    assert Image.open(outdir / f'{name}_projected.png').size == (16, 16)
  clip = Image.open(outdir / 'trajectory.webp')
  assert clip.size == (3 * 16, 32)
  tuned = model_lib.load_model(outdir / 'model')
  assert np.any(tuned.synthesis(styles.w) != model.synthesis(styles.w))
  # The results are never overwritten.
  message = in_process.error(
    project,
    f'--network={network}',
    f'--target={photos}',
    f'--outdir={outdir}',
    *_SHORT,
  )
  assert 'exists and is not empty' in message


@pytest.mark.parametrize(
  ('args', 'part'),
  [
    ((), '--network is required'),
    (('--network=x',), '--target is required'),
    (('--network=x', '--target=y', '--outdir=z', '--space=z'), 'space'),
  ],
)
def test_bad_flags_are_refused_before_the_model_is_read(
  args, part, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert part in in_process.error(project, *args)


def test_photographs_are_needed(network, tmp_path):
  message = in_process.error(
    project,
    f'--network={network}',
    f'--target={tmp_path / "missing"}',
    f'--outdir={tmp_path / "out"}',
  )
  assert 'does not exist: pass an image file' in message
