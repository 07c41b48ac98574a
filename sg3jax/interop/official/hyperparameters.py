"""Derives designs of official networks from their modules' attributes.

The hyperparameters are a module's arguments, or the published defaults of those
that were not given. They determine our configuration, from which the geometry
of every layer follows. The attributes of each layer in the file must agree with
it, so that no hyperparameter can be missed.
"""

from collections.abc import Mapping
from typing import Any

from sg3jax.interop.official import values, verify
from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  quoted,
)
from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import factory, stylegan2
from sg3jax.nets import spec as spec_lib

_CHANNELS: values.Table = (
  ('channel_base', 'channel_base', 32768, 1 << 24),
  ('channel_max', 'channel_max', 512, 1 << 14),
)
_SYNTHESIS: values.Table = (
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

# Arguments that are read elsewhere, or only matter in training.
_OTHER_ARGUMENTS = frozenset(
  [
    'w_dim', 'img_resolution', 'img_channels', 'use_radial_filters',
    'output_scale', 'conv_clamp', 'num_fp16_res', 'magnitude_ema_beta',
  ]
)  # fmt: skip

# Arguments of a discriminator's parts.
_DISCRIMINATOR_PARTS = {
  'block_kwargs': frozenset(['freeze_layers', 'fp16_channels_last']),
  'mapping_kwargs': frozenset(['num_layers', 'w_avg_beta']),
  'epilogue_kwargs': frozenset(['mbstd_group_size', 'mbstd_num_channels']),
}
# Its arguments that may be positional.
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


def generator_model(generator: Module) -> dict[str, Any]:
  """Returns the `model` part of our configuration, without a discriminator.

  Args:
    generator: The official module.

  Raises:
    CheckpointError: If this package cannot generate with it. The message states
      the reason.
  """
  synthesis = generator.submodule('synthesis')
  mapping = generator.submodule('mapping')
  model = {
    **_sizes(generator),
    'z_dim': values.attribute(generator, 'z_dim', _MAX_FEATURES),
    'w_dim': values.attribute(generator, 'w_dim', _MAX_FEATURES),
    'mapping_layers': values.attribute(mapping, 'num_layers', _MAX_LAYERS),
    'filtered_lrelu_implementation': None,
  }
  if 'input' in synthesis.part('_modules'):
    model |= _stylegan3_model(model, synthesis)
  elif 'b4' in synthesis.part('_modules'):
    model |= _stylegan2_model(model, synthesis)
  else:
    raise CheckpointError(
      'the generator must be one of StyleGAN3 or StyleGAN2, got a synthesis '
      f'network that begins with {_first_part(synthesis)}'
    )
  num_ws = synthesis_spec(model).num_ws
  same = _official_sizes(model) | {'w_dim': model['w_dim'], 'num_ws': num_ws}
  verify.check_given(generator.state, 'generator', {'num_ws': num_ws})
  verify.check_given(synthesis.state, 'synthesis', same)
  verify.check_given(values.arguments(synthesis), 'synthesis', same)
  verify.check_given(mapping.state, 'mapping', {'z_dim': model['z_dim']})
  verify.check_mapping(mapping, model['w_dim'], model['label_dim'], num_ws)
  return model


def _first_part(module: Module) -> str:
  return quoted(next(iter(module.part('_modules')), 'nothing'))


def _stylegan3_model(
  model: Mapping[str, Any], synthesis: Module
) -> dict[str, Any]:
  arguments = values.known_arguments(synthesis, _SYNTHESIS, _OTHER_ARGUMENTS)
  design = values.numbers(arguments, _SYNTHESIS)
  design['radial_filters'] = values.flag(
    'use_radial_filters', arguments.get('use_radial_filters', False)
  )
  # Use the factor of the network itself; its argument is compared with it.
  scale = arguments.get('output_scale', 0.25)
  scale = synthesis.state.get('output_scale', scale)
  model = {
    **model,
    'generator': 'stylegan3',
    'conv_clamp': values.clamp(arguments.get('conv_clamp', 256)),
    'output_scale': values.number('output_scale', scale, 1e6, float),
    'synthesis': design,
  }
  spec = synthesis_spec(model)
  assert isinstance(spec, spec_lib.SynthesisSpec)
  verify.check_stylegan3(spec, model, synthesis)
  verify.check_given(
    arguments, 'synthesis', {'output_scale': model['output_scale']}
  )
  same = ('num_layers', 'num_critical')
  verify.check_given(
    synthesis.state,
    'synthesis',
    {name: design[name] for name in same} | {'margin_size': design['margin']},
  )
  return model


def _stylegan2_model(
  model: Mapping[str, Any], synthesis: Module
) -> dict[str, Any]:
  arguments = values.known_arguments(synthesis, _CHANNELS, _STYLEGAN2_ARGUMENTS)
  first = synthesis.submodule('b4').submodule('conv1')
  design = values.numbers(arguments, _CHANNELS) | {
    'architecture': _architecture(arguments.get('architecture', 'skip')),
    'noise': values.flag('use_noise', first.state.get('use_noise')),
  }
  model = {
    **model,
    'generator': 'stylegan2',
    'conv_clamp': values.clamp(first.state.get('conv_clamp')),
    'stylegan2': design,
  }
  spec = synthesis_spec(model)
  assert isinstance(spec, stylegan2.StyleGAN2Spec)
  verify.check_stylegan2(spec, model, synthesis)
  same = {'conv_clamp': model['conv_clamp'], 'use_noise': design['noise']}
  verify.check_given(arguments, 'synthesis', same)
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


def discriminator_model(discriminator: Module) -> dict[str, Any]:
  """Returns the `model` part of our configuration, as far as D determines it.

  Args:
    discriminator: The official module.

  Raises:
    CheckpointError: If its architecture differs from `nets.discriminator`.
  """
  arguments = values.known_arguments(
    discriminator, _CHANNELS, _DISCRIMINATOR_ARGUMENTS, _POSITIONAL
  )
  parts = {
    name: values.known(name, arguments.get(name, {}), known)
    for name, known in _DISCRIMINATOR_PARTS.items()
  }
  model = _sizes(discriminator)
  try:
    sides = discriminator_lib.block_resolutions(model['resolution'])
  except ValueError as error:
    raise CheckpointError(str(error)) from error
  blocks = [discriminator.submodule(f'b{side}') for side in sides]
  first, epilogue = blocks[0], blocks[-1]
  clamp = values.clamp(first.submodule('conv0').state.get('conv_clamp'))
  for side, block in zip(sides, blocks, strict=True):
    verify.check_block(block, f'b{side}', clamp)
  mbstd = epilogue.submodule('mbstd')
  verify.check(mbstd, 'mbstd', {'num_channels': 1})
  model['discriminator'] = values.numbers(arguments, _CHANNELS) | {
    'mbstd_group': values.attribute(mbstd, 'group_size', 1 << 20),
    'conv_clamp': clamp,
  }
  if model['label_dim']:
    mapping = discriminator.submodule('mapping')
    layers = values.attribute(mapping, 'num_layers', _MAX_LAYERS)
    model['discriminator']['mapping_layers'] = layers
    w_dim = values.attribute(mapping, 'w_dim', _MAX_FEATURES)
    verify.check_mapping(mapping, w_dim, model['label_dim'], None)
    verify.check_given(
      parts['mapping_kwargs'], 'mapping', {'num_layers': layers}
    )
  verify.check_given(
    arguments,
    'discriminator',
    _official_sizes(model) | {'architecture': 'resnet', 'conv_clamp': clamp},
  )
  verify.check_given(
    parts['epilogue_kwargs'],
    'discriminator',
    {
      'mbstd_group_size': model['discriminator']['mbstd_group'],
      'mbstd_num_channels': 1,
    },
  )
  return model


def _sizes(network: Module) -> dict[str, Any]:
  return {
    'resolution': values.attribute(network, 'img_resolution', _MAX_RESOLUTION),
    'img_channels': values.attribute(network, 'img_channels', 4),
    'label_dim': values.attribute(network, 'c_dim', _MAX_FEATURES),
    'precision': 'fp32',
  }


def _official_sizes(model: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the sizes of images and labels by their official names."""
  return {
    'c_dim': model['label_dim'],
    'img_resolution': model['resolution'],
    'img_channels': model['img_channels'],
  }
