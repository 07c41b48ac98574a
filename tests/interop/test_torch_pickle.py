"""Reads real files of PyTorch, and arbitrary values in their structure."""

import bz2
import gzip
import io
import lzma
import pathlib
import re
import tarfile
import zipfile

import ml_dtypes
import numpy as np
import official_writer as writer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sg3jax.interop.official import files
from sg3jax.interop.torch_pickle import reader, records

_FIXTURES = pathlib.Path(__file__).parent / 'fixtures'
_FILES = ['zip.pt', 'stream.pt', *(f'protocol{i}.pkl' for i in range(2, 6))]


@pytest.mark.parametrize('name', _FILES)
def test_files_of_pytorch(name):
  """Every layout, dtype and kind of view, as PyTorch 2.15 wrote them."""
  value = reader.read_bytes((_FIXTURES / name).read_bytes())
  grid = np.arange(12).reshape(3, 4)
  dtypes = [
    'float32', 'float16', 'float64', ml_dtypes.bfloat16,
    'int64', 'int32', 'int16', 'int8', 'uint8',
  ]  # fmt: skip
  expected = {np.dtype(d).name: grid.astype(d) for d in dtypes} | {
    'bool': grid > 5,
    'transposed': grid.T.astype(np.float32),
    'slice': grid[1:, 1:3].astype(np.float32),
    'same': grid.astype(np.float32),
    'scalar': np.float32(2.5),
    'empty': np.zeros((0, 3), np.float32),
    'parameter': grid.astype(np.float32) + 1,
    'array': np.arange(6, dtype=np.float64).reshape(2, 3),
    'fortran': np.arange(6, dtype='>i2').reshape(2, 3),
  }
  for key, array in expected.items():
    found = value.pop(key).numpy()
    assert found.dtype == array.dtype, key
    np.testing.assert_array_equal(found, array, strict=True, err_msg=key)
    assert not (found.size and found.flags.writeable)
  assert value == {
    'size': (3, 4),
    'number': 0.1,
    'flag': True,
    'names': {'a', 'b'},
    'list': [1, -2, 3.5, None, 'ü', True, 1 << 40],
  }


def test_modules_are_inert_records():
  data = writer.dumps(
    {
      'G': writer.module(
        'Net',
        {'weight': np.eye(2, dtype=np.float32)},
        {'average': np.zeros(3, np.float64), 'none': None},
        {},
        z_dim=512,
      ),
      'training_set_kwargs': writer.EasyDict(path='x.zip'),
    }
  )
  value = files.read_bytes(data)
  net = value['G']
  assert isinstance(net, records.Module)
  assert net.class_name == 'Net'
  assert net.state['z_dim'] == 512
  np.testing.assert_array_equal(
    net.part('_parameters')['weight'].numpy(), np.eye(2, dtype=np.float32)
  )
  assert net.part('_buffers')['average'].numpy().dtype == np.float64
  assert net.part('_buffers')['none'] is None
  assert value['training_set_kwargs'] == {'path': 'x.zip'}


_LEAVES = (
  st.none()
  | st.booleans()
  | st.integers(-(1 << 100), 1 << 100)
  | st.floats(allow_nan=False)
  | st.text(st.characters(exclude_categories=['Cs']))
)
_KEYS = st.text(st.characters(exclude_categories=['Cs'])) | st.integers(0, 999)
_VALUES = st.recursive(
  _LEAVES,
  lambda child: (
    st.lists(child)
    | st.dictionaries(_KEYS, child)
    | st.lists(child).map(tuple)
    | st.sets(st.text('abc'))
  ),
  max_leaves=30,
)


@given(_VALUES, st.integers(2, 5))
@settings(max_examples=100, deadline=None)
def test_plain_values_are_read_as_they_were_written(value, protocol):
  assert reader.read_bytes(writer.dumps(value, protocol)) == value


@given(
  hnp.arrays(
    st.sampled_from(['<f4', '<f2', '<f8', '<i8']),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
  )
)
@settings(max_examples=100, deadline=None)
def test_tensors_are_read_bit_for_bit(array):
  value = reader.read_bytes(writer.dumps(writer.tensor(array)))
  assert value.numpy().tobytes() == array.tobytes()
  assert value.numpy().shape == array.shape


