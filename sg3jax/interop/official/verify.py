"""Compares the attributes of the modules of a file with their design.

The geometry of every layer follows from our configuration. Sizes, rates,
cutoffs, paddings, gains and clamps of the layers in the file must agree with
it, so that no hyperparameter can be missed.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from sg3jax.interop.official import arrays as arrays_lib
from sg3jax.interop.official import values as values_lib
from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  Module,
  Tensor,
  quoted,
)
from sg3jax.nets import spec as spec_lib
from sg3jax.nets import stylegan2

# Float64 numbers in the file may differ in the order of a few operations.
_RELATIVE = 1e-9


def check_stylegan2(
  spec: stylegan2.StyleGAN2Spec, model: Mapping[str, Any], synthesis: Module
) -> None:
  """Checks the attributes of the blocks of a synthesis network."""
  clamp, channels = model['conv_clamp'], 0
  for side in spec.resolutions:
    block, where = synthesis.submodule(f'b{side}'), f'synthesis.b{side}'
    check(
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
      elif name == 'skip':  # Its input is already clamped, and it is linear.
        same |= {'conv_clamp': None, 'activation': 'linear', 'up': 2}
      else:
        same |= {
          'activation': 'lrelu',
          'up': 2 if name == 'conv0' else 1,
          'use_noise': spec.noise,
          'resolution': side,
        }
      check(module, f'{where}.{name}', same)
      _check_conv(module, f'{where}.{name}')
      if name != 'skip':
        _check_dense(module.submodule('affine'), f'{where}.{name}.affine')
    channels = spec.channels(side)


def check_stylegan3(
  spec: spec_lib.SynthesisSpec, model: Mapping[str, Any], synthesis: Module
) -> None:
  """Checks the attributes of the layers of a synthesis network."""
  first = spec.layers[0]
  check(
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
    check(module, name, _geometry(layer) | {'conv_clamp': model['conv_clamp']})
    _check_dense(module.submodule('affine'), f'{name}.affine')


def _geometry(layer: spec_lib.LayerSpec) -> dict[str, Any]:
  """Returns the attributes of an official layer with this geometry."""
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


def check_block(block: Module, where: str, clamp: float | None) -> None:
  """Checks the attributes of the layers of a discriminator's block."""
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
    check(
      module,
      f'{where}.{name}',
      {
        'activation': 'linear' if is_skip else 'lrelu',
        'up': 1,
        'down': 2 if name in ('conv1', 'skip') else 1,
        # A skip is linear, and its input is already clamped.
        'conv_clamp': None if is_skip else clamp,
      },
    )
    _check_conv(module, f'{where}.{name}')
  if 'fc' in block.part('_modules'):
    _check_dense(block.submodule('fc'), f'{where}.fc', activation='lrelu')
    _check_dense(block.submodule('out'), f'{where}.out')


def check_mapping(
  mapping: Module, w_dim: int, label_dim: int, num_ws: int | None
) -> None:
  """Checks the attributes of the layers of a mapping network."""
  check(mapping, 'mapping', {'w_dim': w_dim})
  check_given(mapping.state, 'mapping', {'c_dim': label_dim, 'num_ws': num_ws})
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
  check(
    module,
    where,
    {
      'activation': activation,
      'weight_gain': lr_multiplier * _weight_gain(shape),
      'bias_gain': lr_multiplier,
    },
  )


def _check_conv(module: Module, where: str) -> None:
  """Checks the gains and the padding of a convolution, if it has them."""
  shape = _weight_shape(module, where, 4)
  is_linear = module.state.get('activation') == 'linear'
  check_given(
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
  """Returns the factor of N(0, 1) weights that preserves the variance."""
  return max(math.prod(shape[1:]), 1) ** -0.5


def check(module: Module, where: str, expected: Mapping[str, Any]) -> None:
  """Compares attributes of a module with what its design implies."""
  _check_values(module.state, where, expected)


def check_given(
  values: Mapping[str, Any], where: str, expected: Mapping[str, Any]
) -> None:
  """Compares the attributes or arguments that exist.

  Some versions of the official code lack them.
  """
  given = {name: wanted for name, wanted in expected.items() if name in values}
  _check_values(values, where, given)


def _check_values(
  values: Mapping[str, Any], where: str, expected: Mapping[str, Any]
) -> None:
  for name, wanted in expected.items():
    found = values_lib.plain(values.get(name))
    pairs = [(found, wanted)]
    if isinstance(wanted, list):
      listed = found if isinstance(found, list) else [found]
      pairs = list(itertools.zip_longest(listed, wanted))
    if not all(_equal(*pair) for pair in pairs):
      raise CheckpointError(
        f'{quoted(where)} of the checkpoint has {name} = {found}, where its '
        f'design gives {wanted}: it was made by code that this package does '
        'not know'
      )


def _equal(found: Any, wanted: Any) -> bool:
  if isinstance(wanted, str) or wanted is None or isinstance(wanted, bool):
    return found == (ascii(wanted) if isinstance(wanted, str) else wanted)
  if type(found) not in (int, float):
    return False
  return math.isclose(found, wanted, rel_tol=_RELATIVE)
