"""The demo model of the package: its files, its name, its first images."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

import sg3jax
from sg3jax import launch, trees
from sg3jax import model as model_lib
from sg3jax.interop import model_files, packaged_models

_ROOT = pathlib.Path(__file__).parents[1]
_FOLDER = pathlib.Path(sg3jax.__file__).parent / 'models' / 'demo'
# A wheel must stay small.
_MAX_BYTES = 16 * 10**6


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """The current folder, empty."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_it_states_where_it_comes_from():
  source = model_files.read_config(_FOLDER)['source']
  assert source['licence'] == 'CC BY 4.0'
  assert 'Twemoji' in source['credits']
  assert 'Copyright 2019 Twitter' in source['credits']
  assert source['command'].startswith('sg3jax train --config=demo ')
  assert source['kimg'] > 0
  assert source['hours'] > 0
  assert source['device']['kind'] == 'cpu'
  assert source['data'] == 'emoji:20000'


def test_its_sum_matches_and_it_is_small():
  content = (_FOLDER / model_files.ARRAYS).read_bytes()
  source = model_files.read_config(_FOLDER)['source']
  assert hashlib.sha256(content).hexdigest() == source['sha256']
  assert len(content) < _MAX_BYTES


def test_its_card_is_of_this_model():
  source = model_files.read_config(_FOLDER)['source']
  card = (_ROOT / 'docs' / 'demo.md').read_text()
  for fact in (
    source['sha256'],
    source['command'],
    f'{source["kimg"]:g} thousand (kimg)',
    f'{(_FOLDER / model_files.ARRAYS).stat().st_size:,} bytes',
    source['licence'],
    'Copyright 2019 Twitter, Inc and other contributors',
  ):
    assert fact in card
  assert (_ROOT / 'docs' / 'images' / 'demo.png').is_file()


def test_its_metrics_are_those_of_its_training():
  kimg = model_files.read_config(_FOLDER)['source']['kimg']
  lines = [
    json.loads(line)
    for path in _FOLDER.glob('metric-*.jsonl')
    for line in path.read_text().splitlines()
  ]
  assert {'eqt50k_int', 'swd'} <= {line['metric'] for line in lines}
  assert {line['kimg'] for line in lines} == {kimg}
  assert model_lib.load_model('demo').kimg == kimg


def test_its_design_is_that_of_the_configuration():
  there = trees.flatten(model_lib.read_options('demo')['model'])
  config = launch.load_config('demo').model.to_dict()
  here = trees.flatten(json.loads(json.dumps(config)))
  for settled in ('img_channels', 'label_dim'):
    there.pop(settled)
  # Fields that are newer than the demo are not in its file.
  assert there == {name: here[name] for name in there}


def test_a_wheel_contains_it():
  wheel = pytest.importorskip('hatchling.builders.wheel')
  builder = wheel.WheelBuilder(str(_ROOT))
  names = {
    pathlib.PurePath(file.distribution_path).as_posix()
    for file in builder.recurse_included_files()
  }
  for path in _FOLDER.iterdir():
    assert f'sg3jax/models/demo/{path.name}' in names
  # The pages of runs and reports need these.
  assert {
    'sg3jax/pages/style.css',
    'sg3jax/report/page.html.j2',
    'sg3jax/eval/result_page/page.html.j2',
  } <= names


def test_it_generates_images_of_faces(elsewhere):
  model = sg3jax.load_model('demo')
  images = np.stack([image for _, image in model.generate(range(8))])
  assert images.shape == (8, 32, 32, 3)
  assert np.isfinite(images).all()
  # The middle of a face is yellow: red and green exceed blue.
  red, green, blue = images[:, 12:20, 12:20].mean(axis=(0, 1, 2))
  assert min(red, green) > blue + 0.3
  assert images.std(axis=0).mean() > 0.1
  assert model.discriminate(images).shape == (8, 1)


def test_a_folder_of_the_user_comes_first(elsewhere, caplog):
  assert packaged_models.is_packaged('demo')
  assert launch.run_folder('demo') == _FOLDER
  (elsewhere / 'demo').mkdir()
  packaged_models._warn.cache_clear()
  for _ in range(2):
    with pytest.raises(FileNotFoundError):
      sg3jax.load_model('demo')
  assert caplog.text.count('and not from sg3jax') == 1
  assert str(elsewhere / 'demo') in caplog.text
  assert launch.run_folder('demo') == pathlib.Path('demo')


def test_other_paths_do_not_name_it(elsewhere):
  for path in ('runs/demo', str(elsewhere / 'demo')):
    assert not packaged_models.is_packaged(path)
    with pytest.raises(FileNotFoundError):
      sg3jax.load_model(path)
