"""What a run records of its data, and what it says if they have changed."""

import json
import shutil
import types

import numpy as np
import pytest
import tiny
from PIL import Image

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.data import sources
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import config as config_lib
from sg3jax.train import loop, sharding
from sg3jax.train.config import compare
from sg3jax.train.run_folder import dataset


def _write(folder, names, seed=0):
  rng = np.random.RandomState(seed)
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.randint(0, 256, [16, 16, 3]).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name)
  return folder


_NAMES = ['cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png']


@pytest.fixture
def data(tmp_path):
  return _write(tmp_path / 'data', _NAMES)


@pytest.fixture
def workdir(tmp_path):
  """The folder of a run that has a checkpoint."""
  (tmp_path / 'run' / 'checkpoints' / '2' / 'networks').mkdir(parents=True)
  return tmp_path / 'run'


def _open(data, *, cond=True):
  return sources.open_source(str(data), use_labels=cond)


def _check(workdir, source, *, allow=False):
  return dataset.check(workdir, source, allow_config_change=allow)


def test_the_same_data_are_no_difference(data, workdir, tmp_path):
  dataset.record(workdir, _open(data))
  record = json.loads((workdir / 'data.json').read_text())
  assert (record['images'], record['class_names']) == (4, ['cat', 'dog'])
  assert _check(workdir, _open(data)) == []
  archive = shutil.make_archive(str(tmp_path / 'zipped'), 'zip', data)
  assert _check(workdir, _open(archive)) == []


def _remove(data):
  (data / 'cat/2.png').unlink()


def _add(data):
  _write(data, ['dog/3.png', 'dog/4.png'])


def _rename(data):
  (data / 'cat/2.png').rename(data / 'cat/3.png')


def _rename_class(data):
  (data / 'dog').rename(data / 'emu')


def _add_class(data):
  _write(data, ['ant/1.png'])


def _number(data):
  labels = [[name, 1] for name in _NAMES]
  (data / 'dataset.json').write_text(json.dumps({'labels': labels}))


@pytest.mark.parametrize(
  ('change', 'difference'),
  [
    (_remove, 'data: 3 images, 1 fewer than the 4 before'),
    (_add, 'data: 6 images, 2 more than the 4 before'),
    (_rename, 'as many images, but with other names or in other order'),
    (_rename_class, 'data: classes removed: dog, classes added: emu'),
    (_add_class, 'data: labels of 3 features, where there were 2'),
    (_number, 'data: classes removed: cat, dog'),
  ],
)
def test_other_data_are_refused_with_the_difference(
  data, workdir, change, difference
):
  dataset.record(workdir, _open(data))
  before = (workdir / 'data.json').read_text()
  change(data)
  with pytest.raises(ValueError, match='holds a run on other data') as info:
    _check(workdir, _open(data))
  assert difference in str(info.value)
  assert 'allow_config_change' in str(info.value)
  assert (workdir / 'data.json').read_text() == before
  lines = _check(workdir, _open(data), allow=True)
  assert any(difference in line for line in lines)
  dataset.record(workdir, _open(data))
  assert _check(workdir, _open(data)) == []


def test_other_labels_of_the_same_images_are_refused(data, workdir):
  def label(classes):
    pairs = list(map(list, zip(_NAMES, classes, strict=True)))
    (data / 'dataset.json').write_text(json.dumps({'labels': pairs}))

  label([0, 0, 1, 1])
  dataset.record(workdir, _open(data))
  label([0, 1, 0, 1])
  with pytest.raises(ValueError, match='other labels of the same images'):
    _check(workdir, _open(data))
  label([[0.5], [0.25], [0.0], [1.0]])
  with pytest.raises(ValueError, match='labels of 1 features, where there'):
    _check(workdir, _open(data))


def test_pixels_may_change(data, workdir):
  dataset.record(workdir, _open(data))
  _write(data, _NAMES, seed=1)
  assert _check(workdir, _open(data)) == []


@pytest.mark.parametrize('max_images', [2, 3])
def test_other_subsets_are_other_data(data, workdir, max_images):
  def some(count, seed=0):
    return sources.open_source(str(data), max_images=count, seed=seed)

  dataset.record(workdir, some(2))
  assert _check(workdir, some(2)) == []
  with pytest.raises(ValueError, match='holds a run on other data'):
    _check(workdir, some(max_images, seed=1))


def test_embedded_photographs_have_a_fingerprint(workdir):
  def crops(resolution):
    return sources.open_source('embedded:4', resolution=resolution)

  dataset.record(workdir, crops(16))
  assert _check(workdir, crops(16)) == []
  with pytest.raises(ValueError, match='as many images, but'):
    _check(workdir, crops(32))


def test_a_run_without_a_record_gets_one(data, workdir):
  assert _check(workdir, _open(data)) == []
  dataset.record(workdir, _open(data))
  _remove(data)
  with pytest.raises(ValueError, match='1 fewer'):
    _check(workdir, _open(data))


@pytest.mark.parametrize(
  ('names', 'problem'),
  [
    (['2/1.png', '10/1.png'], r'sorted by name before \(10, 2\)'),
    (['a/1.png', 'b/1.gif'], r'1 image not read before: b/1\.gif'),
  ],
)
def test_a_run_without_a_record_keeps_its_meaning(
  workdir, tmp_path, names, problem
):
  source = _open(_write(tmp_path / 'old', names))
  with pytest.raises(ValueError, match=problem):
    _check(workdir, source)
  assert _check(workdir, source, allow=True)
  shutil.rmtree(workdir / 'checkpoints')
  assert _check(workdir, source) == []  # A new run has no meaning to keep.


