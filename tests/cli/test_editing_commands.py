"""`sg3jax directions` and `surgery`, and edits of `generate`."""

import in_process
import numpy as np
import pytest
import small_models
from PIL import Image

from sg3jax import model as model_lib
from sg3jax.cli import directions, generate, surgery
from sg3jax.inversion import results


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  path = tmp_path_factory.mktemp('editing') / 'model'
  model = small_models.make_model()
  results.save_model(path, model, model.variables, {})
  return path


@pytest.mark.slow
def test_directions_are_named_and_applied(network, tmp_path):
  edits = tmp_path / 'edits'
  args = [
    f'--network={network}',
    f'--outdir={edits}',
    '--count=2',
    '--num_styles=1000',
  ]
  status, out = in_process.run(directions, *args)
  assert status in (0, None)
  assert out.split()[1] == 'sefa0'
  assert Image.open(edits / 'sheet.png').size == (7 * 16, 2 * 16)
  _, out = in_process.run(directions, *args, '--name=smile=1')
  assert 'smile' in out
  pictures = {}
  for name, options in {
    'plain': [],
    'edited': [f'--directions={edits}', '--direction=smile:3'],
  }.items():
    outdir = tmp_path / name
    status, _ = in_process.run(
      generate,
      f'--network={network}',
      '--seeds=0',
      f'--outdir={outdir}',
      *options,
    )
    assert status in (0, None)
    pictures[name] = np.asarray(Image.open(outdir / 'seed0000.png'))
  assert np.any(pictures['plain'] != pictures['edited'])


@pytest.mark.slow
def test_surgery_writes_models_and_pictures(network, tmp_path):
  output = tmp_path / 'grey'
  status, out = in_process.run(
    surgery,
    'channels',
    f'--network={network}',
    '--to=grey',
    f'--output={output}',
    '--seeds=0-2',
  )
  assert status in (0, None)
  assert out.strip() == str(output)
  assert model_lib.load_model(output).img_channels == 1
  assert Image.open(output / surgery.PICTURE).size == (3 * 16, 2 * 16)


@pytest.mark.parametrize(
  ('args', 'part'),
  [
    ((), 'must be one of average, blend, channels, crop'),
    (('--output=x',), 'must be one of average, blend, channels, crop'),
    (('melt', '--output=x'), "got 'melt'"),
    (('average',), '--output is required'),
    (('average', '--output=new'), '--networks is required'),
    (('average', '--output=new', '--networks=a,b', '--half_life=1'), 'one run'),
    (('blend', '--output=new', '--low=a', '--high=b'), '--layer is required'),
    (('crop', '--output=new', '--network=a'), '--size is required'),
  ],
)
def test_bad_flags_of_surgery_are_refused(args, part, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert part in in_process.error(surgery, *args)


def test_bad_flags_of_directions_are_refused(network, tmp_path):
  args = [f'--network={network}', f'--outdir={tmp_path}']
  assert 'FIRST-LAST' in in_process.error(directions, *args, '--layer_range=x')
  message = in_process.error(directions, *args, '--count=999')
  assert message.startswith('--count must be within 1..')
  message = in_process.error(
    generate, *args, '--seeds=0', f'--directions={tmp_path}'
  )
  assert '--direction is required' in message
