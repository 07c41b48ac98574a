"""TfdsSource against datasets prepared here, in the ArrayRecord format."""

import io
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from sg3jax.data import sources
from sg3jax.data.tfds import TfdsSource

tfds = pytest.importorskip('tensorflow_datasets')
pytest.importorskip('array_record')


def prepare(data_dir, features, examples, file_format='array_record'):
  """Prepares the dataset `made`, of one split, from a list of dicts."""

  class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features_dict = tfds.features.FeaturesDict(features)
      return tfds.core.DatasetInfo(builder=self, features=features_dict)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      yield from enumerate(examples)

  Made(data_dir=data_dir, file_format=file_format).download_and_prepare()
  return data_dir


def picture(value, height=8, width=8, mode='RGB'):
  pixel = (value,) * len(mode)
  return Image.new(mode, (width, height), pixel)


def colour(channels=3, side=None):
  return tfds.features.Image(shape=(side, side, channels))


@pytest.fixture(scope='module')
def squares(tmp_path_factory):
  """Twelve images of grey 10 i, with class i mod 3 and vector (i, -i)."""
  return prepare(
    tmp_path_factory.mktemp('tfds'),
    {
      'image': colour(),
      'mask': colour(1),
      'label': tfds.features.ClassLabel(num_classes=3),
      'vector': tfds.features.Tensor(shape=(2,), dtype=np.float32),
    },
    [
      {
        'image': picture(10 * i),
        'mask': picture(i, mode='L'),
        'label': i % 3,
        'vector': np.array([i, -i], np.float32),
      }
      for i in range(12)
    ],
  )


def test_follows_the_contract_of_image_sources(squares):
  source = TfdsSource('made', data_dir=squares)
  assert source.name == 'made'
  assert len(source) == 12
  assert (source.resolution, source.channels, source.label_dim) == (8, 3, 0)
  item = source[4]
  assert item['image'].shape == (8, 8, 3)
  assert item['image'].dtype == np.uint8
  assert item['label'].shape == (0,)
  assert item['label'].dtype == np.float32
  assert source.labels().shape == (12, 0)
  assert source.unused_labels == 'dataset made has the feature label'
  values = [int(item['image'].max()) for item in source]
  assert sorted(values) == list(range(0, 120, 10))


def test_classes_become_one_hot(squares):
  source = TfdsSource('made', data_dir=squares, use_labels=True)
  assert source.label_dim == 3
  assert not source.unused_labels
  labels = source.labels()
  assert labels.dtype == np.float32
  assert labels.shape == (12, 3)
  assert labels.values.shape == (12,)
  assert source.class_names is None  # They are numbers only.
  for index, item in enumerate(source):
    expected = np.eye(3)[int(item['image'].max()) // 10 % 3]
    np.testing.assert_array_equal(item['label'], expected)
    np.testing.assert_array_equal(labels[index], expected)


def test_labels_are_read_without_decoding_images(squares, monkeypatch):
  source = TfdsSource('made', data_dir=squares, use_labels=True)

  def fail(*args, **kwargs):
    raise AssertionError('an image was decoded')

  monkeypatch.setattr(Image, 'open', fail)
  monkeypatch.setattr(tfds.features.Image, 'decode_example_np', fail)
  with pytest.raises(AssertionError, match='an image was decoded'):
    source[0]
  assert source.labels()[:].sum() == 12


def test_grey_files_of_a_colour_dataset_become_rgb(tmp_path):
  encoded = io.BytesIO()
  picture(77, mode='L').save(encoded, 'PNG')
  example = {'image': io.BytesIO(encoded.getvalue())}
  prepare(tmp_path, {'image': colour()}, [example])
  image = TfdsSource('made', data_dir=tmp_path)[0]['image']
  np.testing.assert_array_equal(image, np.full([8, 8, 3], 77))


def test_broken_images_are_named(tmp_path):
  example = {'image': io.BytesIO(b'no image')}
  prepare(tmp_path, {'image': colour()}, [example])
  with pytest.raises(ValueError, match='image 0 of dataset made cannot be dec'):
    TfdsSource('made', data_dir=tmp_path)


def test_slices_of_a_split(squares):
  whole = TfdsSource('made', data_dir=squares)
  half = TfdsSource('made', split='train[50%:]', data_dir=squares)
  assert len(half) == 6
  np.testing.assert_array_equal(half[0]['image'], whole[6]['image'])


def test_pickled_source_reads_the_same(squares):
  source = TfdsSource('made', data_dir=squares, use_labels=True)
  data = pickle.dumps(source)
  assert len(data) < 20_000
  restored = pickle.loads(data)
  np.testing.assert_array_equal(source[3]['image'], restored[3]['image'])
  np.testing.assert_array_equal(source.labels(), restored.labels())


def test_grey_images_under_another_key_and_vector_labels(tmp_path):
  prepare(
    tmp_path,
    {
      'scan': colour(1, side=8),
      'label': tfds.features.Tensor(shape=(2,), dtype=np.float32),
    },
    [
      {'scan': picture(i, mode='L'), 'label': np.float32([i, 0.5])}
      for i in range(4)
    ],
  )
  source = TfdsSource('made', data_dir=tmp_path, use_labels=True)
  assert (source.channels, source.label_dim) == (1, 2)
  for item in source:
    assert item['image'].shape == (8, 8, 1)
    np.testing.assert_array_equal(item['label'], [item['image'].max(), 0.5])
  assert sorted(source.labels()[:][:, 0]) == [0, 1, 2, 3]


def test_the_only_class_label_is_the_label(tmp_path):
  prepare(
    tmp_path,
    {'image': colour(), 'kind': tfds.features.ClassLabel(num_classes=2)},
    [{'image': picture(0), 'kind': 1}],
  )
  source = TfdsSource('made', data_dir=tmp_path, use_labels=True)
  np.testing.assert_array_equal(source[0]['label'], [0, 1])


def test_classes_have_the_names_of_the_dataset(tmp_path):
  names = ['cat', 'dog', 'emu']
  prepare(
    tmp_path,
    {'image': colour(), 'label': tfds.features.ClassLabel(names=names)},
    [{'image': picture(i), 'label': i % 2} for i in range(4)],
  )
  source = TfdsSource('made', data_dir=tmp_path, use_labels=True)
  assert source.class_names == tuple(names)
  lines = sources.describe(source)
  assert lines[0] == 'Classes:        0 cat (2), 1 dog (2), 2 emu (0)'
  assert 'no images of 1 class of 3: 2 emu' in lines[1]


def test_fingerprints_tell_splits_apart(squares):
  def fingerprint(split):
    source = TfdsSource('made', data_dir=squares, split=split)
    return sources.fingerprint(source)

  assert fingerprint('train') == fingerprint('train')
  assert fingerprint('train') != fingerprint('train[:50%]')


def test_missing_package_says_how_to_install_it(squares, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(ImportError, match=r"pip install 'sg3jax\[tfds\]'"):
    TfdsSource('made', data_dir=squares)


def test_unknown_dataset(squares):
  with pytest.raises(ValueError, match="no dataset 'nowhere_to_be_found'"):
    TfdsSource('nowhere_to_be_found', data_dir=squares)


def test_known_but_not_prepared(tmp_path):
  with pytest.raises(
    ValueError, match=r"mnist.*not prepared.*'array_record'\).download_and_prep"
  ):
    TfdsSource('mnist', data_dir=tmp_path)


def test_prepared_without_random_access(squares, tmp_path):
  for path in squares.rglob('*'):
    copy = tmp_path / path.relative_to(squares).parent
    copy.mkdir(parents=True, exist_ok=True)
    if path.is_file():
      data = path.read_bytes()
      if path.name == 'dataset_info.json':
        data = data.replace(b'array_record', b'tfrecord')
      (copy / path.name.replace('array_record', 'tfrecord')).write_bytes(data)
  with pytest.raises(ValueError, match=r'no random access \(tfrecord\)'):
    TfdsSource('made', data_dir=tmp_path)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'split': 'test'}, r"Unknown split 'test'.*train"),
    ({'split': 'train[:0]'}, r"split 'train\[:0\]' of dataset made is empty"),
    ({'resolution': 16}, r'image 0 .* must be 16 x 16 pixels, got 8 x 8'),
  ],
)
def test_unusable_options(squares, options, message):
  with pytest.raises(ValueError, match=message):
    TfdsSource('made', data_dir=squares, **options)