@pytest.mark.parametrize(
  'text', ['', '{', '[]', '3', '[' * 100_000, '{"images": NaN']
)
def test_a_damaged_record_is_named(data, workdir, text):
  (workdir / 'data.json').write_text(text)
  with pytest.raises(ValueError, match=r'data\.json .*restore it, or remove'):
    _check(workdir, _open(data))


@pytest.mark.parametrize('record', [{}, {'images': 'x', 'class_names': [1]}])
def test_a_strange_record_is_a_difference(data, workdir, record):
  (workdir / 'data.json').write_text(json.dumps(record))
  with pytest.raises(ValueError, match='holds a run on other data'):
    _check(workdir, _open(data))


def _configured(source):
  config = config_lib.default_config()
  config.data.source = source
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return config


@pytest.fixture
def here(data, monkeypatch):
  """The data in the current folder, which is also the home folder."""
  monkeypatch.chdir(data.parent)
  monkeypatch.setenv('HOME', str(data.parent))
  (data.parent / 'link').symlink_to(data)
  return data


@pytest.mark.parametrize(
  'name',
  ['data', './data', 'data/', '~/data', 'data/cat/..', 'link', 'link/', '{}'],
)
def test_the_same_data_by_another_path_are_the_same(here, name, monkeypatch):
  first = _configured('data')
  assert first.data.source == str(here)
  second = _configured(name.format(here))
  assert compare.config_difference(first, second) == []
  assert compare.config_difference(second, first) == []
  monkeypatch.chdir('/')
  assert compare.config_difference(first, second) == []


def test_paths_of_runs_from_before_are_taken_from_here(here):
  old = config_lib.default_config()
  old.data.source = 'data'
  old.train.init_from = 'link'
  new = old.copy_and_resolve_references()
  new.data.source, new.train.init_from = str(here), '~/data'
  assert compare.config_difference(old, new) == []


@pytest.mark.parametrize(
  ('a', 'b', 'same'),
  [
    ('embedded', 'embedded:4000', True),
    ('embedded:0010', 'embedded:10', True),
    ('embedded', 'embedded:40', False),
    ('embedded', './embedded', False),
    ('tfds:x', 'tfds:x:train', True),
    ('tfds:x@data', 'tfds:x:train@~/data/', True),
    ('tfds:x@data', 'tfds:x@link', True),
    ('tfds:x@data', 'tfds:x', False),
    ('tfds:x:test', 'tfds:x', False),
    ('tfds:x:train[:50%]', 'tfds:x:train[:50%]', True),
    ('data', 'data2', False),
    ('nowhere', './nowhere', True),
  ],
)
def test_names_of_data_are_compared_by_what_they_name(here, a, b, same):
  assert sources.is_same(a, b) == same
  assert sources.absolute(sources.absolute(a)) == sources.absolute(a)
  assert sources.is_same(a, sources.absolute(a))


def test_messages_say_what_was_typed(here):
  del here
  with pytest.raises(
    FileNotFoundError, match=r"got '~/nowhere', which does not exist"
  ):
    sources.open_source('~/nowhere')


@pytest.mark.slow
@pytest.mark.usefixtures('shared_programs')
def test_a_run_records_its_data_and_compares_them(
  tmp_path, monkeypatch, capsys
):
  names = ['0', '1', '2', '10']
  files = [f'{name}/{k}.png' for name in names for k in 'ab']
  data = _write(tmp_path / 'data', files)
  (data / 'notes.txt').write_text('nothing')

  def train(source, kimg, **options):
    config = tiny.tiny_config(total_kimg=kimg)
    config.data.source, config.data.cond = source, True
    images = launch.open_source(config)
    loop.train(config, images, 'run', mesh=sharding.make_mesh(1), **options)
    return capsys.readouterr().out

  monkeypatch.chdir(tmp_path)
  out = train('data', 0.008)
  assert 'Classes:        0 0 (2), 1 1 (2), 2 2 (2), 3 10 (2)' in out
  assert 'Data note:      1 file skipped' in out
  record = json.loads((tmp_path / 'run/data.json').read_text())
  assert record['class_names'] == names
  assert checkpoint_lib.load_options('run')['class_names'] == names
  assert model_lib.load_model('run').class_names == tuple(names)

  (data / '2/a.png').unlink()
  with pytest.raises(ValueError, match='7 images, 1 fewer than the 8 before'):
    train('data', 0.016)
  out = train(str(data), 0.016, allow_config_change=True)
  assert 'Changed:        at step 1: train.total_kimg' in out
  assert 'data: 7 images, 1 fewer' in out
  assert 'data.source' not in out
  assert json.loads((tmp_path / 'run/data.json').read_text())['images'] == 7


@pytest.mark.parametrize(
  ('options', 'names'),
  [({}, None), ({'class_names': ['cat', 'dog']}, ('cat', 'dog'))],
)
def test_a_model_knows_the_names_of_its_classes(options, names):
  model = types.SimpleNamespace(options=options, label_dim=2)
  assert model_lib.Model.class_names.fget(model) == names


@pytest.mark.parametrize('names', [3, 'ab', {}, ['cat'], ['cat', 3]])
def test_names_that_are_not_one_for_each_class_are_refused(names):
  model = types.SimpleNamespace(options={'class_names': names}, label_dim=2)
  with pytest.raises(ValueError, match='must be a list of 2 strings'):
    model_lib.Model.class_names.fget(model)
