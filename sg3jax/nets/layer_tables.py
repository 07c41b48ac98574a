"""Readable tables of a design, layer by layer.

Rows are dicts of column names to values; `None` means that a column does not
apply to a layer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.nets import stylegan2
from sg3jax.nets.abstract import count
from sg3jax.ops import filters

Row = dict[str, Any]


def down_attenuation(layer: spec_lib.LayerSpec) -> float | None:
  """Returns the attenuation of the downsampling filter by Kaiser's formula, dB.

  It is None for layers without a filter or with another design. By this
  formula, the paper measures how much aliasing a layer lets through (section
  3.2). The response of the filter itself may differ by several dB.
  """
  if layer.down_taps == 1 or layer.filter != 'kaiser':
    return None
  return filters.kaiser_attenuation(
    layer.down_taps,
    half_width=layer.out_half_width,
    sampling_rate=layer.tmp_sampling_rate,
  )


def worst_attenuations(
  spec: generator_lib.Spec,
) -> tuple[float | None, float | None]:
  """Returns the least attenuation of all layers and of the non-critical ones.

  Values are in dB, or None if no layer has a filter, as in StyleGAN2's designs.
  """
  if isinstance(spec, stylegan2.StyleGAN2Spec):
    return None, None
  of_layers = [(down_attenuation(layer), layer) for layer in spec.layers]
  every = [value for value, _ in of_layers if value is not None]
  lowered = [
    value
    for value, layer in of_layers
    if value is not None and not layer.is_critical
  ]
  return min(every, default=None), min(lowered, default=None)


def largest_layer(spec: generator_lib.Spec) -> int:
  """Returns the most samples of one image that a layer holds at a time.

  The samples of a layer are those of its input, of the output of its
  convolution, of the signal at the rate of the nonlinearity, and of its output.
  """
  if isinstance(spec, stylegan2.StyleGAN2Spec):
    # The output of the convolution, its border, the blurred result and the
    # activated result.
    return max(4 * size**2 * spec.channels(size) for size in spec.resolutions)
  return max(
    layer.in_size**2 * layer.in_channels * layer.group
    + layer.out_channels
    * layer.group
    * (
      layer.padded_size**2
      + (layer.up_factor * layer.padded_size) ** 2
      + layer.out_size**2
    )
    for layer in spec.layers
  )


def layer_rows(
  spec: generator_lib.Spec, params: Mapping[str, Any]
) -> list[Row]:
  """Returns the table of a generator's design.

  The table of an alias-free design has a row for the input and for each layer,
  with frequencies in cycles and rates in samples per side of the canvas. That
  of StyleGAN2 has a row for each block.

  Args:
    spec: The design.
    params: The parameters of the synthesis network, or their shapes.
  """
  if isinstance(spec, stylegan2.StyleGAN2Spec):
    return _block_rows(spec, params)
  rows: list[Row] = [
    {
      'layer': 'input',
      'f_c': spec.layers[0].in_cutoff,
      's': spec.layers[0].in_sampling_rate,
      'size': spec.input_size,
      'channels': spec.layers[0].in_channels,
      'parameters': count(params['input']),
    }
  ]
  for layer in spec.layers:
    row: Row = {'layer': 'ToRGB' if layer.is_torgb else layer.name}
    if not layer.is_torgb:
      row |= _filter_cells(spec, layer)
    row |= {
      's': layer.out_sampling_rate,
      'size': layer.out_size,
      'channels': layer.out_channels,
      'kernel': layer.conv_kernel,
      'parameters': count(params[layer.name]),
    }
    rows.append(row)
  return _with_columns(rows, _LAYER_COLUMNS)


# Columns in the order of the table.
_LAYER_COLUMNS = (
  'layer', 'f_c', 'f_t', 'f_h', 's', "s'", 'size', 'channels', 'kernel', 'up',
  'down', 'taps up', 'taps down', 'critical', 'radial', 'A (dB)', 'parameters',
)  # fmt: skip


def _filter_cells(
  spec: spec_lib.SynthesisSpec, layer: spec_lib.LayerSpec
) -> Row:
  return {
    'f_c': layer.out_cutoff,
    'f_t': float(spec.stopbands[layer.index]),
    'f_h': layer.out_half_width,
    "s'": layer.tmp_sampling_rate,
    'up': layer.up_factor,
    'down': layer.down_factor,
    'taps up': layer.up_taps,
    'taps down': layer.down_taps,
    'critical': 'yes' if layer.is_critical else None,
    'radial': 'yes' if layer.radial_down_filter else None,
    'A (dB)': down_attenuation(layer),
  }


def _block_rows(
  spec: stylegan2.StyleGAN2Spec, params: Mapping[str, Any]
) -> list[Row]:
  rows: list[Row] = []
  if spec.input == 'fourier':
    size = spec.resolutions[0]
    rows.append(
      {
        'block': 'input',
        'size': size,
        'channels': spec.channels(size),
        'parameters': count(params['input']),
      }
    )
  for size in spec.resolutions:
    block = params[f'b{size}']
    rows.append(
      {
        'block': f'b{size}',
        'size': size,
        'channels': spec.channels(size),
        'convolutions': sum(name.startswith('conv') for name in block),
        'up': 1 if size == spec.resolutions[0] else 2,
        'noise': 'yes' if spec.noise else None,
        'ToRGB': 'yes' if 'torgb' in block else None,
        'skip': 'yes' if 'skip' in block else None,
        'parameters': count(block),
      }
    )
  columns = (
    'block', 'size', 'channels', 'convolutions', 'up', 'noise', 'ToRGB',
    'skip', 'parameters',
  )  # fmt: skip
  return _with_columns(rows, columns)


def _with_columns(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
  """Orders the columns and removes those without values."""
  used = [
    name for name in columns if any(row.get(name) is not None for row in rows)
  ]
  return [{name: row.get(name) for name in used} for row in rows]
