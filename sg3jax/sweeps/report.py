"""Writes the table and the plots of a sweep."""

import csv
import io
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sg3jax import files
from sg3jax import text as text_lib
from sg3jax.eval.metrics import base
from sg3jax.eval.plots import figures, grids
from sg3jax.sweeps import analysis, store

Row = Mapping[str, Any]

# Columns about a point or the machine, which are not plotted.
_ABOUT = ('point', 'status', 'seconds', 'sec_per_kimg', 'error')
_MOST_LABELS = 8  # Maximum number of lines in a legend.
_MOST_TICKS = 16  # Maximum number of tick labels of a panel.
_MOST_LETTERS = 40  # Letters of horizontal tick labels that fit a panel.

# Titles of values that are not metrics.
_TITLES = {
  'g_parameters': 'Parameters of G',
  'd_parameters': 'Parameters of D',
  'attenuation_db': 'Least attenuation (dB)',
  'noncritical_db': 'Least attenuation, non-critical layers (dB)',
  'forward_gflop': 'GFLOP per image',
  'forward_mib': 'MiB for generating four images',
}


def write(
  rows: Sequence[Row], fields: Sequence[str], folder: store.Store
) -> list[pathlib.Path]:
  """Writes the results of a sweep as tables and plots.

  Writes `table.csv`, `table.json` and `table.md`; `seeds.md`, with the mean and
  the spread over each point's seeds, if there are several; and `plot-FIELD.png`
  for each field that varies among the points that are done. Replaces older
  files.

  Args:
    rows: See `driver.Driver.rows`.
    fields: Columns of the fields that vary; `seed` is plotted as a spread.
    folder: The folder to write to.

  Returns:
    The files.
  """
  names = _in_order(rows)
  texts = {
    'table.csv': _csv(rows, names),
    'table.json': json.dumps(
      [{name: row.get(name) for name in names} for row in rows], indent=2
    )
    + '\n',
    'table.md': text_lib.markdown(rows, names) + '\n',
  }
  done = [row for row in rows if row['status'] == 'done']
  over_seeds = average(done, fields)
  if len(over_seeds) < len(done):
    texts['seeds.md'] = text_lib.markdown(over_seeds) + '\n'
  paths = []
  for name, text in texts.items():
    paths.append(folder.folder / name)
    files.write_text(paths[-1], text)
  axes = [name for name in fields if name != 'seed']
  for axis in axes:
    if len({_key(row[axis]) for row in done}) > 1:
      path = folder.folder / f'plot-{axis}.png'
      if plot(done, axis, axes, path):
        paths.append(path)
  return paths


def average(rows: Sequence[Row], fields: Sequence[str]) -> list[dict[str, Any]]:
  """Returns a row for each point, averaged over seeds: mean ± spread.

  The spread is the sample standard deviation, normalised by n - 1.

  Args:
    rows: Points that are done.
    fields: Columns of the fields that vary.
  """
  groups: dict[str, list[Row]] = {}
  for row in rows:
    name = re.sub(r'(^|--)seed=\d+(?=--|$)', '', row['point']).strip('-')
    groups.setdefault(name or 'base', []).append(row)
  values = _plottable(rows, [name for name in fields if name != 'seed'])
  return [
    {'point': name, 'seeds': len(members)}
    | {value: _mean(members, value) for value in values}
    for name, members in groups.items()
  ]


def _mean(rows: Sequence[Row], value: str) -> str | None:
  values = [row[value] for row in rows if row.get(value) is not None]
  if not values:
    return None
  mean = text_lib.cell(float(np.mean(values)))
  if len(set(values)) == 1:
    return mean
  return f'{mean} ± {np.std(values, ddof=1):.2g}'


def _in_order(rows: Sequence[Row]) -> list[str]:
  """Returns the columns, with seconds and errors last and only if not empty."""
  names = [n for n in text_lib.columns(rows) if n not in ('seconds', 'error')]
  return names + [
    name
    for name in ('seconds', 'error')
    if any(row.get(name) is not None for row in rows)
  ]


def _csv(rows: Sequence[Row], names: Sequence[str]) -> str:
  buffer = io.StringIO()
  table = csv.DictWriter(buffer, names, restval='', lineterminator='\n')
  table.writeheader()
  for row in rows:
    table.writerow({name: row.get(name) for name in names})
  return buffer.getvalue()


