"""Image folders and zip files: what is read, and what is refused how."""

import io
import json
import os
import pickle
import struct
import threading
import zipfile
import zlib
from concurrent import futures

import numpy as np
import pytest
from PIL import Image

from sg3jax.data import decoding, files, sources


def picture(seed, shape=(8, 8, 3)):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encode(pixels, kind='PNG', **options):
  image = pixels
  if not isinstance(pixels, Image.Image):
    image = Image.fromarray(
      pixels.squeeze(-1)
      if pixels.ndim == 3 and pixels.shape[-1] == 1
      else pixels
    )
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


@pytest.fixture(params=['folder', 'zip'])
def store(request, tmp_path):
  """`store({name: bytes})` writes a folder or a zip and returns its path."""

  def write(contents):
    if request.param == 'folder':
      for name, data in contents.items():
        path = tmp_path / 'pets' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
      return tmp_path / 'pets'
    with zipfile.ZipFile(tmp_path / 'pets.zip', 'w') as archive:
      for name, data in contents.items():
        archive.writestr(name, data)
    return tmp_path / 'pets.zip'

  return write


def labelled(labels, names=('a.png', 'b.png', 'c.png')):
  contents = {n: encode(picture(i)) for i, n in enumerate(names)}
  text = labels if isinstance(labels, str) else json.dumps({'labels': labels})
  return contents | {'dataset.json': text.encode()}


def test_round_trip_sorted_by_name(store):
  names = ['b.png', '00001/a.PNG', '00000/z.png', '00000/deep/q.png']
  pixels = {name: picture(i) for i, name in enumerate(names)}
  source = files.ImageFiles(store({n: encode(p) for n, p in pixels.items()}))
  assert (source.name, source.resolution, source.channels) == ('pets', 8, 3)
  assert (len(source), source.label_dim) == (4, 0)
  for i, name in enumerate(sorted(names)):
    row = source[i]
    np.testing.assert_array_equal(row['image'], pixels[name])
    assert row['image'].dtype == np.uint8
    assert row['label'].shape == (0,)
    assert row['label'].dtype == np.float32
  assert source.labels().shape == (4, 0)
  with pytest.raises(IndexError):
    source[4]


def test_lossless_webp_and_jpeg(store):
  pixels = picture(0)
  flat = np.full((8, 8, 3), 90, np.uint8)
  source = files.ImageFiles(
    store(
      {
        'a.webp': encode(pixels, 'WEBP', lossless=True),
        'b.jpg': encode(flat, 'JPEG'),
        'c.JPEG': encode(flat, 'JPEG'),
      }
    )
  )
  np.testing.assert_array_equal(source[0]['image'], pixels)
  for i in (1, 2):
    np.testing.assert_allclose(source[i]['image'], flat, atol=2)


