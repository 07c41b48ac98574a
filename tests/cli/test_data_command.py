"""The command `sg3jax data`."""

import json

import in_process
import numpy as np
import pytest
from PIL import Image

from sg3jax.cli import data


@pytest.fixture
def photos(tmp_path):
  for i in range(4):
    folder = tmp_path / 'photos' / f'class{i % 2}'
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(i).randint(0, 256, [20, 30, 3], np.uint8)
    Image.fromarray(pixels).save(folder / f'{i}.png')
  return tmp_path / 'photos'


def run(action, *args):
  """Returns the status, or the message for 1, and what was printed."""
  return in_process.run(data, action, *args, '--workers=1')


def test_prepare_inspect_verify(photos, tmp_path):
  dest = tmp_path / 'made.zip'
  status, out = run(
    'prepare', f'--source={photos}', f'--dest={dest}', '--resolution=16x16',
    '--transform=center-crop', '--labels=folders', '--max-images=3',
  )  # fmt: skip
  assert status is None
  assert f'written       {dest}: 3 images of 16x16 pixels' in out
  status, out = run('verify', f'--source={dest}')
  assert status is None
  assert 'labels of 2 classes' in out
  status, out = run('inspect', f'--source={dest}', '--json')
  assert status is None
  assert json.loads(out)['classes'] == {'class0': 2, 'class1': 1}


def test_a_fault_is_an_error(photos):
  message, out = run('verify', f'--source={photos}', '--json')
  assert 'has 1 fault:\n  images must be square' in message
  assert json.loads(out)['faults']


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ([], 'must be one of prepare, inspect, verify, got none'),
    (['clean'], "got 'clean'"),
    (['prepare'], '--source is required'),
    (['prepare', '--source=x'], '--dest is required'),
    (['verify', '--source=x', '--dest=y.zip'], '--dest must be used with pre'),
    (['inspect', '--source=x', '--max_images=0'], '--max_images'),
    (['prepare', '--source=x', '--dest=y.zip', '--crop=nan'], '--crop must be'),
    (['prepare', '--source=nowhere', '--dest=y.zip'], 'does not exist'),
    (
      ['prepare', '--source=x', '--dest=y.zip', '--resolution=big'],
      'resolution must be WIDTHxHEIGHT',
    ),
    (['prepare', '--sources=x'], "did you mean 'source'"),
    (['prepare', 'x', 'y'], "unexpected argument 'x'"),
  ],
)
def test_errors_are_one_line(args, message):
  assert message in in_process.error(data, *args)


def test_stops_and_resumes(photos, tmp_path, monkeypatch):
  """As after a signal: with its own status, and the word for what to do."""
  from sg3jax.data.prepare import run as run_lib

  monkeypatch.setattr(run_lib, 'prepare', lambda *_, **__: None)
  arguments = (f'--source={photos}', f'--dest={tmp_path}/made.zip')
  status, out = run('prepare', *arguments)
  assert status == 75
  assert 'run the same command again to resume' in out
