"""Networks of any hyper-parameters in the official pickle's structure."""

import functools
import math

import jax
import numpy as np
import official_writer as writer

from sg3jax import trees
from sg3jax.interop.official import convert
from sg3jax.nets import factory
from sg3jax.nets import spec as spec_lib

_BUFFERS = frozenset(
  [
    'w_avg', 'freqs', 'phases', 'transform', 'magnitude_ema', 'up_filter',
    'down_filter', 'resample_filter', 'noise_const',
  ]
)  # fmt: skip


def nested(arrays: dict) -> dict:
  """Returns a tree of arrays with dotted names."""
  return trees.unflatten({k.replace('.', '/'): v for k, v in arrays.items()})


def _build(tree: dict, attributes, path: str = '') -> writer.Call:
  """Returns a module; `attributes(path, tree)` is what each says of itself."""
  arrays = {k: v for k, v in tree.items() if not isinstance(v, dict)}
  return writer.module(
    'Whatever',
    {k: v for k, v in arrays.items() if k not in _BUFFERS},
    {k: v for k, v in arrays.items() if k in _BUFFERS},
    {
      k: _build(v, attributes, f'{path}.{k}'.lstrip('.'))
      for k, v in tree.items()
      if isinstance(v, dict)
    },
    **attributes(path, tree),
  )


def _dense(path: str, tree: dict) -> dict:
  lr = 0.01 if path.startswith('mapping.fc') else 1
  is_activated = path.startswith('mapping.fc') or path.endswith('.fc')
  return {
    'activation': 'lrelu' if is_activated else 'linear',
    'weight_gain': lr / math.sqrt(tree['weight'].shape[1]),
    'bias_gain': lr,
  }


def _layer(layer: spec_lib.LayerSpec, clamp: float | None) -> dict:
  (top, bottom), (left, right) = layer.padding
  return {
    'is_torgb': layer.is_torgb,
    'is_critically_sampled': layer.is_critical,
    'in_channels': layer.in_channels,
    'out_channels': layer.out_channels,
    'in_size': np.array([layer.in_size] * 2),
    'out_size': np.array([layer.out_size] * 2),
    'in_sampling_rate': int(layer.in_sampling_rate),
    'out_sampling_rate': int(layer.out_sampling_rate),
    'tmp_sampling_rate': int(layer.tmp_sampling_rate),
    'in_cutoff': layer.in_cutoff,
    'out_cutoff': np.float64(layer.out_cutoff),
    'in_half_width': layer.in_half_width,
    'out_half_width': layer.out_half_width,
    'conv_kernel': layer.conv_kernel,
    'conv_clamp': clamp,
    'up_factor': layer.up_factor,
    'up_taps': layer.up_taps,
    'down_factor': layer.down_factor,
    'down_taps': layer.down_taps,
    'down_radial': layer.radial_down_filter,
    'padding': [left, right, top, bottom],
  }


def _sizes_of_images(model: dict) -> dict:
  return {
    'img_resolution': model['resolution'],
    'img_channels': model['img_channels'],
  }


def _sizes(model: dict) -> dict:
  return {'c_dim': model['label_dim'], **_sizes_of_images(model)}


def _conv(tree: dict, is_linear: bool = False) -> dict:
  _, inputs, _, side = tree['weight'].shape
  return {
    'weight_gain': 1 / math.sqrt(inputs * side * side),
    'act_gain': 1 if is_linear else math.sqrt(2),
    'padding': side // 2,
  }


def generator(model: dict, arrays: dict, changes: dict | None = None):
  """Returns what is pickled as a generator.

  Args:
    model: The `model` part of our configuration.
    arrays: Its arrays by official name.
    changes: Other attributes, by path of the module and name: lies.
  """
  synthesis = {'stylegan3': _stylegan3, 'stylegan2': _stylegan2}
  synthesis = synthesis[model['generator']](model)
  all_of = {k: model[k] for k in ('z_dim', 'w_dim')}
  all_of['num_ws'] = factory.make_spec(model).num_ws

  def attributes(path: str, tree: dict) -> dict:
    if path == '':
      found = _sizes(model) | all_of
    elif path == 'mapping':
      found = {'num_layers': model['mapping_layers'], **all_of}
      found['c_dim'] = model['label_dim']
    else:
      is_synthesis = path.startswith('synthesis')
      found = synthesis(path, tree) if is_synthesis else None
      found = _dense(path, tree) if found is None else found
    return found | (changes or {}).get(path, {})

  return _build(nested(arrays), attributes)


