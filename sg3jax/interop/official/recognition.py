"""Derives designs of official networks from their arrays' names and shapes.

A state dictionary does not contain its network's arguments. Sizes follow from
the names and shapes; everything else is assumed to be as published. The arrays
that follow from a design (`derived`) verify this for the filters. What no array
shows is reported.
"""

import re
from collections.abc import Mapping
from typing import Any

from sg3jax.interop.torch_pickle.records import CheckpointError
from sg3jax.nets import factory
from sg3jax.nets import spec as spec_lib

Shapes = Mapping[str, tuple[int, ...]]

# The published capacities: channel_base and channel_max.
_CAPACITIES = ((32768, 512), (65536, 1024), (16384, 512))

_LAYER = re.compile(
  r'synthesis\.L([0-9]{1,3})_([0-9]{1,5})_([0-9]{1,5})\.weight'
)
_BLOCK = re.compile(r'(?:synthesis\.)?b([0-9]{1,5})\.')

# Beyond these limits, a design could have filters that fill the memory.
_MAX_RESOLUTION = 8192
_MAX_LAYERS = 64


def generator_model(shapes: Shapes) -> dict[str, Any]:
  """Returns the `model` part of our configuration, without a discriminator.

  Args:
    shapes: The shape of every array by official name.

  Raises:
    CheckpointError: If they do not belong to a published kind of generator. The
      message suggests passing the configuration.
  """
  label_dim = _size(shapes, 'mapping.embed.weight', 1, default=0)
  layers = sorted(
    (int(match[1]), int(match[2]), int(match[3]))
    for match in map(_LAYER.fullmatch, shapes)
    if match
  )
  sides = _sides(shapes)
  if layers:
    w_dim = _size(shapes, 'synthesis.input.affine.weight', 1)
    design = _stylegan3_model(shapes, layers)
  elif sides:
    first = f'synthesis.b{sides[0]}.conv1'
    w_dim = _size(shapes, f'{first}.affine.weight', 1)
    design = _stylegan2_model(shapes, sides)
  else:
    name = next(iter(shapes), 'nothing')
    raise CheckpointError(
      f'the checkpoint has an array {name[:80]!a}, which no network here has: '
      'its architecture is different'
    )
  return {
    'z_dim': _size(shapes, 'mapping.fc0.weight', 1)
    - (w_dim if label_dim else 0),
    'w_dim': w_dim,
    'label_dim': label_dim,
    'mapping_layers': _mapping_layers(shapes),
    'precision': 'fp32',
    'filtered_lrelu_implementation': None,
    'conv_clamp': factory.CONV_CLAMP,
    **design,
  }


def configured_model(
  config: Mapping[str, Any], shapes: Shapes
) -> dict[str, Any]:
  """Returns the `model` part of a configuration, completed from the arrays.

  Args:
    config: The `model` part of a configuration. The channels of the images and
      the features of the labels may be None: the arrays determine them.
    shapes: The shape of every array of a generator by official name.

  Raises:
    CheckpointError: If the arrays do not determine a field that is None.
  """
  model = {**config, 'precision': 'fp32', 'remat': False}
  if model['label_dim'] is None:
    model['label_dim'] = _size(shapes, 'mapping.embed.weight', 1, default=0)
  if model['img_channels'] is None:
    last = [
      name
      for name in shapes
      if name.endswith('torgb.bias') or re.search(r'\.L[0-9_]+\.bias$', name)
    ]
    last.sort(key=lambda name: int(re.findall('[bL]([0-9]+)', name)[0]))
    model['img_channels'] = _size(shapes, last[-1] if last else '', 0)
  if config['precision'] != 'fp32' and model.get('conv_clamp') is None:
    model['conv_clamp'] = factory.CONV_CLAMP
  return model


def discriminator_model(shapes: Shapes, clamp: float | None) -> dict[str, Any]:
  """Returns the `model` part of our configuration, as far as D shows it.

  Args:
    shapes: The shape of every array by official name.
    clamp: The bound of the feature maps, the same as in the generator.

  Raises:
    CheckpointError: If they do not belong to the residual discriminator.
  """
  sides = _sides(shapes)
  if not sides:
    raise CheckpointError('the discriminator of the checkpoint has no blocks')
  channels = {
    side: _size(shapes, f'b{side}.conv0.weight', 1) for side in sides[1:]
  }
  options = _capacity(channels) | {'mbstd_group': 4, 'conv_clamp': clamp}
  label_dim = _size(shapes, 'mapping.embed.weight', 1, default=0)
  if label_dim:
    options['mapping_layers'] = _mapping_layers(shapes)
  return {
    'resolution': sides[-1],
    'img_channels': _size(shapes, f'b{sides[-1]}.fromrgb.weight', 1),
    'label_dim': label_dim,
    'precision': 'fp32',
    'discriminator': options,
  }