@given(
  st.integers(0, 12),
  st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_views_are_those_of_numpy_or_refused(offset, axes):
  """Every view of twelve elements: NumPy's, or refused when it leaves them."""
  shape = tuple(size for size, _ in axes)
  strides = tuple(step for _, step in axes)
  data = np.arange(12, dtype=np.float32)
  indices = offset + np.sum(
    np.indices(shape) * np.reshape(strides, (-1, *[1] * len(shape))),
    axis=0,
    dtype=int,
  )
  lie = writer.tensor(data, offset=offset, shape=shape, strides=strides)
  pickled = writer.dumps(lie)
  if indices.size and (indices.max() >= 12 or indices.size > 12):
    with pytest.raises(records.CheckpointError, match='reaches element'):
      reader.read_bytes(pickled)
    return
  found = reader.read_bytes(pickled).numpy()
  np.testing.assert_array_equal(found.ravel(), indices.ravel())


@pytest.mark.parametrize('name', _FILES)
def test_every_truncation_is_one_clear_error(name):
  data = (_FIXTURES / name).read_bytes()
  for end in range(0, len(data), 97):
    with pytest.raises(records.CheckpointError):
      reader.read_bytes(data[:end])


def test_names_of_a_code_base_are_an_argument():
  data = writer.dumps(writer.module('Net', {}, {}, {}))
  with pytest.raises(records.UnsafeCheckpointError, match='persistence'):
    reader.read_bytes(data)
  assert isinstance(reader.read_bytes(data, files.NAMES), records.Module)


def test_the_reader_names_no_networks():
  for path in pathlib.Path(reader.__file__).parent.glob('*.py'):
    text = path.read_text().lower()
    assert not re.search('stylegan|dnnlib|torch_utils|g_ema|official', text)


def test_messages_name_the_file_and_what_is_wrong(tmp_path):
  path = tmp_path / 'net.pkl'
  with pytest.raises(FileNotFoundError, match=r'no file .*net\.pkl'):
    files.read(path)
  with pytest.raises(records.CheckpointError, match='must be a file'):
    files.read(tmp_path)
  path.write_bytes(b'')
  with pytest.raises(records.CheckpointError, match=r'net\.pkl.* is empty'):
    files.read(path)
  path.write_bytes(b'\1\2\3')
  with pytest.raises(records.CheckpointError, match=r'with the bytes 01 02 03'):
    files.read(path)


def _zip(compression):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', compression) as archive:
    archive.writestr('net/a.pkl', b'x' * 1000)
    archive.writestr('readme.txt', b'')
  return file.getvalue()


def _tar():
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    archive.addfile(tarfile.TarInfo('a.pkl'))
  return file.getvalue()


_POINTER = (
  b'version https://git-lfs.github.com/spec/v1\n'
  b'oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\n'
  b'size 12345\n'
)


@pytest.mark.parametrize(
  ('data', 'match'),
  [
    (b'<!DOCTYPE html><html>not found</html>', 'an HTML page.*: download'),
    (b'\n  <html>Quota exceeded</html>', 'an HTML page.*: download'),
    (b'<?xml version="1.0"?><Error/>', 'an XML or HTML text'),
    (_POINTER, 'a Git LFS pointer.*git lfs pull'),
    (gzip.compress(b'x', mtime=0), 'a gzip file.*: unpack it'),
    (bz2.compress(b'x'), 'a bzip2 file.*: unpack it'),
    (lzma.compress(b'x'), 'an xz file.*: unpack it'),
    (_tar(), 'a tar archive.*: unpack it'),
    (_zip(zipfile.ZIP_STORED), "a zip, but .* but 'net/a.pkl', 'readme.txt'"),
    (_zip(zipfile.ZIP_DEFLATED), "a zip, but .* but 'net/a.pkl', 'readme"),
    (b'{"error": "not found"}', 'a JSON text'),
    (b'\xef\xbb\xbf[1, 2]', 'a JSON text'),
    (b'404: Not Found', 'a text'),
    (b'\x10\0\0\0\0\0\0\0{"a": damaged  }', 'safetensors file is damaged'),
    (b'\xff\0\0\0\0\0\0\0{"a":', 'damaged safetensors'),
    (b'\x93NUMPY\1\0', 'a single NumPy array'),
    (b'\x89PNG\r\n\x1a\n', 'a PNG image'),
    (b'', 'is empty: download it again'),
  ],
)
def test_other_files_are_called_what_they_are(data, match):
  with pytest.raises(records.CheckpointError, match=match) as caught:
    files.read_bytes(data)
  assert len(str(caught.value)) < 300