def _stylegan3(model: dict):
  """Returns a function: what each part says of itself, None if nothing."""
  spec = factory.make_spec(model)
  assert isinstance(spec, spec_lib.SynthesisSpec)
  clamp = model.get('conv_clamp')
  design = dict(model['synthesis'])
  arguments = {
    'w_dim': model['w_dim'],
    'margin_size': design.pop('margin'),
    'use_radial_filters': design.pop('radial_filters'),
    'conv_clamp': clamp,
    'output_scale': model.get('output_scale', 0.25),
    **design,
  }
  kept = ('w_dim', 'num_layers', 'num_critical', 'margin_size', 'output_scale')

  def attributes(path: str, tree: dict) -> dict | None:
    name = path.rpartition('.')[2]
    if path == 'synthesis':
      return {
        '_init_args': (),
        '_init_kwargs': arguments,
        'num_ws': spec.num_ws,
        **_sizes_of_images(model),
        **{name: arguments[name] for name in kept},
      }
    if path == 'synthesis.input':
      return {
        'channels': int(spec.channels[0]),
        'size': np.array([spec.input_size] * 2),
        'sampling_rate': spec.sampling_rates[0],
        'bandwidth': spec.first_cutoff,
      }
    if name.startswith('L'):
      index = int(name.split('_')[0].removeprefix('L'))
      return _layer(spec.layers[index], clamp)
    return None

  return attributes


