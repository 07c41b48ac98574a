"""Datasets in buckets: a folder stands for the bucket."""

import io
import pathlib
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image

from sg3jax.data import remote, sources

array_record = pytest.importorskip('array_record.python.array_record_module')

ADDRESS = 'gs://bucket/sets/cats.array_record'


class _Remote:
  """A path in a bucket, which is a path on the disk here."""

  opened: list[str] = []  # noqa: RUF012

  def __init__(self, path):
    self._path = pathlib.Path(path)
    self.name = self._path.name

  def iterdir(self):
    return [_Remote(path) for path in self._path.iterdir()]

  def stat(self):
    return types.SimpleNamespace(length=self._path.stat().st_size)

  def open(self, mode):
    self.opened.append(self.name)
    return self._path.open(mode)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The folder of the dataset in the bucket, with two shards of two images."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(_Remote, 'opened', [])
  folder = tmp_path / 'bucket' / 'sets' / 'cats.array_record'
  folder.mkdir(parents=True)
  monkeypatch.setattr(
    epath,
    'Path',
    lambda address: _Remote(tmp_path / address.removeprefix('gs://')),
  )
  for shard in range(2):
    _write(folder / f'images-{shard}.array_record', [2 * shard, 2 * shard + 1])
  (folder / 'notes.txt').write_text('not to be copied')
  return folder


def _write(path, values):
  writer = array_record.ArrayRecordWriter(str(path), 'group_size:1')
  for value in values:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, 'png')
    writer.write(file.getvalue())
  writer.close()


def _values(address=ADDRESS):
  source = sources.open_source(address)
  return [int(source[i]['image'][0, 0, 0]) for i in range(len(source))]


def test_a_dataset_is_copied_once(bucket, tmp_path):
  assert _values() == [0, 1, 2, 3]
  assert sorted(_Remote.opened) == [
    'images-0.array_record', 'images-1.array_record'
  ]  # fmt: skip
  assert _values(f'{ADDRESS}/') == [0, 1, 2, 3]
  assert len(_Remote.opened) == 2
  (copy,) = (tmp_path / 'cache').rglob('cats.array_record')
  assert not (copy / 'notes.txt').exists()


def test_an_interrupted_copy_goes_on(bucket, tmp_path):
  _values()
  (copy,) = (tmp_path / 'cache').rglob('images-1.array_record')
  copy.write_bytes(copy.read_bytes()[:100])
  _Remote.opened.clear()
  assert _values() == [0, 1, 2, 3]
  assert _Remote.opened == ['images-1.array_record']


def test_what_is_gone_from_the_bucket_is_not_read(bucket):
  _values()
  (bucket / 'images-0.array_record').unlink()
  assert _values() == [2, 3]


def test_a_folder_without_records_is_refused(bucket):
  for path in bucket.glob('*.array_record'):
    path.unlink()
  with pytest.raises(ValueError, match=r'must contain \.array_record files'):
    _values()


def test_a_bucket_that_cannot_be_read_is_named(bucket):
  with pytest.raises(OSError, match=r'cannot read gs://bucket/sets/dogs \('):
    _values('gs://bucket/sets/dogs')


def test_a_disk_that_is_too_small_is_named(bucket, monkeypatch):
  monkeypatch.setattr(
    remote.shutil, 'disk_usage', lambda path: types.SimpleNamespace(free=10)
  )
  with pytest.raises(OSError, match='set XDG_CACHE_HOME to a folder'):
    _values()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  def fail(address):
    raise ImportError('Please install gcsfs to access Google Storage')

  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(epath, 'Path', fail)
  with pytest.raises(ImportError, match=r"pip install 'sg3jax\[gcs\]'"):
    _values()


@pytest.mark.parametrize('address', ['gs://', 'gs://bucket', 'gs://bucket/'])
def test_addresses_have_a_path(address):
  with pytest.raises(ValueError, match='must be gs://BUCKET/PATH, got'):
    _values(address)


def test_addresses_are_names_in_any_folder():
  assert sources.absolute(f'{ADDRESS}/') == ADDRESS
  assert sources.is_same(ADDRESS, f'{ADDRESS}/')
