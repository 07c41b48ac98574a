"""Sources to prepare, their labels, and what is refused about them."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import raw_images
from PIL import Image

from sg3jax.data import archives, array_records, files, loader, sources
from sg3jax.data.prepare import (
  chosen_labels,
  raw_sources,
)


def made(source, tmp_path, **arguments):
  """Prepares a source; returns the dataset as training reads it."""
  dest = tmp_path / 'made.zip'
  raw_images.prepare(source, dest, **arguments)
  return files.ImageFiles(dest, use_labels=True)


def tar_of(path, members):
  with tarfile.open(path, 'w') as tar:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  return path


# Kinds of sources.


def test_webdataset(tmp_path):
  shards = tmp_path / 'shards'
  shards.mkdir()
  for shard in range(2):
    members = {}
    for i in range(3):
      key = f'{3 * shard + i:04d}'
      members[f'{key}.png'] = raw_images.png(3 * shard + i)
      members[f'{key}.cls'] = str(i).encode()
      members[f'{key}.txt'] = b'a caption'
    tar_of(shards / f'train-{shard}.tar', members)
  dataset = made(shards, tmp_path)
  assert dataset.labels().values.tolist() == [0, 1, 2, 0, 1, 2]
  np.testing.assert_array_equal(
    dataset[4]['image'], raw_images.waves(4, 16, 16)
  )


def test_a_tar_with_names_of_classes(tmp_path):
  members = {
    'a.png': raw_images.png(0),
    'a.cls': b'dog\n',
    'b.png': raw_images.png(1),
    'b.cls': b'cat',
  }
  dataset = made(tar_of(tmp_path / 'x.tar', members), tmp_path)
  assert dataset.class_names == ('cat', 'dog')
  assert dataset.labels().values.tolist() == [1, 0]


def test_damaged_and_compressed_tars(tmp_path):
  (tmp_path / 'x.tar').write_bytes(b'x' * 2000)
  with pytest.raises(ValueError, match='is not a tar file'):
    raw_sources.open_raw(str(tmp_path / 'x.tar'))
  (tmp_path / 'x.tar.gz').write_bytes(b'x')
  with pytest.raises(ValueError, match='decompress it first'):
    raw_sources.open_raw(str(tmp_path / 'x.tar.gz'))


@pytest.mark.parametrize('form', ['struct', 'binary'])
def test_parquet(form, tmp_path):
  pa = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  data = [raw_images.png(i) for i in range(5)]
  images = [{'bytes': d, 'path': None} for d in data]
  about = {'info': {'features': {'label': {'names': ['cat', 'dog']}}}}
  columns = {'image': data if form == 'binary' else images}
  table = pa.table(columns | {'label': [0, 1, 0, 1, 1], 'id': list('abcde')})
  table = table.replace_schema_metadata({'huggingface': json.dumps(about)})
  path = tmp_path / 'parts'
  path.mkdir()
  parquet.write_table(table.slice(0, 3), path / '0.parquet', row_group_size=2)
  parquet.write_table(table.slice(3), path / '1.parquet')
  source = raw_sources.open_raw(str(path))
  assert source.notes == ('1 column not read: id',)
  assert pickle.loads(pickle.dumps(source)).read(4) == data[4]
  dataset = made(path, tmp_path)
  assert dataset.class_names == ('cat', 'dog')
  assert dataset.labels().values.tolist() == [0, 1, 0, 1, 1]
  for i in range(5):
    expected = raw_images.waves(i, 16, 16)
    np.testing.assert_array_equal(dataset[i]['image'], expected)


def test_damaged_parquet(tmp_path):
  pytest.importorskip('pyarrow')
  (tmp_path / 'x.parquet').write_bytes(b'x' * 100)
  with pytest.raises(ValueError, match='copy it again'):
    raw_sources.open_raw(str(tmp_path / 'x.parquet'))


@pytest.mark.parametrize('packed', [False, True])
def test_cifar(packed, tmp_path):
  random = np.random.RandomState(0)
  records = random.randint(0, 256, [6, 3073]).astype(np.uint8)
  records[:, 0] = [3, 1, 0, 2, 3, 1]
  contents = {
    'data_batch_1.bin': records[:4].tobytes(),
    'data_batch_2.bin': records[4:].tobytes(),
    'test_batch.bin': records.tobytes(),
    'batches.meta.txt': b'plane\ncar\nbird\ncat\n\n',
  }
  if packed:
    source = tmp_path / 'cifar-10-binary.tar.gz'
    with tarfile.open(source, 'w:gz') as tar:
      for name, data in contents.items():
        info = tarfile.TarInfo(f'cifar-10-batches-bin/{name}')
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
  else:
    source = tmp_path / 'cifar'
    source.mkdir()
    for name, data in contents.items():
      (source / name).write_bytes(data)
  dataset = made(source, tmp_path)
  assert dataset.class_names == ('plane', 'car', 'bird', 'cat')
  assert dataset.labels().values.tolist() == [3, 1, 0, 2, 3, 1]
  planes = records[5, 1:].reshape(3, 32, 32)
  np.testing.assert_array_equal(dataset[5]['image'], planes.transpose(1, 2, 0))


def test_the_python_version_of_cifar_is_not_read(tmp_path):
  (tmp_path / 'data_batch_1').write_bytes(b'x')
  with pytest.raises(ValueError, match='download the binary version'):
    raw_sources.open_raw(str(tmp_path))


@pytest.mark.parametrize('suffix', ['', '.gz'])
def test_mnist(suffix, tmp_path):
  digits = np.stack([raw_images.waves(i, 28, 28, 1)[..., 0] for i in range(4)])
  source = tmp_path / f'train-images-idx3-ubyte{suffix}'
  source.write_bytes(raw_images.idx(digits, suffix == '.gz'))
  labels = tmp_path / f'train-labels-idx1-ubyte{suffix}'
  labels.write_bytes(raw_images.idx(np.array([5, 0, 4, 1]), suffix == '.gz'))
  dataset = made(source, tmp_path)
  assert dataset.channels == 1
  assert dataset.labels().values.tolist() == [5, 0, 4, 1]
  np.testing.assert_array_equal(dataset[2]['image'][..., 0], digits[2])


def test_mnist_with_other_labels(tmp_path):
  source = tmp_path / 't10k-images-idx3-ubyte'
  source.write_bytes(raw_images.idx(np.zeros([4, 28, 28])))
  labels = tmp_path / 't10k-labels-idx1-ubyte'
  labels.write_bytes(raw_images.idx(np.array([5, 0])))
  with pytest.raises(ValueError, match='must have 4 labels, got 2'):
    raw_images.prepare(source, tmp_path / 'other.zip')


def test_truncated_mnist(tmp_path):
  source = tmp_path / 'train-images-idx3-ubyte.gz'
  data = raw_images.idx(np.zeros([9, 28, 28]), compress=True)
  source.write_bytes(data[:-20])
  with pytest.raises(ValueError, match='is damaged'):
    raw_sources.open_raw(str(source))


def test_prepared_data_can_be_prepared_again(tmp_path):
  source = raw_images.write(tmp_path / 'in', ['a/1.png', 'b/2.png', 'b/3.png'])
  raw_images.prepare(source, tmp_path / 'x.array_record', labels='folders')
  dataset = made(tmp_path / 'x.array_record', tmp_path, width=8, height=8)
  assert dataset.resolution == 8
  assert dataset.class_names == ('a', 'b')
  assert dataset.labels().values.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    ('https://example.org/x.zip', 'download it first'),
    ('nowhere', 'does not exist'),
  ],
)
def test_sources_that_are_wrong(spec, message):
  with pytest.raises((ValueError, OSError), match=message):
    raw_sources.open_raw(spec)


def test_tfds(tmp_path):
  tfds = pytest.importorskip('tensorflow_datasets')

  class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3)),
          'label': tfds.features.ClassLabel(names=['cat', 'dog']),
        }
      )
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i in range(3):
        image = Image.fromarray(raw_images.waves(i, 20 + i, 20))
        yield i, {'image': image, 'label': i % 2}

  Made(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  dataset = made(f'tfds:made@{tmp_path}', tmp_path, width=8, height=8)
  assert (len(dataset), dataset.resolution) == (3, 8)
  assert dataset.class_names == ('cat', 'dog')


def test_an_archive_among_images_is_not_the_source(tmp_path):
  source = raw_images.write(tmp_path / 'in', ['1.png', '2.png'])
  tar_of(source / 'backup.tar', {'x.png': raw_images.png(7)})
  report = raw_images.prepare(source, tmp_path / 'x.zip')
  assert report.images == 2
  assert any('backup.tar' in note for note in report.notes)


# Labels.


def chosen(names, tmp_path, text, suffix):
  path = tmp_path / f'labels{suffix}'
  path.write_text(text)
  source = raw_sources.open_raw(str(raw_images.write(tmp_path / 'in', names)))
  return chosen_labels.choose(source, str(path))


@pytest.mark.parametrize(
  ('text', 'suffix', 'values', 'class_names'),
  [
    ('name,label\na.png,3\nb.png,1\n', '.csv', [3, 1], None),
    ('\ufeffa.png,dog\nb.png,cat\n', '.csv', [1, 0], ('cat', 'dog')),
    ('a.png,0.5,-1\nb.png,1,2', '.csv', [[0.5, -1.0], [1.0, 2.0]], None),
    ('{"a.png": "x", "b.png": "y"}', '.json', [0, 1], ('x', 'y')),
    ('{"labels": [["./b.png", 0], ["a.png", 1]]}', '.json', [1, 0], None),
    (
      '{"labels": [["b.png", 0], ["a.png", 1]], "class_names": ["p", "q"]}',
      '.json', [1, 0], ('p', 'q'),
    ),
    ('a.png,2\n', '.csv', [2, None], None),
  ],
)  # fmt: skip
def test_lists_of_labels(text, suffix, values, class_names, tmp_path):
  found = chosen(['a.png', 'b.png'], tmp_path, text, suffix)
  assert found.values == values
  assert found.class_names == class_names
  assert found.notes == ()


@pytest.mark.parametrize(
  ('text', 'suffix', 'message'),
  [
    ('a.png,1\nb.png,dog\n', '.csv', 'must be of one kind'),
    ('a.png\nb.png\n', '.csv', 'must have a name and 1 values'),
    ('a.png,1\n./a.png,2\n', '.csv', 'more than once'),
    ('c.png,1\n', '.csv', 'no label for any of the images'),
    ('{"a.png": -1}', '.json', 'class numbers from 0'),
    ('{"a.png": [1, null]}', '.json', 'lists of finite'),
    ('[[1]]', '.json', 'must be {NAME: LABEL'),
    ('{', '.json', 'not valid JSON'),
    (
      '{"labels": [["a.png", 3]], "class_names": ["p"]}',
      '.json', 'must have more than 3 names',
    ),
  ],
)  # fmt: skip
def test_lists_of_labels_that_are_wrong(text, suffix, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    chosen(['a.png', 'b.png'], tmp_path, text, suffix)


def test_labels_for_missing_images_are_named(tmp_path):
  found = chosen(['a.png'], tmp_path, 'a.png,1\nz.png,1\n', '.csv')
  assert found.notes[0].endswith('do not exist: z.png')


def test_missing_labels_are_skipped_only_if_asked(tmp_path):
  source = raw_images.write(tmp_path / 'in', ['a.png', 'b.png'], [['b.png', 1]])
  with pytest.raises(ValueError, match=r'1 image without one \(a.png\)'):
    raw_images.prepare(source, tmp_path / 'x.zip')
  report = raw_images.prepare(source, tmp_path / 'x.zip', on_error='skip')
  assert report.skipped == (('a.png', 'it has no label, but others have'),)
  assert '1 class without images: 0' in report.notes


def test_unused_class_folders_are_named(tmp_path):
  source = raw_images.write(tmp_path / 'in', ['a/1.png', 'b/2.png'])
  report = raw_images.prepare(source, tmp_path / 'x.zip')
  assert any('2 subfolders, which may be classes' in n for n in report.notes)


@pytest.mark.parametrize('name', ['1.png', '00000/1.png'])
def test_folders_must_be_classes(name, tmp_path):
  source = raw_images.write(tmp_path / 'in', [name])
  with pytest.raises(ValueError, match='labels can be folders only if'):
    raw_images.prepare(source, tmp_path / 'x.zip', labels='folders')


def test_class_names_in_dataset_json(tmp_path):
  """Training reads them, and refuses too few of them."""
  source = raw_images.write(tmp_path / 'in', ['a.png', 'b.png'])
  path = source / 'dataset.json'
  about = {
    'labels': [['a.png', 1], ['b.png', 0]],
    'class_names': ['x', 'y', 'z'],
  }
  path.write_text(json.dumps(about))
  dataset = files.ImageFiles(source, use_labels=True)
  assert (dataset.label_dim, dataset.class_names) == (3, ('x', 'y', 'z'))
  for names in (['x'], ['x', 'x'], [1, 2], 'xy'):
    path.write_text(json.dumps(about | {'class_names': names}))
    with pytest.raises(ValueError, match='"class_names"'):
      files.ImageFiles(source, use_labels=True)


# Destinations.


def test_never_overwrites(tmp_path):
  source = raw_images.write(tmp_path / 'in', ['a.png'])
  (tmp_path / 'x.zip').write_bytes(b'mine')
  with pytest.raises(FileExistsError, match='choose another dest'):
    raw_images.prepare(source, tmp_path / 'x.zip')
  assert (tmp_path / 'x.zip').read_bytes() == b'mine'
  with pytest.raises(ValueError, match=r'must end in .zip or .array_record'):
    raw_images.prepare(source, tmp_path / 'x')


# ArrayRecord folders as sources of training.


@pytest.fixture
def records(tmp_path):
  source = raw_images.write(
    tmp_path / 'in', [f'{"ab"[i % 2]}/{i}.png' for i in range(9)]
  )
  dest = tmp_path / 'x.array_record'
  raw_images.prepare(source, dest, labels='folders', shard_images=4)
  return dest


def test_resumes_at_the_exact_position(records):
  source = sources.open_source(str(records), resolution=16, use_labels=True)
  assert sources.preparation(source)['filter'] == 'lanczos'

  def batches(start, count):
    with loader.make_loader(
      source, batch_size=4, seed=1, start_image=start
    ) as rows:
      return [next(rows) for _ in range(count)]

  whole, rest = batches(0, 6), batches(12, 3)
  for one, other in zip(whole[3:], rest, strict=True):
    np.testing.assert_array_equal(one['image'], other['image'])
    np.testing.assert_array_equal(one['label'], other['label'])
  assert {len(batch['label'][0]) for batch in whole} == {2}


def test_records_without_names(records):
  (records / 'dataset.json').unlink()
  dataset = files.ImageFiles(records)
  assert len(dataset) == 9
  assert dataset[8]['image'].shape == (16, 16, 3)


def test_sources_of_records_can_be_pickled(records):
  dataset = files.ImageFiles(records)
  copy = pickle.loads(pickle.dumps(dataset))
  np.testing.assert_array_equal(copy[5]['image'], dataset[5]['image'])


def test_damaged_records(records):
  last = sorted(records.glob(f'*{array_records.SUFFIX}'))[-1]
  data = last.read_bytes()
  last.write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match=r'copy (it|the dataset) again'):
    archives.open_archive(records)
  last.unlink()
  with pytest.raises(ValueError, match='must be 8 different names'):
    archives.open_archive(records)