def test_images_of_differing_sizes_are_named(tmp_path):
  prepare(
    tmp_path,
    {'image': colour()},
    [{'image': picture(0)}] * 3 + [{'image': picture(0, height=4)}],
  )
  with pytest.raises(ValueError, match=r'image \d of .* got 8 x '):
    list(TfdsSource('made', data_dir=tmp_path))


def test_images_that_are_not_square(tmp_path):
  prepare(
    tmp_path, {'image': colour()}, [{'image': picture(0, height=4, width=6)}]
  )
  with pytest.raises(ValueError, match=r'image 0 of .* got 6 x 4'):
    TfdsSource('made', data_dir=tmp_path)


def test_labels_out_of_range_are_named(tmp_path):
  prepare(
    tmp_path,
    {'image': colour(), 'label': tfds.features.ClassLabel(num_classes=2)},
    [{'image': picture(0), 'label': -1}],
  )
  source = TfdsSource('made', data_dir=tmp_path, use_labels=True)
  with pytest.raises(ValueError, match=r'must be from 0 to 1, got -1: '):
    source.labels()


@pytest.mark.parametrize(
  ('features', 'message'),
  [
    (lambda: {'text': tfds.features.Text()}, r'0 candidates .* text \(Text\)'),
    (
      lambda: {'a': colour(), 'b': colour(1)},
      r"'image' .* 2 candidates .* a \(Image\), b \(Image\)",
    ),
    (lambda: {'image': colour()}, r"'label' .* 0 candidates"),
    (
      lambda: {'image': colour(), 'label': tfds.features.Text()},
      "'label' of dataset made must be a ClassLabel",
    ),
    (lambda: {'image': colour(4)}, 'got 4'),
    (
      lambda: {'image': tfds.features.Image(shape=(8, 8, 1), dtype=np.uint16)},
      'must be uint8, got uint16',
    ),
  ],
)
def test_unusable_features(tmp_path, features, message):
  features = features()
  example = {
    key: 'text'
    if isinstance(feature, tfds.features.Text)
    else Image.new({1: 'L', 3: 'RGB', 4: 'RGBA'}[feature.shape[-1]], (8, 8))
    for key, feature in features.items()
  }
  prepare(tmp_path, features, [example])
  # Without a fault in its images, a dataset is asked for its labels.
  use_labels = 'image' in features and features['image'].shape[-1] == 3
  with pytest.raises(ValueError, match=message):
    TfdsSource('made', data_dir=tmp_path, use_labels=use_labels)