def test_modes_read_without_loss(store):
  grey, rgba = picture(0, (8, 8, 1)), picture(1, (8, 8, 4))
  bits = Image.fromarray(grey[..., 0]).convert('1')
  palette = Image.fromarray(picture(2) // 64 * 64).quantize(256)
  grey_alpha = Image.fromarray(picture(3, (8, 8, 2)), 'LA')
  for image, expected in [
    (grey, grey),
    (rgba, rgba),
    (bits, np.asarray(bits.convert('L'))[..., None]),
    (palette, np.asarray(palette.convert('RGB'))),
    (grey_alpha, np.asarray(grey_alpha)[..., [0, 0, 0, 1]]),
  ]:
    source = files.ImageFiles(store({'a.png': encode(image)}))
    assert source.channels == expected.shape[-1]
    np.testing.assert_array_equal(source[0]['image'], expected)
  transparent = encode(palette, transparency=3)
  source = files.ImageFiles(store({'a.png': transparent}))
  assert source.channels == 4
  hidden = np.asarray(palette) == 3
  np.testing.assert_array_equal(source[0]['image'][..., 3] == 0, hidden)


def test_int_labels_become_one_hot(store):
  path = store(labelled([['c.png', 4], ['a.png', 0], ['b.png', 2]]))
  source = files.ImageFiles(path, use_labels=True)
  assert source.label_dim == 5
  expected = np.eye(5, dtype=np.float32)[[0, 2, 4]]
  np.testing.assert_array_equal(source.labels(), expected)
  for i in range(3):
    np.testing.assert_array_equal(source[i]['label'], expected[i])
    assert source[i]['label'].dtype == np.float32


def test_vector_labels_are_kept(store):
  vectors = {'b.png': [0.5, -1], 'a.png': [1, 2.25], 'c.png': [0, 3]}
  path = store(labelled([[n, v] for n, v in vectors.items()]))
  source = files.ImageFiles(path, use_labels=True)
  assert source.label_dim == 2
  expected = np.array([vectors[n] for n in sorted(vectors)], np.float32)
  np.testing.assert_array_equal(source.labels(), expected)
  np.testing.assert_array_equal(source[1]['label'], expected[1])
  source.labels()[:][:] = 7  # A copy.
  np.testing.assert_array_equal(source.labels(), expected)


def test_subfolders_are_classes(store):
  names = ['set/dog/1.png', 'set/cat/x/2.png', 'set/cat/3.png']
  path = store({n: encode(picture(0)) for n in names})
  source = files.ImageFiles(path, use_labels=True)
  np.testing.assert_array_equal(source.labels(), [[1, 0], [1, 0], [0, 1]])
  assert files.ImageFiles(path).label_dim == 0


@pytest.mark.parametrize('names', [['1.png', '2.png'], ['cat/1.png', '2.png']])
def test_labels_wanted_but_absent(store, names):
  path = store({n: encode(picture(0)) for n in names})
  with pytest.raises(ValueError, match=r'no labels.*set data\.cond to False'):
    files.ImageFiles(path, use_labels=True)


def test_unused_labels_are_described(store):
  path = store(labelled([[f'{name}.png', 0] for name in 'abc']))
  source = files.ImageFiles(path)
  assert source.label_dim == 0
  assert source.unused_labels == f'dataset.json in {path} contains labels'
  assert not files.ImageFiles(path, use_labels=True).unused_labels
  subset = sources.open_source(str(path), max_images=1)
  assert sources.unused_labels(subset) == source.unused_labels


def test_subfolders_that_may_be_classes_are_described(store):
  path = store({f'{name}/1.png': encode(picture(0)) for name in 'abc'})
  phrase = files.ImageFiles(path).unused_labels
  assert phrase == f'{path} has 3 subfolders, which may be classes'


@pytest.mark.parametrize(
  'names', [['1.png'], ['a/1.png', '2.png'], ['00000/1.png', '00001/2.png']]
)
def test_where_there_are_no_labels_none_are_unused(store, names):
  path = store({name: encode(picture(0)) for name in names})
  assert not files.ImageFiles(path).unused_labels


def test_labels_that_are_null_are_not_unused(store):
  assert not files.ImageFiles(store(labelled(None))).unused_labels


@pytest.mark.parametrize(
  ('labels', 'problem'),
  [
    ('{"labels": [', r'dataset\.json in .* not valid JSON.*write it again'),
    ('[1, 2]', r'dataset\.json in .* wrong structure.*"labels"'),
    ('{"names": []}', r'dataset\.json in .* wrong structure'),
    ('{"labels": {"a.png": 1}}', r'dataset\.json in .* wrong structure'),
    (None, r'dataset\.json in .* no labels: add them'),
    ([['a.png', 0], ['b.png', 1]], r'no label for c\.png: list every'),
    ([['a.png', 0]], r'no label for b\.png \(and 1 more\)'),
    ([[n, 0] for n in 'abc'], r'no label for a\.png \(and 2 more\)'),
    ([[f'{n}.png', 0] for n in 'abcd'], r'not exist, d\.png: list every'),
    ([[f'{n}.png', 0] for n in 'aabc'], r'a\.png more than once: remove'),
    (
      [['a.png', 0], ['b.png', [1.0]], ['c.png', 1]],
      r'got a vector of 1 numbers for b\.png, but a class number for a\.png',
    ),
    (
      [['a.png', [0, 1]], ['b.png', [1]], ['c.png', [1, 1]]],
      r'a vector of 1 numbers for b\.png, but a vector of 2 numbers for a\.png',
    ),
    ([['a.png', -1], ['b.png', 0], ['c.png', 0]], r'got -1 for a\.png: count'),
    ([['a.png', 10**30]], r'got 10+ for a\.png: count classes from 0'),
    ([['a.png', 1.5]], r"\['a\.png', 1\.5\]: it must be"),
    ([['a.png', True]], r"\['a\.png', True\]: it must be"),
    ([['a.png', []]], r"\['a\.png', \[\]\]: it must be"),
    ([['a.png', [float('nan')]]], r"\['a\.png', \[nan\]\]: .* finite"),
    ([['a.png', ['x']]], r"\['a\.png', \['x'\]\]: it must be"),
    ([['a.png']], r"\['a\.png'\]: it must be"),
    ([0, 1, 2], r'the entry 0: it must be'),
  ],
)
def test_bad_labels(store, labels, problem):
  with pytest.raises(ValueError, match=problem):
    files.ImageFiles(store(labelled(labels)), use_labels=True)


def test_missing_path(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'nowhere\.zip does not exist'):
    files.ImageFiles(tmp_path / 'nowhere.zip')


def test_not_a_zip(tmp_path):
  path = tmp_path / 'a.tar'
  path.write_bytes(b'something else')
  with pytest.raises(ValueError, match=r'a\.tar is not a zip file: pass'):
    files.ImageFiles(path)


def test_truncated_zip(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.png', encode(picture(0)))
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(ValueError, match=r'a\.zip is a truncated.*again'):
    files.ImageFiles(path)


@pytest.mark.parametrize(
  ('names', 'found'),
  [
    ([], 'got no files'),
    (['a.psd', 'b/c.PSD', 'x.txt', 'README'], '2 of .psd, 1 of '),
    (['.hidden/a.png', '__MACOSX/._a.png', '.a.png'], '3 of .png|2 of .png'),
  ],
)
def test_no_images(store, tmp_path, names, found):
  (tmp_path / 'pets').mkdir()
  path = store(dict.fromkeys(names, b'x'))
  with pytest.raises(ValueError, match=f'pets.* must contain files .*{found}'):
    files.ImageFiles(path)


@pytest.mark.parametrize(
  ('image', 'problem'),
  [
    (encode(picture(0, (8, 9, 3))), r'with 8 rows and 9 columns: crop'),
    (
      encode(picture(0, (8, 8)).astype(np.uint16)),
      r'with more: convert the images to 8 bits',
    ),
    (b'not an image', r'cannot be read \(it is not an image .*or remove it'),
    (b'', r'cannot be read .*replace or remove it'),
  ],
)
def test_unusable_first_image(store, image, problem):
  with pytest.raises(ValueError, match=rf'a\.png in .*{problem}'):
    files.ImageFiles(store({'a.png': image}))


def test_sixteen_bit_colour_is_refused(store):
  """Pillow would silently read such a file as 8-bit RGB."""

  def chunk(kind, data):
    check = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + check

  data = b'\x89PNG\r\n\x1a\n'
  data += chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 8, 16, 2, 0, 0, 0))
  data += chunk(b'IDAT', zlib.compress(bytes(8 * (1 + 8 * 6))))
  data += chunk(b'IEND', b'')
  with Image.open(io.BytesIO(data)) as image:
    assert image.mode == 'RGB'
  with pytest.raises(ValueError, match=r'8 bits .* got a\.png in '):
    files.ImageFiles(store({'a.png': data}))