def plot(
  rows: Sequence[Row], axis: str, axes: Sequence[str], path: grids.Path
) -> bool:
  """Plots every value against one field.

  Lines join points that agree in all other fields. With several seeds, the line
  is their mean, and the band extends from their minimum to their maximum.

  Args:
    rows: Points that are done.
    axis: The field.
    axes: All fields that vary, except for the seed.
    path: The PNG file, which is replaced if it exists.

  Returns:
    Whether there was anything to plot.
  """
  names = _plottable(rows, axes)
  if not names:
    return False
  groups = _groups(rows, axis, axes)
  figure, panels = figures.make_panels(
    len(names), columns=3, size=(4.0, 2.9), margin=(0.0, 0.4)
  )
  positions, labels = _positions(rows, axis)
  for panel, name in zip(panels, names, strict=True):
    for i, (label, members) in enumerate(groups.items()):
      colour = figures.COLOURS[i % len(figures.COLOURS)]
      _plot_group(panel, members, axis, name, positions, label, colour)
    title, unit = _title(name)
    panel.set_title(title, fontsize=10, loc='left')
    panel.set_xlabel(axis, fontsize=9)
    panel.set_ylabel(unit, fontsize=9)
    figures.style_axis(panel)
    panel.margins(x=0.06, y=0.1)
    if len(positions) <= _MOST_TICKS:
      panel.set_xticks(list(positions.values()), labels)
      if sum(map(len, labels)) > _MOST_LETTERS:
        panel.tick_params(axis='x', labelrotation=90)
  handles, captions = figure.axes[0].get_legend_handles_labels()
  if 1 < len(groups) <= _MOST_LABELS:
    figure.legend(
      handles, captions, loc='outside lower center', fontsize=8, frameon=False,
      ncols=min(3, len(groups)),
    )  # fmt: skip
  figures.save(figure, path)
  return True


def _title(name: str) -> tuple[str, str]:
  """Returns the title of a value's panel and the label of its y axis."""
  metric = analysis.metric_of(name)
  if metric:
    return f'{metric.title} at initialisation', metric.unit
  metric = base.find_value(name)
  if metric is None:
    return _TITLES.get(name, name), ''
  if name == metric.result:
    return metric.title, metric.unit
  return f'{metric.title}: {metric.label(name)}', metric.unit


def _plottable(rows: Sequence[Row], axes: Sequence[str]) -> list[str]:
  """Returns the columns to plot: numeric values that differ between rows."""
  names = []
  for name in text_lib.columns(rows):
    values = [row.get(name) for row in rows]
    numbers = [v for v in values if isinstance(v, int | float)]
    is_about = name in (*_ABOUT, *axes, 'seed') or name.endswith('_ci95')
    if not is_about and len(set(numbers)) > 1:
      names.append(name)
  return names


def _key(value: Any) -> str:
  return json.dumps(value)


def _groups(
  rows: Sequence[Row], axis: str, axes: Sequence[str]
) -> dict[str, list[Row]]:
  """Returns groups of points to join, by a label of their common values."""
  others = [
    name
    for name in axes
    if name != axis and len({_key(row[name]) for row in rows}) > 1
  ]
  groups: dict[str, list[Row]] = {}
  for row in rows:
    label = ', '.join(f'{name} = {text_lib.cell(row[name])}' for name in others)
    groups.setdefault(label, []).append(row)
  lines = {
    label: members
    for label, members in groups.items()
    if len({_key(row[axis]) for row in members}) > 1
  }
  # Beside lines, omit single points, which vary another field.
  return lines or groups


def _positions(
  rows: Sequence[Row], axis: str
) -> tuple[dict[str, float], list[str]]:
  """Returns the position of each value on the axis, and the labels."""
  values = {_key(row[axis]): row[axis] for row in rows}
  if all(
    isinstance(v, int | float) and not isinstance(v, bool)
    for v in values.values()
  ):
    places = {key: float(value) for key, value in values.items()}
  else:  # Text is placed at equal distances.
    places = {key: float(i) for i, key in enumerate(values)}
  labels = [text_lib.cell(value) for value in values.values()]
  return places, _own_parts(labels) if axis == 'config' else labels


def _own_parts(configs: Sequence[str]) -> list[str]:
  """Returns names of configurations without their common prefix and suffix.

  For example, `ladder:B,batch=8` and `ladder:C,batch=8` become B and C.
  """
  parts = [re.split('[:,]', config) for config in configs]
  for end in (0, -1):
    while all(len(p) > 1 and p[end] == parts[0][end] for p in parts):
      for p in parts:
        p.pop(end)
  return [','.join(p) for p in parts]


def _plot_group(
  panel: Any,
  rows: Sequence[Row],
  axis: str,
  name: str,
  positions: Mapping[str, float],
  label: str,
  colour: str,
) -> None:
  by_x: dict[float, list[float]] = {}
  for row in rows:
    value = row.get(name)
    if isinstance(value, int | float):
      by_x.setdefault(positions[_key(row[axis])], []).append(float(value))
  x = np.array(sorted(by_x))
  mean = np.array([np.mean(by_x[i]) for i in x])
  if any(len(values) > 1 for values in by_x.values()):
    panel.fill_between(
      x,
      [min(by_x[i]) for i in x],
      [max(by_x[i]) for i in x],
      color=colour,
      alpha=0.18,
      linewidth=0,
    )
  panel.plot(
    x, mean, color=colour, marker='o', markersize=4, linewidth=1.4, label=label
  )
