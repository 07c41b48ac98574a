"""Plots of the design of an alias-free network (paper Fig. 4).

Three plots follow from the design alone: the band of each layer, the
attenuation of its downsampling filter, and the responses of these filters.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sg3jax.eval.plots import figures, grids
from sg3jax.nets import layer_tables
from sg3jax.nets import spec as spec_lib
from sg3jax.ops import filters

_FLOOR_DB = -100.0  # Lower values are black, or outside the plot.


def plot_design(
  spec: spec_lib.SynthesisSpec, folder: grids.Path
) -> list[pathlib.Path]:
  """Plots a design, and returns the files.

  Args:
    spec: The design.
    folder: The folder for `layers.png`; for `filters.png` if the design has
      downsampling filters with taps, which ideal filters lack; and for
      `radial_filters.png` if it has radially symmetric filters. Existing files
      are replaced.
  """
  plots = {'layers.png': _plot_layers}
  if any(layer.down_taps > 1 for layer in spec.layers):
    plots['filters.png'] = _plot_filters
  if any(layer.radial_down_filter for layer in spec.layers):
    plots['radial_filters.png'] = _plot_radial_filters
  paths = []
  for name, plot in plots.items():
    path = pathlib.Path(folder) / name
    figures.save(plot(spec), path)
    paths.append(path)
  return paths


def _plot_layers(spec: spec_lib.SynthesisSpec) -> Any:
  """Plots Fig. 4c and, below it, the attenuations of the same layers."""
  figure = figures.make_figure(8.2, 7.4)
  bands, attenuations = figure.subplots(
    2, 1, sharex=True, height_ratios=(1.6, 1)
  )
  layers = [layer for layer in spec.layers if not layer.is_torgb]
  _plot_bands(bands, spec, layers)
  _plot_attenuations(attenuations, layers)
  attenuations.set_xticks(range(len(layers)), [x.name for x in layers])
  attenuations.set_xlabel('layer', fontsize=9)
  return figure


def _plot_bands(
  axis: Any,
  spec: spec_lib.SynthesisSpec,
  layers: Sequence[spec_lib.LayerSpec],
) -> None:
  x = np.arange(len(layers))
  cutoff = np.array([layer.out_cutoff for layer in layers])
  edge = cutoff + [layer.out_half_width for layer in layers]
  rate = np.array([layer.out_sampling_rate for layer in layers])
  blue, red, green, purple, *_ = figures.COLOURS
  axis.fill_between(x, cutoff, edge, color='0.93', linewidth=0, zorder=0)
  axis.step(x, rate, where='mid', color='0.35', label='sampling rate $s$')
  axis.step(
    x, rate / 2, where='mid', color='0.35', linestyle=':', label='$s/2$'
  )
  for y, colour, marker, label in (
    (edge, purple, 'v', r'end of the transition band $f_c + f_h$'),
    (spec.stopbands[: len(x)], red, 's', 'minimum stopband $f_t$'),
    (cutoff, blue, 'o', 'cutoff $f_c$'),
  ):
    axis.plot(x, y, color=colour, marker=marker, markersize=4, label=label)
  critical = [layer.index for layer in layers if layer.is_critical]
  if critical:
    axis.axvspan(
      min(critical) - 0.5,
      max(critical) + 0.5,
      color=green,
      alpha=0.1,
      linewidth=0,
      label='critically sampled',
    )
  axis.set_yscale('log', base=2)
  axis.yaxis.set_major_formatter('{x:g}')
  axis.set_title(
    f'Bands of the layers, {spec.resolution} pixels', fontsize=10, loc='left'
  )
  axis.set_ylabel('cycles or samples per canvas side', fontsize=9)
  figures.style_axis(axis)
  axis.legend(fontsize=8, frameon=False)


def _plot_attenuations(axis: Any, layers: Sequence[spec_lib.LayerSpec]) -> None:
  blue, _, green, *_ = figures.COLOURS
  values = [layer_tables.down_attenuation(layer) for layer in layers]
  heights = [math.nan if value is None else value for value in values]
  colours = [green if layer.is_critical else blue for layer in layers]
  axis.bar(range(len(layers)), heights, color=colours, width=0.7)
  for i, (layer, value) in enumerate(zip(layers, values, strict=True)):
    has_filter = layer.down_taps > 1 or layer.is_ideal
    unknown = layer.filter if has_filter else 'no filter'
    axis.annotate(
      unknown if value is None else f'{value:.1f}',
      (i, value or 0),
      xytext=(0, 2),
      textcoords='offset points',
      ha='center',
      fontsize=8,
    )
  axis.set_title(
    "Attenuation of the downsampling filters, by Kaiser's formula (green: "
    'critically sampled)',
    fontsize=10,
    loc='left',
  )
  axis.set_ylabel('dB', fontsize=9)
  figures.style_axis(axis)
  axis.margins(y=0.15)


def _plot_filters(spec: spec_lib.SynthesisSpec) -> Any:
  """Plots each layer's response relative to its Nyquist, as in Fig. 4a."""
  layers = [layer for layer in spec.layers if layer.down_taps > 1]
  figure, axes = figures.make_panels(
    len(layers), columns=4, size=(3.0, 2.3), margin=(0.0, 0.7), sharey=True
  )
  for axis, layer in zip(axes, layers, strict=True):
    _plot_response(axis, layer)
  figure.suptitle(
    'Downsampling filters up to half their rate. Dashed: cutoff $f_c$ and end '
    'of the transition band $f_c + f_h$; shaded: what aliases',
    fontsize=10,
  )
  figure.supxlabel('cycles per canvas side', fontsize=9)
  figure.supylabel('gain (dB)', fontsize=9)
  return figure