def test_cmyk_is_refused(store):
  data = encode(Image.new('CMYK', (8, 8)), 'JPEG')
  with pytest.raises(
    ValueError, match=r'a\.jpg in .* mode CMYK: convert it to'
  ):
    files.ImageFiles(store({'a.jpg': data}))


@pytest.mark.parametrize(
  ('shape', 'described'),
  [
    ((16, 16, 3), '16x16 pixels, 3 channels'),
    ((8, 4, 3), '8x4 pixels, 3 channels'),
    ((8, 8, 1), r'8x8 pixels, 1 channel \(grey\)'),
    ((8, 8, 4), r'8x8 pixels, 4 channels \(RGBA\)'),
  ],
)
@pytest.mark.parametrize('when', ['opened', 'decoded'])
def test_odd_image(store, monkeypatch, shape, described, when):
  path = store(
    {'a.png': encode(picture(0)), 'b.png': encode(picture(0, shape))}
  )
  problem = rf'b\.png in .* with {described}.*a\.png with 8x8.*3 .*convert or'
  if when == 'decoded':  # As if the sample of headers had not held it.
    header = decoding.Header((8, 8, 3), 'RGB', ())
    monkeypatch.setattr(files.ImageFiles, '_header', lambda *_: header)
    source = files.ImageFiles(path)
    with pytest.raises(ValueError, match=problem):
      source[1]
  else:
    with pytest.raises(ValueError, match=problem):
      files.ImageFiles(path)


