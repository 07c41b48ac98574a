"""Official checkpoints: the same pictures, and back again exactly."""

import functools
import itertools
import time

import jax
import numpy as np
import official_networks
import official_writer as writer
import plain_networks
import pytest
from conftest import GOLDENS

import sg3jax.model
from sg3jax.interop.official import convert, files
from sg3jax.interop.torch_pickle import records
from sg3jax.nets import factory
from sg3jax.train import config as config_lib

_STYLEGAN3 = ['stylegan3_t32', 'stylegan3_r32_cond']

# The recordings' agreement as their README states it, of the range of values.
_TOLERANCE = 1e-3


@functools.cache
def _read(name):
  return files.read(GOLDENS / f'official_{name}.pkl')[0]


@functools.cache
def _converted(name):
  return convert.convert(_read(name))


def _assert_close(found, expected):
  expected = np.moveaxis(expected, 1, -1) if expected.ndim == 4 else expected
  assert found.shape == expected.shape
  error = np.abs(np.asarray(found) - expected).max()
  assert error < _TOLERANCE * np.ptp(expected)


@pytest.mark.parametrize(
  ('name', 'implementation'),
  [
    *itertools.product(_STYLEGAN3, ['reference', 'banded']),
    ('stylegan2_32', None),
  ],
)
def test_images_are_the_recorded_ones(name, implementation, golden):
  recorded = golden(f'official_{name}_expected.npz')
  converted = _converted(name)
  options = {'filtered_lrelu_implementation': implementation}
  model = sg3jax.model.Model(
    {'model': converted.model | options}, converted.networks
  )
  z, c = recorded['z'], recorded.get('c')
  styles = [model.mapping(z, c), model.mapping(z, c, truncation_psi=0.5)]
  images = model.synthesis(np.concatenate(styles))
  _assert_close(images[: len(z)], recorded['img_noise_const'])
  _assert_close(images[len(z) :], recorded['img_psi0_5'])


@pytest.mark.parametrize('name', [*_STYLEGAN3, 'stylegan2_32'])
def test_logits_are_the_recorded_ones(name, golden):
  recorded = golden(f'official_{name}_expected.npz')
  model, variables, _ = convert.convert_network(
    'discriminator', _read(name)['D']
  )
  discriminator = factory.make_discriminator(model)
  images = np.moveaxis(recorded['d_in'], 1, -1)
  logits = jax.jit(discriminator.apply)(variables, images, recorded.get('d_c'))
  _assert_close(logits, recorded['d_logits'])


def test_generators_of_another_kind_are_refused():
  checkpoint = dict(_read('stylegan2_32'))
  generator = _read.__wrapped__('stylegan2_32')['G_ema']
  synthesis = generator.submodule('synthesis')
  del synthesis.state['_modules']['b4']
  checkpoint['G_ema'] = generator
  with pytest.raises(records.CheckpointError, match="begins with 'b8'"):
    convert.convert(checkpoint)


@pytest.mark.parametrize(
  ('path', 'name', 'value'),
  [
    ('b4', 'architecture', 'orig'),
    ('b8.conv0', 'up', 1),
    ('b8.conv1', 'use_noise', False),
    ('b32', 'is_last', False),
    ('b16.torgb', 'conv_clamp', None),
    ('b8.conv0', 'act_gain', 3.0),
    ('b8.conv0', 'padding', 7),
    ('b8.torgb', 'weight_gain', 3.0),
  ],
)
def test_blocks_that_contradict_the_design_are_refused(path, name, value):
  generator = _read.__wrapped__('stylegan2_32')['G_ema']
  module = generator.submodule('synthesis')
  for part in path.split('.'):
    module = module.submodule(part)
  module.state[name] = value
  with pytest.raises(records.CheckpointError, match=f'{path}.* has {name} ='):
    convert.convert_network('generator_ema', generator)


def test_the_report_counts_everything():
  converted = _converted('stylegan3_t32')
  assert list(converted.networks) == [
    'generator_ema', 'generator', 'discriminator'
  ]  # fmt: skip
  assert converted.ignored == ["'augment_pipe'", "'training_set_kwargs'"]
  # Two filters of 14 layers and a transform, twice; and one filter of each
  # convolution and of each block but the last.
  assert converted.compared == 2 * (2 * 14 + 1) + (4 + 3 + 3 + 1) + 3


