"""Designs of official networks, from their modules' attributes.

The hyper-parameters are what a module was made with; where that was left to
the default, the published one. They give our configuration, and from it follows
the geometry of every layer again: what a layer of the file says of itself must
agree, so that no hyper-parameter can be missed.
"""

import itertools
import math
from collections.abc import Mapping, Set
from typing import Any

from sg3jax.interop.official import arrays as arrays_lib
from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  NumpyArray,
  Tensor,
  quoted,
)
from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import factory, stylegan2
from sg3jax.nets import spec as spec_lib

# What networks are made with: the official name, ours, the default and the
# largest value believed. A design beyond could ask for filters that fill the
# memory.
_Table = tuple[tuple[str, str, float, float], ...]
_CHANNELS: _Table = (
  ('channel_base', 'channel_base', 32768, 1 << 24),
  ('channel_max', 'channel_max', 512, 1 << 14),
)
_SYNTHESIS: _Table = (
  *_CHANNELS,
  ('num_layers', 'num_layers', 14, 100),
  ('num_critical', 'num_critical', 2, 100),
  ('first_cutoff', 'first_cutoff', 2.0, 1 << 12),
  ('first_stopband', 'first_stopband', 2.0**2.1, 1 << 12),
  ('last_stopband_rel', 'last_stopband_rel', 2.0**0.3, 16),
  ('margin_size', 'margin', 10, 256),
  ('filter_size', 'filter_size', 6, 64),
  ('lrelu_upsampling', 'lrelu_upsampling', 2, 16),
  ('conv_kernel', 'conv_kernel', 3, 15),
)
_MAX_RESOLUTION = 8192
_MAX_FEATURES = 1 << 16
_MAX_LAYERS = 64
_MAX_TAPS = 1024

# Arguments that are read elsewhere, or matter in training only.
_OTHER_ARGUMENTS = frozenset(
  [
    'w_dim', 'img_resolution', 'img_channels', 'use_radial_filters',
    'output_scale', 'conv_clamp', 'num_fp16_res', 'magnitude_ema_beta',
  ]
)  # fmt: skip

# What a discriminator's parts are made with.
_DISCRIMINATOR_PARTS = {
  'block_kwargs': frozenset(['freeze_layers', 'fp16_channels_last']),
  'mapping_kwargs': frozenset(['num_layers', 'w_avg_beta']),
  'epilogue_kwargs': frozenset(['mbstd_group_size', 'mbstd_num_channels']),
}
# Its arguments that may have no name.
_POSITIONAL = ('c_dim', 'img_resolution', 'img_channels')

_STYLEGAN2_ARGUMENTS = frozenset(
  [
    'w_dim', 'img_resolution', 'img_channels', 'num_fp16_res', 'conv_clamp',
    'architecture', 'use_noise', 'fused_modconv_default',
  ]
)  # fmt: skip

_DISCRIMINATOR_ARGUMENTS = frozenset(
  [
    'c_dim', 'img_resolution', 'img_channels', 'architecture', 'num_fp16_res',
    'conv_clamp', 'cmap_dim', *_DISCRIMINATOR_PARTS,
  ]
)  # fmt: skip

# Integers that are printed; longer ones could be as long as the file.
_MAX_BITS = 64

# Float64 numbers of the file and ours differ by the order of a few operations.
_RELATIVE = 1e-9


def generator_model(generator: Module) -> dict[str, Any]:
  """Returns the `model` part of our configuration, without a discriminator.

  Args:
    generator: The official module.

  Raises:
    CheckpointError: If it is one that this package cannot draw with; the
      message names the reason.
  """
  synthesis = generator.submodule('synthesis')
  mapping = generator.submodule('mapping')
  model = {
    **_sizes(generator),
    'z_dim': _attribute(generator, 'z_dim', _MAX_FEATURES),
    'w_dim': _attribute(generator, 'w_dim', _MAX_FEATURES),
    'mapping_layers': _attribute(mapping, 'num_layers', _MAX_LAYERS),
    'filtered_lrelu_implementation': None,
  }
  if 'input' in synthesis.part('_modules'):
    model |= _stylegan3_model(model, synthesis)
  elif 'b4' in synthesis.part('_modules'):
    model |= _stylegan2_model(model, synthesis)
  else:
    raise CheckpointError(
      'the generator is none of StyleGAN3 and none of StyleGAN2: its synthesis '
      f'network begins with {_first_part(synthesis)}'
    )
  num_ws = synthesis_spec(model).num_ws
  same = _official_sizes(model) | {'w_dim': model['w_dim'], 'num_ws': num_ws}
  _check_given(generator.state, 'generator', {'num_ws': num_ws})
  _check_given(synthesis.state, 'synthesis', same)
  _check_given(_arguments(synthesis), 'synthesis', same)
  _check_given(mapping.state, 'mapping', {'z_dim': model['z_dim']})
  _check_mapping(mapping, model['w_dim'], model['label_dim'], num_ws)
  return model