def test_large_sets_are_sampled(store, monkeypatch):
  monkeypatch.setattr(files, '_MAX_HEADERS', 3)
  seen = []
  header = files.ImageFiles._header

  def spy(self, name):
    seen.append(name)
    return header(self, name)

  monkeypatch.setattr(files.ImageFiles, '_header', spy)
  data = encode(picture(0))
  files.ImageFiles(store({f'{i:02d}.png': data for i in range(10)}))
  assert seen == ['00.png', '01.png', '04.png', '07.png']


def test_damaged_image_is_named(store):
  good = encode(picture(0, (64, 64, 3)))
  source = files.ImageFiles(store({'a.png': good, 'b.png': good[:500]}))
  assert source[0]['image'].shape == (64, 64, 3)
  with pytest.raises(ValueError, match=r'b\.png in .*cannot be read.*replace'):
    source[1]


def test_damaged_zip_member_is_named(tmp_path):
  path = tmp_path / 'a.zip'
  data = encode(picture(0, (64, 64, 3)))
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.png', data)
  content = bytearray(path.read_bytes())
  content[len(data) // 2] ^= 0xFF
  path.write_bytes(content)
  source = files.ImageFiles(path)
  with pytest.raises(ValueError, match=r'a\.png in .*a\.zip cannot .*CRC'):
    source[0]


def test_resolution_must_match(store):
  path = store({'a.png': encode(picture(0))})
  assert files.ImageFiles(path, resolution=8).resolution == 8
  with pytest.raises(
    ValueError,
    match=r'16x16 pixels .* a\.png in .* 8x8: set model\.resolution to 8',
  ):
    files.ImageFiles(path, resolution=16)


def test_names_in_a_zip_are_only_names(tmp_path):
  path = tmp_path / 'inner' / 'a.zip'
  path.parent.mkdir()
  with zipfile.ZipFile(path, 'w') as archive:
    for i, name in enumerate(['../up.png', '/root.png']):
      archive.writestr(name, encode(picture(i)))
  before = sorted(tmp_path.rglob('*'))
  source = files.ImageFiles(path)
  np.testing.assert_array_equal(source[0]['image'], picture(0))
  np.testing.assert_array_equal(source[1]['image'], picture(1))
  assert sorted(tmp_path.rglob('*')) == before


def test_compressed_zip(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('a.png', encode(picture(0)))
  np.testing.assert_array_equal(files.ImageFiles(path)[0]['image'], picture(0))


def test_pickle_and_threads(store):
  path = store({f'{i:02d}.png': encode(picture(i)) for i in range(20)})
  source = pickle.loads(pickle.dumps(files.ImageFiles(path)))
  barrier = threading.Barrier(4)

  def read(start):
    barrier.wait()  # All four threads read at the same time.
    return [source[i]['image'] for i in range(start, 20)]

  with futures.ThreadPoolExecutor(4) as executor:
    for start, images in enumerate(executor.map(read, range(4))):
      np.testing.assert_array_equal(
        images, [picture(i) for i in range(start, 20)]
      )


@pytest.mark.filterwarnings('ignore:.*fork:DeprecationWarning')
@pytest.mark.filterwarnings('ignore:.*fork:RuntimeWarning')
def test_a_forked_process_opens_the_zip_anew(tmp_path):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.png', encode(picture(0)))
  source = files.ImageFiles(path)
  handle = source._archive._handle()
  assert source._archive._handle() is handle
  child = os.fork()
  if not child:
    os._exit(source._archive._handle() is handle)
  assert os.waitpid(child, 0)[1] == 0


def test_open_source_reads_files_and_subsets(store):
  path = store({f'{i:02d}.png': encode(picture(i)) for i in range(20)})
  whole = sources.open_source(str(path), resolution=8, max_images=20)
  assert len(whole) == 20

  def chosen(seed):
    subset = sources.open_source(str(path), max_images=7, seed=seed)
    assert (len(subset), subset.resolution, subset.channels) == (7, 8, 3)
    assert subset.labels().shape == (7, 0)
    images = [subset[i]['image'].tobytes() for i in range(7)]
    return [i for i in range(20) if picture(i).tobytes() in images], images

  indices, images = chosen(0)
  assert len(indices) == 7
  assert images == [picture(i).tobytes() for i in indices]  # Order kept.
  assert chosen(0)[0] == indices
  assert chosen(1)[0] != indices


def test_a_subset_larger_than_the_whole_is_noted(store):
  path = store({f'{i}.png': encode(picture(i)) for i in range(3)})
  whole, all_, more = (
    sources.open_source(str(path), max_images=count) for count in (None, 3, 4)
  )
  note = 'data.max_images is 4, but there are only 3 images'
  assert len(more) == 3
  lines = [' '.join(sources.describe(s)) for s in (whole, all_, more)]
  assert [note in line for line in lines] == [False, False, True]
  # The record of the data stays that of runs before.
  assert sources.fingerprint(more) == sources.fingerprint(whole)


def test_subset_labels_go_with_images(store):
  labels = [[f'{n}.png', i] for i, n in enumerate('abc')]
  path = store(labelled(labels))
  subset = sources.open_source(str(path), use_labels=True, max_images=2)
  assert subset.label_dim == 3
  np.testing.assert_array_equal(
    subset.labels(), [subset[i]['label'] for i in range(2)]
  )


def test_open_source_finds_the_home_folder(store, monkeypatch):
  path = store({'a.png': encode(picture(0))})
  monkeypatch.setenv('HOME', str(path.parent))
  assert len(sources.open_source(f'~/{path.name}')) == 1


@pytest.mark.parametrize(
  ('spec', 'options', 'error', 'problem'),
  [
    (
      'nowhere',
      {},
      FileNotFoundError,
      r"\.zip file.* got 'nowhere', which does",
    ),
    ('s3://a/b.zip', {}, ValueError, r"got the address 's3://a/b\.zip': down"),
    ('https://a.b/c', {}, ValueError, r'download the data first'),
    ('embedded:x', {}, ValueError, r'as in embedded:4000, got embedded:x'),
    ('embedded:0', {}, ValueError, r'as in embedded:4000, got embedded:0'),
    (
      'embedded',
      {'use_labels': True},
      ValueError,
      r'have no labels: set',
    ),
    (
      'embedded',
      {'max_images': 0},
      ValueError,
      r'must be at least 1, got 0',
    ),
    ('tfds:', {}, ValueError, r'must be tfds:NAME.* got tfds:'),
  ],
)
def test_open_source_refuses(spec, options, error, problem):
  with pytest.raises(error, match=problem):
    sources.open_source(spec, **options)


def test_open_source_parses_tfds(monkeypatch):
  from sg3jax.data import tfds

  seen = []

  class Fake(sources.Subset):
    def __init__(self, *args, **options):
      seen.append((args, options))
      self.name, self.resolution, self.channels, self.label_dim = 'x', 8, 3, 0

  monkeypatch.setattr(tfds, 'TfdsSource', Fake)
  for spec, name, split, data_dir in [
    ('tfds:cifar10', 'cifar10', 'train', None),
    ('tfds:a/b:test', 'a/b', 'test', None),
    ('tfds:a:train[:50%]@/data/x:y', 'a', 'train[:50%]', '/data/x:y'),
    ('tfds:a@~/sets', 'a', 'train', '~/sets'),
  ]:
    assert isinstance(sources._open_all(spec, 32, True), Fake)
    args, options = seen.pop()
    assert args == (name,)
    assert options == {
      'split': split,
      'data_dir': data_dir,
      'resolution': 32,
      'use_labels': True,
    }


def test_folders_of_a_spread_set_are_no_classes(tmp_path):
  for shard in ('00000', '00001'):
    (tmp_path / shard).mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / shard / f'img{shard}.png')
  with pytest.raises(
    ValueError, match=r'has no labels.*only divide a large set'
  ):
    files.ImageFiles(tmp_path, use_labels=True)
  assert len(files.ImageFiles(tmp_path)) == 2


def test_labels_below_the_root_are_not_ignored(tmp_path):
  for name in ('cat', 'dog'):
    (tmp_path / name).mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / name / '1.png')
  (tmp_path / 'cat' / 'dataset.json').write_text('{"labels": null}')
  with pytest.raises(ValueError, match=r'cat/dataset\.json.*move it'):
    files.ImageFiles(tmp_path, use_labels=True)