def _plot_response(axis: Any, layer: spec_lib.LayerSpec) -> None:
  blue, red, *_ = figures.COLOURS
  taps = layer.down_filter()
  assert taps is not None
  rate = layer.tmp_sampling_rate
  frequencies = np.linspace(0, rate / 2, 513)
  if taps.ndim == 2:  # Take the response along a row of the image.
    taps = taps.sum(axis=0)
  gain = filters.frequency_response(taps, frequencies, sampling_rate=rate)
  axis.axvspan(
    layer.out_sampling_rate / 2, rate / 2, color='0.94', linewidth=0, zorder=0
  )
  axis.plot(frequencies, _decibels(gain), color=blue, linewidth=1.2)
  for frequency in (layer.out_cutoff, layer.out_cutoff + layer.out_half_width):
    axis.axvline(frequency, color=red, linestyle='--', linewidth=0.9)
  axis.set_ylim(_FLOOR_DB, 5)
  axis.set_xlim(0, rate / 2)
  kind = 'radial, ' if layer.radial_down_filter else ''
  title = f'{layer.name}: {kind}{layer.down_taps} taps'
  attenuation = layer_tables.down_attenuation(layer)
  if attenuation is not None:
    title += f', {attenuation:.1f} dB'
  axis.set_title(title, fontsize=9, loc='left')
  figures.style_axis(axis)


def _plot_radial_filters(spec: spec_lib.SynthesisSpec) -> Any:
  """Plots responses over the plane; circular ones make rotations exact."""
  layers = [layer for layer in spec.layers if layer.radial_down_filter]
  figure, axes = figures.make_panels(
    len(layers), columns=4, size=(2.6, 2.7), margin=(0.6, 0.5)
  )
  image = None
  for axis, layer in zip(axes, layers, strict=True):
    taps = layer.down_filter()
    assert taps is not None
    rate = layer.tmp_sampling_rate
    frequencies = np.linspace(-rate / 2, rate / 2, 257)
    gain = filters.frequency_response(taps, frequencies, sampling_rate=rate)
    image = axis.imshow(
      _decibels(gain),
      extent=(-rate / 2, rate / 2) * 2,
      origin='lower',
      cmap='magma',
      vmin=_FLOOR_DB,
      vmax=0,
    )
    axis.add_patch(_circle(layer.out_cutoff))
    axis.set_title(layer.name, fontsize=9, loc='left')
    axis.tick_params(labelsize=7)
  figure.colorbar(image, ax=axes, label='gain (dB)', shrink=0.6)
  figure.suptitle(
    'Radial downsampling filters over the plane, cycles per canvas side '
    '(circle: $f_c$)',
    fontsize=10,
  )
  return figure


def _circle(radius: float) -> Any:
  from matplotlib.patches import Circle

  return Circle((0, 0), radius, fill=False, color='white', linewidth=0.8)


def _decibels(gain: np.ndarray) -> np.ndarray:
  return 20 * np.log10(np.maximum(np.abs(gain), 10 ** (_FLOOR_DB / 20)))