def _first_part(module: Module) -> str:
  return quoted(next(iter(module.part('_modules')), 'nothing'))


def _stylegan3_model(
  model: Mapping[str, Any], synthesis: Module
) -> dict[str, Any]:
  arguments = _known_arguments(synthesis, _SYNTHESIS, _OTHER_ARGUMENTS)
  design = _numbers(arguments, _SYNTHESIS)
  design['radial_filters'] = _flag(
    'use_radial_filters', arguments.get('use_radial_filters', False)
  )
  # What the network scales with; that it was made with it is compared.
  scale = arguments.get('output_scale', 0.25)
  scale = synthesis.state.get('output_scale', scale)
  model = {
    **model,
    'generator': 'stylegan3',
    'conv_clamp': _clamp(arguments.get('conv_clamp', 256)),
    'output_scale': _number('output_scale', scale, 1e6, float),
    'synthesis': design,
  }
  spec = synthesis_spec(model)
  assert isinstance(spec, spec_lib.SynthesisSpec)
  _check_stylegan3(spec, model, synthesis)
  _check_given(arguments, 'synthesis', {'output_scale': model['output_scale']})
  same = ('num_layers', 'num_critical')
  _check_given(
    synthesis.state,
    'synthesis',
    {name: design[name] for name in same} | {'margin_size': design['margin']},
  )
  return model


def _stylegan2_model(
  model: Mapping[str, Any], synthesis: Module
) -> dict[str, Any]:
  arguments = _known_arguments(synthesis, _CHANNELS, _STYLEGAN2_ARGUMENTS)
  first = synthesis.submodule('b4').submodule('conv1')
  design = _numbers(arguments, _CHANNELS) | {
    'architecture': _architecture(arguments.get('architecture', 'skip')),
    'noise': _flag('use_noise', first.state.get('use_noise')),
  }
  model = {
    **model,
    'generator': 'stylegan2',
    'conv_clamp': _clamp(first.state.get('conv_clamp')),
    'stylegan2': design,
  }
  spec = synthesis_spec(model)
  assert isinstance(spec, stylegan2.StyleGAN2Spec)
  _check_stylegan2(spec, model, synthesis)
  same = {'conv_clamp': model['conv_clamp'], 'use_noise': design['noise']}
  _check_given(arguments, 'synthesis', same)
  return model


def _architecture(value: Any) -> str:
  if type(value) is not str or value not in stylegan2.ARCHITECTURES:
    raise CheckpointError(
      f'the generator has the architecture {quoted(value)}: only '
      f'{", ".join(stylegan2.ARCHITECTURES)} can be converted'
    )
  return value


def synthesis_spec(
  model: Mapping[str, Any],
) -> spec_lib.SynthesisSpec | stylegan2.StyleGAN2Spec:
  """Returns the design of a configuration's synthesis network.

  Raises:
    CheckpointError: If it is impossible.
  """
  try:
    spec = factory.make_spec(model)
    taps = 0
    if isinstance(spec, spec_lib.SynthesisSpec):
      taps = max(max(layer.up_taps, layer.down_taps) for layer in spec.layers)
  except (ValueError, ArithmeticError) as error:
    raise CheckpointError(
      f'the generator of the checkpoint has an impossible design: {error}'
    ) from error
  if taps > _MAX_TAPS:
    raise CheckpointError(
      f'the generator of the checkpoint has a filter of {taps} taps'
    )
  return spec


