"""Plots where in a network equivariance is lost."""

import math
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from sg3jax.eval import results
from sg3jax.eval.plots import figures, grids

_LABELS = {
  'eqt': 'EQ-T, integer pixels',
  'eqt_frac': 'EQ-T, subpixel',
  'eqr': 'EQ-R',
}


def plot_layers(source: grids.Path, path: grids.Path) -> None:
  """Plots the last line of a `metric-eq_layers.jsonl` by layer.

  Bars around the values are their 95 % intervals.

  Args:
    source: The file of results, or its folder.
    path: The PNG file; an existing one is replaced.

  Raises:
    ValueError: If the file has no complete line.
    OSError: If a file cannot be read or written.
  """
  source = pathlib.Path(source)
  if source.is_dir():
    source = source / 'metric-eq_layers.jsonl'
  line = results.last_line(source)
  if line is None:
    raise ValueError(
      f'{source} must have a line of results: run sg3jax evaluate '
      '--metrics=eq_layers'
    )
  values, ci95 = line['results'], line.get('ci95', {})
  layers = [
    match[1]
    for name in values
    if (match := re.fullmatch(r'eqt_(input|L\d+)', name))
  ]
  figure = figures.make_figure(1.6 + 0.5 * len(layers), 3.8)
  axis = figure.subplots()
  for (kind, label), colour in zip(
    _LABELS.items(), figures.COLOURS, strict=False
  ):
    names = [f'{kind}_{layer}' for layer in layers]
    axis.errorbar(
      range(len(layers)),
      _numbers(values, names),
      np.nan_to_num(_numbers(ci95, names)),
      label=label,
      color=colour,
      marker='o',
      markersize=4,
      linewidth=1.4,
      capsize=2,
    )
  axis.set_xticks(range(len(layers)), layers)
  axis.set_xlabel('feature map', fontsize=9)
  axis.set_ylabel('signal-to-noise ratio (dB)', fontsize=9)
  axis.set_title(
    'Equivariance of the layers (higher is better)', fontsize=10, loc='left'
  )
  figures.style_axis(axis)
  axis.legend(fontsize=8, frameon=False)
  figures.save(figure, path)


def _numbers(
  values: Mapping[str, float | None], names: list[str]
) -> np.ndarray:
  """Returns values by name, NaN where there is none."""
  found = [values.get(name) for name in names]
  return np.array([math.nan if x is None else x for x in found], np.float64)