def _stylegan3_model(
  shapes: Shapes, layers: list[tuple[int, int, int]]
) -> dict[str, Any]:
  *hidden, (_, resolution, img_channels) = layers
  if len(layers) > _MAX_LAYERS or not 1 <= resolution <= _MAX_RESOLUTION:
    raise _unpublished('layers', 'stylegan3_t', resolution)
  kernel = _size(shapes, 'synthesis.L0_{}_{}.weight'.format(*layers[0][1:]), 3)
  # Radial filters are 2-D arrays, separable ones 1-D.
  is_radial = any(
    name.endswith('.down_filter') and len(shape) == 2
    for name, shape in shapes.items()
  )
  found = [channels for _, _, channels in hidden]
  for base, most in (
    *_CAPACITIES,
    (found[-1] * resolution if found else 1, max(found, default=1)),
  ):
    design = {
      'channel_base': base,
      'channel_max': most,
      'num_layers': len(hidden),
      'conv_kernel': kernel,
      'radial_filters': is_radial,
    }
    try:
      spec = spec_lib.SynthesisSpec(
        resolution=resolution, img_channels=img_channels, **design
      )
    except (ValueError, ArithmeticError):
      continue
    if [(x.index, x.out_size, x.out_channels) for x in spec.layers] == layers:
      return {
        'generator': 'stylegan3',
        'resolution': resolution,
        'img_channels': img_channels,
        'output_scale': 0.25,
        'synthesis': design,
      }
  name = 'stylegan3_r' if is_radial else 'stylegan3_t'
  raise _unpublished('layers', name, resolution)


def _stylegan2_model(shapes: Shapes, sides: list[int]) -> dict[str, Any]:
  last = f'synthesis.b{sides[-1]}'
  architecture = 'orig'
  if f'{last}.skip.weight' in shapes:
    architecture = 'resnet'
  elif f'synthesis.b{sides[0]}.torgb.weight' in shapes:
    architecture = 'skip'
  channels = {
    side: _size(shapes, f'synthesis.b{side}.conv1.weight', 0) for side in sides
  }
  return {
    'generator': 'stylegan2',
    'resolution': sides[-1],
    'img_channels': _size(shapes, f'{last}.torgb.weight', 0),
    'stylegan2': _capacity(channels)
    | {
      'architecture': architecture,
      'noise': f'{last}.conv1.noise_strength' in shapes,
    },
  }


def _capacity(channels: Mapping[int, int]) -> dict[str, int]:
  """Returns the fields that give these channels by resolution."""
  last = max(channels)
  for base, most in (
    *_CAPACITIES,
    (channels[last] * last, max(channels.values())),
  ):
    if all(n == min(base // side, most) for side, n in channels.items()):
      return {'channel_base': base, 'channel_max': most}
  raise _unpublished('channels', 'stylegan2', last)


def _unpublished(what: str, name: str, resolution: int) -> CheckpointError:
  return CheckpointError(
    f'the {what} of the checkpoint are not those of a published design: pass '
    'the configuration that its network was trained with, such as '
    f'config={name}:{resolution} with other fields'
  )


def _sides(shapes: Shapes) -> list[int]:
  """Returns the resolutions of the blocks in ascending order."""
  sides = {int(match[1]) for match in map(_BLOCK.match, shapes) if match}
  return sorted(side for side in sides if 1 <= side <= _MAX_RESOLUTION)


def _mapping_layers(shapes: Shapes) -> int:
  return sum(
    re.fullmatch(r'mapping\.fc[0-9]{1,3}\.weight', name) is not None
    for name in shapes
  )


def _size(
  shapes: Shapes, name: str, axis: int, default: int | None = None
) -> int:
  """Returns one size of an array."""
  if name not in shapes and default is not None:
    return default
  shape = shapes.get(name, ())
  if axis >= len(shape):
    raise CheckpointError(
      f'the checkpoint has no array {name} of the shape that its network needs'
    )
  return shape[axis]