def _check_stylegan2(
  spec: stylegan2.StyleGAN2Spec, model: Mapping[str, Any], synthesis: Module
) -> None:
  """Checks what the blocks of a synthesis network say of themselves."""
  clamp, channels = model['conv_clamp'], 0
  for side in spec.resolutions:
    block, where = synthesis.submodule(f'b{side}'), f'synthesis.b{side}'
    _check(
      block,
      where,
      {
        'resolution': side,
        'architecture': spec.architecture,
        'is_last': side == spec.resolution,
        'in_channels': channels,
      },
    )
    for name, module in block.part('_modules').items():
      same: dict[str, Any] = {'conv_clamp': clamp}
      if name == 'torgb':
        same['out_channels'] = spec.img_channels
      elif name == 'skip':  # Linear in what is clamped already.
        same |= {'conv_clamp': None, 'activation': 'linear', 'up': 2}
      else:
        same |= {
          'activation': 'lrelu',
          'up': 2 if name == 'conv0' else 1,
          'use_noise': spec.noise,
          'resolution': side,
        }
      _check(module, f'{where}.{name}', same)
      _check_conv(module, f'{where}.{name}')
      if name != 'skip':
        _check_dense(module.submodule('affine'), f'{where}.{name}.affine')
    channels = spec.channels(side)


def _check_stylegan3(
  spec: spec_lib.SynthesisSpec, model: Mapping[str, Any], synthesis: Module
) -> None:
  """Checks what the layers of a synthesis network say of themselves."""
  first = spec.layers[0]
  _check(
    synthesis.submodule('input'),
    'synthesis.input',
    {
      'channels': first.in_channels,
      'size': [spec.input_size] * 2,
      'sampling_rate': first.in_sampling_rate,
      'bandwidth': spec.first_cutoff,
    },
  )
  _check_dense(synthesis.submodule('input').submodule('affine'), 'affine')
  for layer, name in zip(
    spec.layers, arrays_lib.layer_names(spec).values(), strict=True
  ):
    module = synthesis.submodule(name)
    _check(module, name, _geometry(layer) | {'conv_clamp': model['conv_clamp']})
    _check_dense(module.submodule('affine'), f'{name}.affine')


def _geometry(layer: spec_lib.LayerSpec) -> dict[str, Any]:
  """Returns what an official layer of this geometry says of itself."""
  same = (
    'in_channels', 'out_channels', 'in_sampling_rate', 'out_sampling_rate',
    'tmp_sampling_rate', 'in_cutoff', 'out_cutoff', 'in_half_width',
    'out_half_width', 'up_factor', 'down_factor', 'up_taps', 'down_taps',
    'conv_kernel', 'is_torgb',
  )  # fmt: skip
  (top, bottom), (left, right) = layer.padding
  return {name: getattr(layer, name) for name in same} | {
    'is_critically_sampled': layer.is_critical,
    'down_radial': layer.radial_down_filter,
    'in_size': [layer.in_size] * 2,
    'out_size': [layer.out_size] * 2,
    'padding': [left, right, top, bottom],
  }


def discriminator_model(discriminator: Module) -> dict[str, Any]:
  """Returns the `model` part of our configuration, as far as D knows it.

  Args:
    discriminator: The official module.

  Raises:
    CheckpointError: If it is of another architecture than `nets.discriminator`.
  """
  arguments = _known_arguments(
    discriminator, _CHANNELS, _DISCRIMINATOR_ARGUMENTS, _POSITIONAL
  )
  parts = {
    name: _known(name, arguments.get(name, {}), known)
    for name, known in _DISCRIMINATOR_PARTS.items()
  }
  model = _sizes(discriminator)
  try:
    sides = discriminator_lib.block_resolutions(model['resolution'])
  except ValueError as error:
    raise CheckpointError(str(error)) from error
  blocks = [discriminator.submodule(f'b{side}') for side in sides]
  first, epilogue = blocks[0], blocks[-1]
  clamp = _clamp(first.submodule('conv0').state.get('conv_clamp'))
  for side, block in zip(sides, blocks, strict=True):
    _check_block(block, f'b{side}', clamp)
  mbstd = epilogue.submodule('mbstd')
  _check(mbstd, 'mbstd', {'num_channels': 1})
  model['discriminator'] = _numbers(arguments, _CHANNELS) | {
    'mbstd_group': _attribute(mbstd, 'group_size', 1 << 20),
    'conv_clamp': clamp,
  }
  if model['label_dim']:
    mapping = discriminator.submodule('mapping')
    layers = _attribute(mapping, 'num_layers', _MAX_LAYERS)
    model['discriminator']['mapping_layers'] = layers
    w_dim = _attribute(mapping, 'w_dim', _MAX_FEATURES)
    _check_mapping(mapping, w_dim, model['label_dim'], None)
    _check_given(parts['mapping_kwargs'], 'mapping', {'num_layers': layers})
  _check_given(
    arguments,
    'discriminator',
    _official_sizes(model) | {'architecture': 'resnet', 'conv_clamp': clamp},
  )
  _check_given(
    parts['epilogue_kwargs'],
    'discriminator',
    {
      'mbstd_group_size': model['discriminator']['mbstd_group'],
      'mbstd_num_channels': 1,
    },
  )
  return model


