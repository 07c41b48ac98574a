"""Plots the curves of a run: losses, scores and metrics against kimg."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from sg3jax import files
from sg3jax.eval.metrics import base
from sg3jax.eval.plots import figures, grids


@dataclasses.dataclass
class Line:
  """A curve of a panel.

  Attributes:
    label: Name of the curve in the legend.
    kimg: Thousands of real images shown when each value was measured.
    value: The values.
    std: Their standard deviations, if the panel shows them.
    place: Index among the lines of the panel.
  """

  label: str
  kimg: np.ndarray
  value: np.ndarray
  std: np.ndarray | None = None
  place: int = 0


@dataclasses.dataclass
class Panel:
  """One chart of a run.

  Attributes:
    title: Title of the chart.
    ylabel: Label of the vertical axis, with the unit.
    lines: The curves.
    log: Whether the vertical axis is logarithmic if all values are positive.
    markers: Whether points are marked, because they are few and precise.
    from_zero: Whether the vertical axis begins at 0 if all values are positive.
  """

  title: str
  ylabel: str
  lines: list[Line]
  log: bool = False
  markers: bool = False
  from_zero: bool = False


def plot_curves(stats_path: grids.Path, out_png: grids.Path) -> None:
  """Plots a run's losses, scores and R1 penalty, and metrics if measured.

  Args:
    stats_path: The run's `stats.jsonl`. The files `metric-*.jsonl` in the same
      folder add a panel for each metric, or for several that share one.
    out_png: The file to write; an existing one is replaced.

  Raises:
    FileNotFoundError: If `stats_path` does not exist.
    ValueError: If it contains no tick yet.
  """
  stats_path = pathlib.Path(stats_path)
  panels = read_panels(stats_path)
  if not panels:
    raise ValueError(f'{stats_path} has no tick yet: there is nothing to plot')
  figure, axes = figures.make_panels(
    len(panels), columns=2 if len(panels) in (2, 4) else 3, size=(4.4, 3.1)
  )
  for axis, panel in zip(axes, panels, strict=True):
    _plot(axis, panel)
  figures.save(figure, out_png)


def read_panels(stats_path: pathlib.Path) -> list[Panel]:
  """Returns the charts of a run, those of metrics last; see `plot_curves`."""
  return _stats_panels(stats_path) + _metric_panels(stats_path.parent)


def _stats_panels(path: pathlib.Path) -> list[Panel]:
  records = files.read_json_lines(path)
  ticks = [record for record in records if 'Progress/kimg' in record]

  def lines(*names: tuple[str, str], spread: bool = False) -> list[Line]:
    found = []
    for name, label in names:
      those = [tick for tick in ticks if name in tick]
      if those:
        kimg = [tick['Progress/kimg']['mean'] for tick in those]
        mean = [tick[name]['mean'] for tick in those]
        std = [tick[name]['std'] for tick in those]
        found.append(
          Line(
            label,
            np.array(kimg, np.float64),
            np.array(mean, np.float64),
            np.array(std, np.float64) if spread else None,
          )
        )
    return found

  panels = [
    Panel(
      'Losses',
      'loss (nats)',
      lines(('Loss/G/loss', 'generator'), ('Loss/D/loss', 'discriminator')),
    ),
    Panel(
      'Discriminator scores (band: ±1 standard deviation)',
      'logit',
      lines(
        ('Loss/scores/real', 'real'),
        ('Loss/scores/fake', 'generated'),
        spread=True,
      ),
    ),
    Panel(
      'R1 penalty',
      'squared gradient norm',
      lines(('Loss/r1_penalty', 'R1')),
      log=True,
    ),
  ]
  return [panel for panel in panels if panel.lines]


def _metric_panels(folder: pathlib.Path) -> list[Panel]:
  """Returns the panels of all metrics, with those of unknown metrics first."""
  panels: dict[tuple[bool, str], Panel] = {}
  order = list(base.registry())
  for path in sorted(folder.glob('metric-*.jsonl')):
    for name, points in read_values(path).items():
      kimg = np.array(sorted(points), np.float64)
      value = np.array([points[k] for k in sorted(points)], np.float64)
      metric = base.find_value(name)
      if metric:
        key, panel = (True, metric.panel), _metric_panel(metric)
        label, place = metric.label(name) or name, order.index(metric.name)
      else:
        file = path.stem[len('metric-') :]
        title = f'Metric {file}'
        panel = Panel(title, file, [], markers=True, from_zero=True)
        key, label, place = (False, file), name, 0
      line = Line(label, kimg, value, place=place)
      panels.setdefault(key, panel).lines.append(line)
  for panel in panels.values():
    panel.lines.sort(key=lambda line: line.place)
  return [panels[key] for key in sorted(panels)]


def _metric_panel(metric: base.Metric) -> Panel:
  direction = 'higher' if metric.higher_is_better else 'lower'
  return Panel(
    f'{metric.panel} ({direction} is better)',
    metric.unit,
    [],
    markers=True,
    # Zero is meaningful for distances, but not for decibels.
    from_zero=not metric.higher_is_better,
  )


def read_values(path: pathlib.Path) -> dict[str, dict[float, float | None]]:
  """Returns the values of a file of results by name, then by kimg."""
  measured: dict[str, dict[float, float | None]] = {}
  for line in files.read_json_lines(path):
    if line.get('kimg') is not None:
      for name, value in line.get('results', {}).items():
        # If a snapshot was measured twice, the last line counts.
        measured.setdefault(name, {})[line['kimg']] = value
  return measured


def _smooth(y: np.ndarray, window: int) -> np.ndarray:
  """Returns the centred moving average of the finite values."""
  box, finite = np.ones(window), np.isfinite(y)
  total = np.convolve(np.where(finite, y, 0), box, 'same')
  count = np.convolve(finite, box, 'same')
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _plot(axis: Any, panel: Panel) -> None:
  for line, colour in zip(panel.lines, figures.COLOURS * 4, strict=False):
    style = {'color': colour, 'label': line.label, 'linewidth': 1.6}
    value = line.value
    if panel.markers or len(value) == 1:
      style |= {'marker': 'o', 'markersize': 4}
    elif len(value) >= 60:
      # The ticks of a long run are noisy: show them behind their trend.
      axis.plot(line.kimg, value, color=colour, alpha=0.25, linewidth=0.8)
      value = _smooth(value, 2 * (len(value) // 40) + 1)
    if line.std is not None:
      low, high = line.value - line.std, line.value + line.std
      axis.fill_between(
        line.kimg, low, high, color=colour, alpha=0.12, linewidth=0
      )
    axis.plot(line.kimg, value, **style)
  axis.set_title(panel.title, fontsize=10, loc='left')
  axis.set_xlabel('real images shown (thousands, kimg)', fontsize=9)
  axis.set_ylabel(panel.ylabel, fontsize=9)
  figures.style_axis(axis)
  values = np.concatenate([line.value for line in panel.lines])
  positive = bool(np.all(values[np.isfinite(values)] > 0))
  if panel.log and positive:
    axis.set_yscale('log')
  elif panel.from_zero and positive:
    axis.set_ylim(bottom=0)
  if len(panel.lines) > 1:
    axis.legend(fontsize=8, frameon=False)