def _stylegan2(model: dict):
  """The same for StyleGAN2."""
  design, clamp = model['stylegan2'], model['conv_clamp']

  def channels(side: int) -> int:
    return min(design['channel_base'] // side, design['channel_max'])

  def attributes(path: str, tree: dict) -> dict | None:
    name = path.rpartition('.')[2]
    if path == 'synthesis':
      arguments = {k: design[k] for k in ('channel_base', 'channel_max')}
      arguments['architecture'] = design['architecture']
      # What it is made with beside: blocks pass the rest on to layers.
      arguments |= {'conv_clamp': clamp, 'use_noise': design['noise']}
      return {
        '_init_args': (),
        '_init_kwargs': arguments,
        'num_ws': factory.make_spec(model).num_ws,
        'w_dim': model['w_dim'],
        **_sizes_of_images(model),
      }
    if name == 'affine':
      return None
    side = int(path.split('.')[1].removeprefix('b'))
    if path.count('.') == 1:
      return {
        'resolution': side,
        'architecture': design['architecture'],
        'is_last': side == model['resolution'],
        'in_channels': 0 if side == 4 else channels(side // 2),
      }
    same = _conv(tree, is_linear=name == 'skip')
    if name == 'torgb':
      return {
        'conv_clamp': clamp,
        'out_channels': model['img_channels'],
        'weight_gain': same['weight_gain'],
      }
    if name == 'skip':
      return {'conv_clamp': None, 'activation': 'linear', 'up': 2, **same}
    del same['weight_gain']  # Styles are normalized.
    return {
      'conv_clamp': clamp,
      'activation': 'lrelu',
      'up': 2 if name == 'conv0' else 1,
      'use_noise': design['noise'],
      'resolution': side,
      **same,
    }

  return attributes


def discriminator(model: dict, arrays: dict, changes: dict | None = None):
  """Returns what is pickled as a discriminator; arguments as `generator`."""
  options = model['discriminator']
  last = min(
    int(name.split('.')[0].removeprefix('b'))
    for name in arrays
    if name.startswith('b')
  )

  def attributes(path: str, tree: dict) -> dict:
    name = path.rpartition('.')[2]
    if path == '':
      arguments = {k: options[k] for k in ('channel_base', 'channel_max')}
      arguments['epilogue_kwargs'] = {
        'mbstd_group_size': options['mbstd_group']
      }
      sizes = _sizes(model)
      found = sizes | {
        '_init_args': tuple(sizes.values()),
        '_init_kwargs': arguments,
      }
    elif path == 'mapping':
      found = {'num_layers': options['mapping_layers'], 'num_ws': None}
      found |= {'c_dim': model['label_dim'], 'w_dim': len(tree['fc0']['bias'])}
    elif path.startswith('mapping.') or name in ('fc', 'out'):
      found = _dense(path, tree)
    elif name == 'mbstd':
      found = {'group_size': options['mbstd_group'], 'num_channels': 1}
    elif '.' not in path:
      found = {'architecture': 'resnet'}
    else:
      found = {
        'activation': 'linear' if name == 'skip' else 'lrelu',
        'up': 1,
        'down': 2 if name in ('conv1', 'skip') else 1,
        'conv_clamp': None if name == 'skip' else options.get('conv_clamp'),
        **_conv(tree, is_linear=name == 'skip'),
      }
    return found | (changes or {}).get(path, {})

  tree = nested(arrays)
  tree[f'b{last}']['mbstd'] = {}
  return _build(tree, attributes)


UNUSUAL = {
  'resolution': 16,
  'img_channels': 1,
  'label_dim': 5,
  'z_dim': 12,
  'w_dim': 16,
  'mapping_layers': 3,
  'generator': 'stylegan3',
  'precision': 'fp32',
  'filtered_lrelu_implementation': None,
  'conv_clamp': 1.0,
  'output_scale': 0.75,
  'synthesis': {
    'channel_base': 64,
    'channel_max': 8,
    'num_layers': 10,
    'num_critical': 1,
    'first_cutoff': 1.5,
    'first_stopband': 5.0,
    'last_stopband_rel': 1.5,
    'margin': 8,
    'filter_size': 4,
    'lrelu_upsampling': 4,
    'conv_kernel': 3,
    'radial_filters': True,
  },
  'discriminator': {
    'channel_base': 64,
    'channel_max': 8,
    'mbstd_group': 2,
    'conv_clamp': 1.0,
    'mapping_layers': 3,
  },
}  # fmt: skip

SMALL = UNUSUAL | {
  'label_dim': 0,
  'discriminator': {
    k: v for k, v in UNUSUAL['discriminator'].items() if k != 'mapping_layers'
  },
  'synthesis': UNUSUAL['synthesis']
  | {
    'num_layers': 3,
    'filter_size': 2,
    'lrelu_upsampling': 2,
    'margin': 2,
    'conv_kernel': 5,
  },
}


def _stylegan2_model(architecture: str, noise: bool) -> dict:
  without = ('synthesis', 'output_scale')
  model = {k: v for k, v in UNUSUAL.items() if k not in without}
  return model | {
    'generator': 'stylegan2',
    'mapping_layers': 5,
    'stylegan2': {
      'channel_base': 64,
      'channel_max': 10,
      'architecture': architecture,
      'noise': noise,
    },
  }


MODELS = {
  'unusual': UNUSUAL,
  'small': SMALL,
  'skip': _stylegan2_model('skip', True),
  'resnet': _stylegan2_model('resnet', True),
  'orig': _stylegan2_model('orig', True),
  'without noise': _stylegan2_model('skip', False),
}


def _init(module, seed, *inputs):
  """Returns variables, none at its initial value, that keep signals alive.

  Some of the values reach a clamp of 1, and some do not.
  """
  rng = np.random.RandomState(seed)

  def draw(path, x):
    values = np.asarray(rng.randn(*x.shape), np.float32)
    name = jax.tree_util.keystr(path)
    if 'fc' in name:  # Layers of mappings hold a hundred times what they apply.
      values = values * 100
    if name.endswith("['bias']"):  # Styles are about 1.
      values = np.float32('affine' in name) + np.float32(0.1) * values
    if x.ndim == 4 and x.shape[-1] == 1:  # ToRGB, of grey images.
      values = np.float32(0.2) * values
    if 'magnitude' in name:
      values = np.float32(0.1) + np.float32(0.1) * np.abs(values)
    return values

  variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree.map_with_path(draw, variables)


@functools.cache
def networks(which):
  """Returns a generator and a discriminator with their variables."""
  model = MODELS[which]
  labels = [np.eye(5, dtype=np.float32)[:2]] if model['label_dim'] else []
  z = np.zeros((2, model['z_dim']), np.float32)
  side = model['resolution']
  images = np.zeros((2, side, side, 1), np.float32)
  G = factory.make_generator(model)
  D = factory.make_discriminator(model)
  return model, {
    'generator_ema': (G, _init(G, 0, z, *labels)),
    'discriminator': (D, _init(D, 1, images, *labels)),
  }


def official_arrays(which, network):
  model, nets = networks(which)
  return convert.export(network, model, nets[network][1])


def checkpoint(
  which='small', arrays=None, changes=None, D=True, D_changes=None
) -> bytes:
  """Returns a checkpoint; `arrays` and `changes` replace what G_ema has."""
  model, _ = networks(which)
  arrays = official_arrays(which, 'generator_ema') | (arrays or {})
  arrays = {name: x for name, x in arrays.items() if x is not None}
  value = {'G_ema': generator(model, arrays, changes)}
  if D:
    value['D'] = discriminator(
      model, official_arrays(which, 'discriminator'), D_changes
    )
  return writer.dumps(value)