def _check_block(block: Module, where: str, clamp: float | None) -> None:
  architecture = block.state.get('architecture')
  if architecture != 'resnet':
    raise CheckpointError(
      f'the discriminator has the architecture {quoted(architecture)}: only '
      "'resnet' can be converted"
    )
  for name, module in block.part('_modules').items():
    if name in ('fc', 'out', 'mbstd'):
      continue
    is_skip = name == 'skip'
    _check(
      module,
      f'{where}.{name}',
      {
        'activation': 'linear' if is_skip else 'lrelu',
        'up': 1,
        'down': 2 if name in ('conv1', 'skip') else 1,
        # A skip is linear in what is clamped already.
        'conv_clamp': None if is_skip else clamp,
      },
    )
    _check_conv(module, f'{where}.{name}')
  if 'fc' in block.part('_modules'):
    _check_dense(block.submodule('fc'), f'{where}.fc', activation='lrelu')
    _check_dense(block.submodule('out'), f'{where}.out')


def _check_mapping(
  mapping: Module, w_dim: int, label_dim: int, num_ws: int | None
) -> None:
  _check(mapping, 'mapping', {'w_dim': w_dim})
  _check_given(mapping.state, 'mapping', {'c_dim': label_dim, 'num_ws': num_ws})
  for name, module in mapping.part('_modules').items():
    if name == 'embed':
      _check_dense(module, f'mapping.{name}')
    else:
      _check_dense(
        module, f'mapping.{name}', lr_multiplier=0.01, activation='lrelu'
      )


def _check_dense(
  module: Module,
  where: str,
  lr_multiplier: float = 1.0,
  activation: str = 'linear',
) -> None:
  shape = _weight_shape(module, where, 2)
  _check(
    module,
    where,
    {
      'activation': activation,
      'weight_gain': lr_multiplier * _weight_gain(shape),
      'bias_gain': lr_multiplier,
    },
  )


def _check_conv(module: Module, where: str) -> None:
  """Checks the gains and the padding of a convolution, as far as it has any."""
  shape = _weight_shape(module, where, 4)
  is_linear = module.state.get('activation') == 'linear'
  _check_given(
    module.state,
    where,
    {
      'weight_gain': _weight_gain(shape),
      'act_gain': 1 if is_linear else 2**0.5,
      'padding': shape[-1] // 2,
    },
  )


def _weight_shape(module: Module, where: str, rank: int) -> tuple[int, ...]:
  # A frozen layer keeps its weight among the buffers.
  arrays = module.part('_buffers') | module.part('_parameters')
  weight = arrays.get('weight')
  if not isinstance(weight, Tensor) or len(weight.shape) != rank:
    raise CheckpointError(f'{quoted(where)} of the checkpoint has no weight')
  return weight.shape


def _weight_gain(shape: tuple[int, ...]) -> float:
  """Returns what scales N(0, 1) to keep the variance of what comes in."""
  return max(math.prod(shape[1:]), 1) ** -0.5


def _check(module: Module, where: str, expected: Mapping[str, Any]) -> None:
  """Compares attributes of a module with what its design gives."""
  _check_values(module.state, where, expected)


def _check_given(
  values: Mapping[str, Any], where: str, expected: Mapping[str, Any]
) -> None:
  """Compares those attributes or arguments that are there.

  Not all versions of the official code have them.
  """
  given = {name: wanted for name, wanted in expected.items() if name in values}
  _check_values(values, where, given)


def _check_values(
  values: Mapping[str, Any], where: str, expected: Mapping[str, Any]
) -> None:
  for name, wanted in expected.items():
    found = _plain(values.get(name))
    pairs = [(found, wanted)]
    if isinstance(wanted, list):
      listed = found if isinstance(found, list) else [found]
      pairs = list(itertools.zip_longest(listed, wanted))
    if not all(_equal(*pair) for pair in pairs):
      raise CheckpointError(
        f'{quoted(where)} of the checkpoint has {name} = {found}, where its '
        f'design gives {wanted}: it was made by other code than is known here'
      )