def _arrays(module, prefix=''):
  """Walks a module on its own, for comparison."""
  found = {}
  for part in ('_parameters', '_buffers'):
    for name, tensor in module.state[part].items():
      if tensor is not None:
        found[prefix + name] = tensor.numpy()
  for name, child in module.state['_modules'].items():
    found |= _arrays(child, f'{prefix}{name}.')
  return found


@pytest.mark.parametrize('name', [*_STYLEGAN3, 'stylegan2_32'])
@pytest.mark.parametrize('official_name', ['G_ema', 'D'])
def test_export_undoes_conversion(name, official_name):
  converted = _converted(name)
  network = {'G_ema': 'generator_ema', 'D': 'discriminator'}[official_name]
  exported = convert.export(
    network, converted.model, converted.networks[network]
  )
  original = _arrays(_read(name)[official_name])
  assert exported.keys() == original.keys()
  for key, array in original.items():
    assert exported[key].dtype == array.dtype, key
    if 'filter' in key:  # Designed again.
      np.testing.assert_allclose(
        exported[key], array, rtol=0, atol=1e-6, strict=True
      )
    else:
      np.testing.assert_array_equal(exported[key], array, key, strict=True)


# Checkpoints of other hyper-parameters, written here.


def _convert(which):
  """Returns the official arrays of a checkpoint and what it becomes."""
  data = official_networks.checkpoint(which)
  arrays = official_networks.official_arrays(which, 'generator_ema')
  return arrays, convert.convert(files.read_bytes(data))


@pytest.mark.parametrize('which', official_networks.MODELS)
def test_other_hyper_parameters_survive(which):
  """Every field of the design away from its default, there and back."""
  model, nets = official_networks.networks(which)
  arrays, converted = _convert(which)
  assert converted.model == model
  for network, (_, variables) in nets.items():
    jax.tree.map(
      np.testing.assert_array_equal, converted.networks[network], variables
    )
  again = convert.export(
    'generator_ema', converted.model, converted.networks['generator_ema']
  )
  assert again.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(again[name], array, name, strict=True)


@pytest.mark.parametrize('which', official_networks.MODELS)
def test_other_hyper_parameters_draw_as_plain_numpy_does(which):
  """Grey, labels, five mapping layers; and a clamp that bites."""
  arrays, converted = _convert(which)
  options = converted.model | {'filtered_lrelu_implementation': 'reference'}
  found = sg3jax.model.Model({'model': options}, converted.networks)
  z = np.random.RandomState(0).randn(2, 12).astype(np.float32)
  c = np.eye(5, dtype=np.float32)[:2] if found.label_dim else None
  model = converted.model
  expected = plain_networks.images(arrays, model, z, c)
  assert expected.shape == (2, 16, 16, 1)
  assert expected.std(axis=(1, 2)).min() > 0.01  # There is something to see.
  # Float32 sums in up to eleven layers; 5e-6 on one machine.
  tolerance = 1e-4 * np.ptp(expected)
  assert np.abs(found(z, c) - expected).max() < tolerance
  unbounded = plain_networks.images(arrays, model | {'conv_clamp': None}, z, c)
  assert np.abs(unbounded - expected).max() > 100 * tolerance
  assert np.isfinite(found.discriminate(expected.astype(np.float32), c)).all()
  if model['generator'] == 'stylegan3':
    return
  without = plain_networks.images(arrays, model, z, c, noise=False)
  assert np.abs(found(z, c, noise_mode='none') - without).max() < tolerance
  is_noisy = model['stylegan2']['noise']
  assert (np.abs(without - expected).max() > 100 * tolerance) == is_noisy


def test_half_and_double_arrays_become_float32():
  arrays = official_networks.official_arrays('small', 'generator_ema')
  name = 'mapping.fc0.weight'
  for dtype in (np.float16, np.float64):
    lossy = {name: arrays[name].astype(dtype)}
    converted = convert.convert(
      files.read_bytes(official_networks.checkpoint(arrays=lossy))
    )
    params = converted.networks['generator_ema']['params']
    weight = params['mapping']['fc0']['weight']
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, lossy[name].T.astype(np.float32))


def _refused(match, **changes):
  with pytest.raises(records.CheckpointError, match=match) as caught:
    convert.convert(files.read_bytes(official_networks.checkpoint(**changes)))
  assert len(str(caught.value)) < 400


