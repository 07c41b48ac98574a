"""Modules, state dictionaries and halves, as people save official networks."""

import functools
import io

import jax
import ml_dtypes
import numpy as np
import official_networks
import official_writer as writer
import pytest
import safetensors.numpy
from conftest import GOLDENS

from sg3jax.interop import model_files
from sg3jax.interop.official import convert, files
from sg3jax.interop.torch_pickle import records
from sg3jax.train.config import files as config_files

_GOLDENS = ['stylegan3_t32', 'stylegan3_r32_cond', 'stylegan2_32']
_DTYPES = [np.float16, ml_dtypes.bfloat16]


@functools.cache
def _golden(name):
  """Returns a recorded checkpoint converted, and its arrays by network."""
  value = files.read(GOLDENS / f'official_{name}.pkl')[0]
  converted = convert.convert(value)
  return converted, {
    network: convert.export(
      network, converted.model, converted.networks[network]
    )
    for network in ('generator_ema', 'generator', 'discriminator')
  }


def _convert(value, config=None):
  return convert.convert(files.read_bytes(writer.dumps(value)), config)


def _assert_same(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('dtype', _DTYPES)
@pytest.mark.parametrize('then', ['stay', 'float32'])
@pytest.mark.parametrize('which', ['small', 'skip'])
def test_halves_are_compared_to_their_precision(which, dtype, then):
  """`G_ema.half()` with its buffers, and `G_ema.half().float()`."""
  arrays = official_networks.official_arrays(which, 'generator_ema')
  halves = {name: x.astype(dtype) for name, x in arrays.items()}
  assert (
    any(
      np.abs(halves[name].astype(np.float32) - x).max() > 1e-6
      for name, x in arrays.items()
      if 'filter' in name
    )
    or which == 'skip'
  )
  if then == 'float32':
    halves = {name: x.astype(np.float32) for name, x in halves.items()}
  data = official_networks.checkpoint(which, arrays=halves, D=False)
  converted = convert.convert(files.read_bytes(data))
  again = convert.export(
    'generator_ema', converted.model, converted.networks['generator_ema']
  )
  for name, x in halves.items():
    if 'filter' not in name:
      np.testing.assert_array_equal(again[name], x.astype(np.float32))


@pytest.mark.parametrize('dtype', _DTYPES)
def test_halves_of_other_filters_are_refused(dtype):
  arrays = official_networks.official_arrays('small', 'generator_ema')
  name = next(name for name in arrays if name.endswith('up_filter'))
  other = arrays[name] * (1 + 4 * float(ml_dtypes.finfo(dtype).eps))
  halves = {name: x.astype(dtype) for name, x in arrays.items()}
  halves[name] = other.astype(dtype)
  data = official_networks.checkpoint('small', arrays=halves, D=False)
  with pytest.raises(records.CheckpointError, match=r'up_filter .* not match'):
    convert.convert(files.read_bytes(data))


@pytest.mark.parametrize('name', _GOLDENS)
def test_state_dictionaries_are_recognised_by_their_shapes(name):
  converted, arrays = _golden(name)
  found = _convert(writer.state_dict(arrays['generator_ema']))
  _assert_same(
    found.networks, {'generator_ema': converted.networks['generator_ema']}
  )
  for field in ('generator', 'resolution', 'label_dim', 'z_dim', 'w_dim'):
    assert found.model[field] == converted.model[field]
  assert found.assumed[0] == 'model.conv_clamp = 256'
  assert found.compared > 0


def _prefixed(prefix, arrays):
  return {f'{prefix}{name}': x for name, x in arrays.items()}


_LAYOUTS = {
  'g_ema': lambda a: {'g_ema': writer.state_dict(a), 'step': 7},
  'G_ema': lambda a: {'G_ema': writer.state_dict(a), 'optimizer': {'lr': 1}},
  'generator_ema': lambda a: {'generator_ema': writer.state_dict(a)},
  'named': lambda a: {'G_ema_state_dict': writer.state_dict(a)},
  'state_dict': lambda a: {'state_dict': writer.state_dict(a), 'epoch': 3},
  'module': lambda a: writer.state_dict(_prefixed('module.', a)),
  'compiled': lambda a: writer.state_dict(_prefixed('_orig_mod.', a)),
  'both': lambda a: writer.state_dict(_prefixed('module._orig_mod.', a)),
  'within': lambda a: writer.state_dict(
    {k.replace('synthesis.', 'synthesis._orig_mod.'): x for k, x in a.items()}
  ),
  'dotted': lambda a: writer.state_dict(_prefixed('G_ema.', a)),
  'named module': lambda a: {
    'g_ema': writer.state_dict(_prefixed('module.', a))
  },
}


@pytest.mark.parametrize('layout', _LAYOUTS)
def test_layouts_of_state_dictionaries(layout):
  converted, arrays = _golden('stylegan2_32')
  found = _convert(_LAYOUTS[layout](arrays['generator_ema']))
  _assert_same(
    found.networks, {'generator_ema': converted.networks['generator_ema']}
  )


@pytest.mark.parametrize('name', _GOLDENS)
def test_all_three_networks_as_state_dictionaries(name):
  converted, arrays = _golden(name)
  found = _convert(
    {
      'g_ema': writer.state_dict(arrays['generator_ema']),
      'g': writer.state_dict(arrays['generator']),
      'd': writer.state_dict(arrays['discriminator']),
    }
  )
  _assert_same(found.networks, converted.networks)
  assert found.compared == converted.compared


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors', '.pkl'])
def test_our_own_exports_come_back(tmp_path, suffix):
  """By what is in them: one of them has been renamed."""
  converted, arrays = _golden('stylegan3_r32_cond')
  path = tmp_path / f'g{suffix}'
  if suffix == '.pkl':
    model_files.save_arrays(tmp_path / 'g.npz', arrays['generator_ema'])
    (tmp_path / 'g.npz').rename(path)
  else:
    model_files.save_arrays(path, arrays['generator_ema'])
  found = convert.convert(files.read(path)[0])
  _assert_same(
    found.networks, {'generator_ema': converted.networks['generator_ema']}
  )


def test_other_designs_need_a_configuration():
  model, _ = official_networks.networks('unusual')
  arrays = official_networks.official_arrays('unusual', 'generator_ema')
  D = official_networks.official_arrays('unusual', 'discriminator')
  value = {'g_ema': writer.state_dict(arrays), 'd': writer.state_dict(D)}
  with pytest.raises(
    records.CheckpointError, match=r'pass the .* config=stylegan3_r:16'
  ):
    _convert(value)
  # What the data settle in a run, the arrays do here.
  config = model | {'img_channels': None, 'label_dim': None}
  found = _convert(value, config)
  assert found.assumed == []
  assert {k: found.model[k] for k in model} == model
  with pytest.raises(records.CheckpointError, match='do not match its design'):
    _convert(value, config | {'z_dim': 99})


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_configurations_of_runs_fit_their_exports(precision):
  _, arrays = _golden('stylegan3_t32')
  config = config_files.load('stylegan3_t:32').model
  converted, _ = _golden('stylegan3_t32')
  for name in ('z_dim', 'w_dim', 'mapping_layers'):
    config[name] = converted.model[name]
  config.synthesis.update(converted.model['synthesis'])
  config.precision = precision
  found = _convert(writer.state_dict(arrays['generator_ema']), config.to_dict())
  # 16-bit training bounds at 256; the model is kept in float32.
  assert found.model['precision'] == 'fp32'
  assert found.model['conv_clamp'] == (None if precision == 'fp32' else 256)


def test_a_lone_module_is_g_ema():
  model, nets = official_networks.networks('small')
  arrays = official_networks.official_arrays('small', 'generator_ema')
  found = _convert(official_networks.generator(model, arrays))
  _assert_same(found.networks, {'generator_ema': nets['generator_ema'][1]})
  with pytest.raises(records.CheckpointError, match='leave the configuration'):
    _convert(official_networks.generator(model, arrays), model)


def test_a_lone_discriminator_is_none():
  model, _ = official_networks.networks('small')
  arrays = official_networks.official_arrays('small', 'discriminator')
  for value in (
    official_networks.discriminator(model, arrays),
    writer.state_dict(arrays),
  ):
    with pytest.raises(records.CheckpointError, match='only a discriminator'):
      _convert(value)


@pytest.mark.parametrize(
  ('value', 'match'),
  [
    ({'conv1.weight': np.zeros((3, 3))}, "array 'conv1.weight', which no"),
    ({'synthesis.x': np.zeros(3)}, "'synthesis.x', which no network here"),
    ({'synthesis.b4.conv1.weight': np.zeros(3)}, 'no array .*affine'),
    ({'synthesis.L0_9_9.weight': np.zeros(3)}, 'no array .*affine'),
    ({'module.a': np.zeros(1), 'a': np.zeros(1)}, "two arrays named 'a'"),
    ({'g.mapping.fc0.weight': np.zeros(3)}, 'but none of G_ema'),
  ],
)
def test_other_state_dictionaries_are_one_clear_error(value, match):
  with pytest.raises(records.CheckpointError, match=match):
    _convert(writer.state_dict({k: np.float32(x) for k, x in value.items()}))


def test_damaged_names_and_shapes_are_one_clear_error():
  """Arrays renamed, cut and dropped at random: converted, or refused."""
  _, arrays = _golden('stylegan2_32')
  whole = {
    name: records.NumpyArray(x) for name, x in arrays['generator_ema'].items()
  }
  rng = np.random.RandomState(0)
  refused = 0
  for _ in range(20):
    value = dict(whole)
    name = rng.choice(list(value))
    array = value.pop(name)
    match rng.randint(4):
      case 0:
        value[name.replace('b', 'b9', 1)] = array
      case 1:
        value[name] = records.NumpyArray(array.numpy().reshape(-1)[:1])
      case 2:
        value['synthesis.L99999_1_1.weight'] = array
    try:
      convert.convert(value)
    except records.CheckpointError:
      refused += 1
  assert refused > 15


def test_compressed_and_half_arrays_come_back():
  arrays = official_networks.official_arrays('skip', 'generator_ema')
  expected = official_networks.networks('skip')[1]['generator_ema'][1]
  file = io.BytesIO()
  np.savez_compressed(
    file, **{k: np.asarray(x, order='F') for k, x in arrays.items()}
  )
  found = convert.convert(files.read_bytes(file.getvalue()))
  _assert_same(found.networks['generator_ema'], expected)
  halves = {k: x.astype(ml_dtypes.bfloat16) for k, x in arrays.items()}
  data = safetensors.numpy.save(halves)
  found = convert.convert(files.read_bytes(data)).networks['generator_ema']
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2**-8), found, expected
  )


@pytest.mark.parametrize(
  ('array', 'match'),
  [
    (np.array([print]), 'no header of plain numbers'),
    (np.array(['text']), 'no header of plain numbers'),
    (np.zeros(2, [('x', 'f4')]), 'no header of plain numbers'),
    (np.zeros(2, np.complex64), 'no header of plain numbers'),
    (np.zeros(2, np.int64), 'dtype int64'),
  ],
)
def test_arrays_are_numbers_of_networks(array, match):
  file = io.BytesIO()
  np.savez(file, **{'mapping.fc0.weight': array})
  with pytest.raises(records.CheckpointError, match=match):
    convert.convert(files.read_bytes(file.getvalue()))