def _plain(value: Any) -> Any:
  """Returns a number, a text or a short list of numbers; else a description."""
  if type(value) is int and value.bit_length() > _MAX_BITS:
    return 'a huge number'
  if isinstance(value, NumpyArray) and value.numpy().size <= 8:
    value = value.numpy().ravel().tolist()
  if isinstance(value, list | tuple) and len(value) <= 8:
    return [_plain(item) if _is_scalar(item) else '...' for item in value]
  if _is_scalar(value):
    return value
  return quoted(value)


def _is_scalar(value: Any) -> bool:
  return value is None or isinstance(value, bool | int | float)


def _equal(found: Any, wanted: Any) -> bool:
  if isinstance(wanted, str) or wanted is None or isinstance(wanted, bool):
    return found == (ascii(wanted) if isinstance(wanted, str) else wanted)
  if type(found) not in (int, float):
    return False
  return math.isclose(found, wanted, rel_tol=_RELATIVE)


def _sizes(network: Module) -> dict[str, Any]:
  return {
    'resolution': _attribute(network, 'img_resolution', _MAX_RESOLUTION),
    'img_channels': _attribute(network, 'img_channels', 4),
    'label_dim': _attribute(network, 'c_dim', _MAX_FEATURES),
    'precision': 'fp32',
  }


def _official_sizes(model: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the sizes of images and labels by their official names."""
  return {
    'c_dim': model['label_dim'],
    'img_resolution': model['resolution'],
    'img_channels': model['img_channels'],
  }


def _arguments(module: Module) -> dict[str, Any]:
  """Returns what a module was made with, by name."""
  arguments = module.state.get('_init_kwargs')
  if not isinstance(arguments, dict):
    raise CheckpointError(
      f'the module {quoted(module.class_name)} does not say what it was made '
      'with'
    )
  return arguments


def _known_arguments(
  module: Module,
  table: _Table,
  others: frozenset[str],
  positional: tuple[str, ...] = (),
) -> dict[str, Any]:
  """Returns what a network was made with; refuses what is unknown.

  Args:
    module: The network.
    table: Arguments that it may have ...
    others: ... and others.
    positional: Names of those that may have been given without.
  """
  unnamed = module.state.get('_init_args', ())
  if type(unnamed) not in (tuple, list) or len(unnamed) > len(positional):
    raise CheckpointError(
      f'the module {quoted(module.class_name)} was made with arguments that '
      'have no names'
    )
  return _known(
    module.class_name,
    _arguments(module) | dict(zip(positional, unnamed, strict=False)),
    {name for name, *_ in table} | others,
  )


def _known(where: str, arguments: Any, known: Set[str]) -> dict[str, Any]:
  """Returns arguments; refuses unknown ones."""
  if not isinstance(arguments, dict):
    raise CheckpointError(f'{quoted(where)} of the checkpoint has no names')
  unknown = [name for name in arguments if name not in known]
  if unknown:
    raise CheckpointError(
      f'{quoted(where)} was made with {quoted(unknown[0])}, which this package '
      'does not know'
    )
  return arguments


def _numbers(arguments: Mapping[str, Any], table: _Table) -> dict[str, Any]:
  """Returns arguments by our names; the kind of a default is that of all."""
  return {
    ours: _number(name, arguments.get(name, default), most, type(default))
    for name, ours, default, most in table
  }


def _attribute(module: Module, name: str, most: int) -> int:
  return _number(name, module.state.get(name), most, int)


def _number(name: str, value: Any, most: float, kind: type) -> Any:
  """Returns a number between 0 and `most` of this kind."""
  if (
    type(value) not in (int, float)
    or not 0 <= value <= most
    or (kind is int and value != int(value))
  ):
    raise CheckpointError(
      f'the checkpoint has {name} = {_plain(value)}, which is no '
      f'{"whole number" if kind is int else "number"} from 0 to {most:g}'
    )
  return kind(value)


def _flag(name: str, value: Any) -> bool:
  if type(value) is not bool:
    raise CheckpointError(f'the checkpoint has {name} = {_plain(value)}')
  return value


def _clamp(value: Any) -> float | None:
  return None if value is None else _number('conv_clamp', value, 1e38, float)