def test_arrays_must_match_both_ways():
  weight = official_networks.official_arrays('small', 'generator_ema')[
    'mapping.fc0.weight'
  ]
  _refused(
    "'mapping.fc9.weight'|fc9/weight is", arrays={'mapping.fc9.weight': weight}
  )
  _refused('fc0/bias is absent, not', arrays={'mapping.fc0.bias': None})
  _refused('fc0/weight is ', arrays={'mapping.fc0.weight': weight[:, :-1]})
  _refused("'mapping.strange'", arrays={'mapping.strange': weight})
  _refused(
    'lacks the array .*transform', arrays={'synthesis.input.transform': None}
  )
  integers = weight.astype(np.int64)
  _refused('dtype int64', arrays={'mapping.fc0.weight': integers})


def test_recomputed_arrays_must_be_ours():
  arrays = official_networks.official_arrays('small', 'generator_ema')
  name = next(name for name in arrays if name.endswith('up_filter'))
  _refused(f'{name} .* different images', arrays={name: arrays[name] + 1e-5})
  turned = np.float32([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
  _refused('transform', arrays={'synthesis.input.transform': turned})


@pytest.mark.parametrize(
  ('path', 'change', 'match'),
  [
    ('synthesis.{L1}', {'in_cutoff': 3.0}, 'has in_cutoff = 3.0, where its'),
    ('synthesis.{L1}', {'padding': [0, 0, 0, 0]}, 'padding'),
    ('synthesis.{L1}', {'padding': [[[0]]]}, 'padding'),
    ('synthesis.{L1}', {'conv_clamp': 256}, 'conv_clamp'),
    ('synthesis.{L1}', {'down_radial': False}, 'down_radial'),
    ('synthesis.{L1}', {'in_size': np.zeros((3, 3, 3))}, 'in_size'),
    ('synthesis.input', {'bandwidth': None}, 'bandwidth'),
    ('mapping.fc0', {'weight_gain': 1.0}, 'weight_gain'),
    ('mapping.fc0', {'activation': 'relu'}, "activation = 'relu'"),
    ('mapping', {'num_layers': 2.5}, r'num_layers .* got 2\.5'),
    ('mapping', {'num_layers': 10**9}, r'num_layers .* got 1000000000'),
    ('', {'z_dim': 'many'}, 'z_dim'),
    ('', {'z_dim': 0}, 'z_dim = 12, where its design gives 0'),
    ('', {'c_dim': -1}, r'c_dim .* got -1'),
    ('', {'img_resolution': float('nan')}, r'img_resolution .* got nan'),
    ('', {'img_channels': 2}, 'img_channels must be'),
    ('synthesis', {'_init_kwargs': {'filter_size': 10**6}}, 'filter_size'),
    ('synthesis', {'_init_kwargs': {'num_layers': 0}}, 'impossible design'),
    ('synthesis', {'_init_kwargs': {'first_cutoff': 0}}, 'impossible design'),
    ('synthesis', {'_init_kwargs': {'use_noise': True}}, "'use_noise'"),
    ('synthesis', {'_init_kwargs': 5}, 'does not contain its arguments'),
    ('synthesis', {'_init_args': (16,)}, 'that have no names'),
    ('synthesis', {'output_scale': 0.5}, 'output_scale = 0.75, where its'),
    ('synthesis', {'num_layers': 4}, 'num_layers = 4'),
    ('synthesis', {'num_critical': 2}, 'num_critical = 2'),
    ('synthesis', {'margin_size': 3}, 'margin_size = 3'),
    ('synthesis', {'num_ws': 9}, 'num_ws = 9'),
    ('synthesis', {'w_dim': 9}, 'w_dim = 9'),
    ('synthesis', {'img_channels': 3}, 'img_channels = 3'),
    ('mapping', {'num_ws': 3}, 'num_ws = 3'),
    ('mapping', {'z_dim': 3}, 'z_dim = 3'),
    ('mapping', {'c_dim': 3}, 'c_dim = 3'),
    ('mapping.fc0', {'weight_gain': 1 << 1100}, 'a huge number'),
    ('', {'num_ws': 1 << 1100}, 'a huge number'),
  ],
)
def test_designs_that_do_not_add_up(path, change, match):
  layers = [
    name.split('.')[1]
    for name in official_networks.official_arrays('small', 'generator_ema')
    if name.startswith('synthesis.L1_')
  ]
  _refused(match, changes={path.format(L1=layers[0]): change}, D=False)


@pytest.mark.parametrize(
  ('path', 'change', 'match'),
  [
    ('b16', {'architecture': 'skip'}, "architecture 'skip': only 'resnet'"),
    ('b4.mbstd', {'num_channels': 2}, 'num_channels'),
    ('b4.mbstd', {'group_size': None}, 'group_size'),
    ('b16.conv1', {'down': 1}, 'down = 1'),
    ('b16.skip', {'conv_clamp': 256}, 'conv_clamp'),
    ('b4.out', {'bias_gain': 2}, 'bias_gain'),
    ('b16.conv1', {'act_gain': 3.0}, 'act_gain = 3.0'),
    ('b16.skip', {'act_gain': 2**0.5}, 'act_gain'),
    ('b8.conv0', {'weight_gain': 9.0}, 'weight_gain = 9.0'),
    ('b16.fromrgb', {'padding': 1}, 'padding = 1'),
    ('', {'_init_args': (0, 16, 3)}, 'img_channels = 3'),
    ('', {'_init_args': (0, 16, 1, 'skip')}, 'that have no names'),
    ('', {'_init_kwargs': {'foo': 3}}, "made with 'foo'"),
    ('', {'_init_kwargs': {'architecture': 'skip'}}, "architecture = 'skip'"),
    ('', {'_init_kwargs': {'conv_clamp': 256}}, 'conv_clamp = 256'),
    (
      '',
      {'_init_kwargs': {'block_kwargs': {'activation': 'relu'}}},
      "'block_kwargs' was made with 'activation'",
    ),
    (
      '',
      {'_init_kwargs': {'epilogue_kwargs': {'mbstd_group_size': 3}}},
      'mbstd_group_size = 3',
    ),
    ('', {'_init_kwargs': {'mapping_kwargs': 5}}, 'has no names'),
    ('', {'_init_kwargs': {'channel_base': 0}}, 'impossible design'),
    ('', {'_init_kwargs': {'channel_max': 1}}, r' is \(.*, not \('),
    ('', {'img_channels': 3}, 'img_channels|fromrgb'),
    ('', {'img_resolution': 17}, 'resolution must be .* got 17'),
  ],
)
def test_discriminators_of_other_architectures(path, change, match):
  _refused(match, D_changes={path: change})


def test_the_output_scale_is_the_network_s_own():
  """Not only what it was made with: published ones say nothing there."""
  generator = _read.__wrapped__('stylegan3_t32')['G_ema']
  state = generator.submodule('synthesis').state
  state['output_scale'] = 0.5
  model, *_ = convert.convert_network('generator_ema', generator)
  assert model['output_scale'] == 0.5
  # Files of before it was an attribute.
  for name in ('output_scale', 'num_layers', 'margin_size', 'num_ws'):
    del state[name]
  model, *_ = convert.convert_network('generator_ema', generator)
  assert model['output_scale'] == 0.25


@pytest.mark.parametrize('kind', ['list', 'text'])
def test_values_of_the_file_are_never_printed_whole(kind):
  """Such as a list that has 2^60 items when it is written out."""
  value = 'x' * (1 << 20)
  if kind == 'list':
    value = []
    for _ in range(60):
      value = [value, value]
  checkpoint = files.read_bytes(official_networks.checkpoint('skip'))
  arguments = checkpoint['G_ema'].submodule('synthesis').state['_init_kwargs']
  arguments['architecture'] = value
  start = time.perf_counter()
  with pytest.raises(records.CheckpointError, match='architecture') as caught:
    convert.convert(checkpoint)
  assert time.perf_counter() - start < 1
  assert len(str(caught.value)) < 200


def test_no_array_takes_the_place_of_another():
  arrays = official_networks.official_arrays('small', 'generator_ema')
  layer = next(name.split('.')[1] for name in arrays if '.L0_' in name)
  weight = arrays[f'synthesis.{layer}.weight']
  _refused(
    f'synthesis.{layer}.weight and synthesis.L0_1_1.weight',
    arrays={'synthesis.L0_1_1.weight': weight},
  )
  # Under another name that is ours too, but not this design's.
  _refused(
    "no part 'L0_|its design lacks",
    arrays={
      f'synthesis.{layer}.bias': None,
      'synthesis.L0_1_1.bias': arrays[f'synthesis.{layer}.bias'],
    },
  )
  for part, name in (('_buffers', 'weight'), ('_parameters', 'affine.weight')):
    value = files.read_bytes(official_networks.checkpoint(D=False))
    state = value['G_ema'].submodule('synthesis').submodule(layer).state
    state[part][name] = state['_parameters']['weight']
    with pytest.raises(records.CheckpointError, match='two arrays named'):
      convert.convert(value)


def test_arrays_of_impossible_shapes():
  arrays = official_networks.official_arrays('small', 'generator_ema')
  name = next(n for n in arrays if '.L0_' in n and arrays[n].ndim == 4)
  _refused('impossible shape', arrays={name: arrays[name][0]})
  D = files.read_bytes(official_networks.checkpoint())['D']
  parameters = D.submodule('b4').submodule('fc').state['_parameters']
  width = parameters['weight'].shape[1]
  parameters['weight'] = records.Tensor(
    records.Storage(np.dtype('<f4'), 0, b''), 0, (0, width), (width, 1)
  )
  with pytest.raises(records.CheckpointError, match='impossible shape'):
    convert.convert_network('discriminator', D)


def test_doubles_beyond_float32_are_refused():
  name = 'mapping.fc0.weight'
  weight = official_networks.official_arrays('small', 'generator_ema')[name]
  _refused('exceeds float32', arrays={name: weight.astype(np.float64) * 1e300})


def test_checkpoints_without_networks():
  for value, match in (
    ({'D': None, 'a' * 999: 1}, "no network G_ema, but 'D', 'aaa"),
    ([], 'must be a network or a dictionary'),
    ({'G_ema': writer.module('Net', {}, {}, {})}, "no part 'synthesis'"),
  ):
    with pytest.raises(records.CheckpointError, match=match):
      convert.convert(files.read_bytes(writer.dumps(value)))
  assert convert.convert(
    files.read_bytes(official_networks.checkpoint(D=False))
  ).networks.keys() == {'generator_ema'}


def test_shared_modules_are_not_walked_again_and_again():
  """A module of two parts that are one module of two parts ...: refused."""
  value = files.read_bytes(official_networks.checkpoint(D=False))
  part = value['G_ema'].submodule('mapping').submodule('fc0')
  for _ in range(60):
    state = {'_parameters': {}, '_buffers': {}}
    state['_modules'] = {'a': part, 'b': part}
    part = records.Module('Net', state)
  value['G_ema'].state['_modules']['extra'] = part
  with pytest.raises(records.CheckpointError, match='same as another module'):
    convert.convert(value)


def test_damaged_attributes_are_one_clear_error():
  """Random attributes replaced by junk: converted all the same, or refused."""
  junk = [
    None, True, -1, 0, 3, 1 << 70, 1 << 1100, 0.5, float('nan'), float('inf'),
    'x', [], {}, (1, 2), [[]], set(), b'', records.NumpyArray(np.zeros(99)),
    records.NumpyArray(), records.Module('Net', {}),
  ]  # fmt: skip
  value = files.read_bytes(official_networks.checkpoint())
  rng = np.random.RandomState(0)
  refused = 0
  for _ in range(60):
    node = value[rng.choice(['G_ema', 'D'])]
    while node.state['_modules'] and rng.rand() < 0.7:
      node = rng.choice(list(node.state['_modules'].values()))
    target = node.state
    if '_init_kwargs' in target and rng.rand() < 0.5:
      target = target['_init_kwargs']
    key = rng.choice(list(target))
    whole, target[key] = target[key], junk[rng.randint(len(junk))]
    try:
      convert.convert(value)
    except records.CheckpointError:
      refused += 1
    target[key] = whole
  assert refused > 20


@pytest.mark.parametrize(
  ('field', 'value'), [('learned_transform', False), ('filter', 'lanczos')]
)
def test_designs_of_our_own_have_no_official_arrays(field, value):
  model = config_lib.default_config().model.to_dict()
  model |= {'img_channels': 3, 'label_dim': 0}
  model['synthesis'][field] = value
  with pytest.raises(ValueError, match=rf'no network with .*{field} = '):
    convert.export('generator_ema', model, {})
