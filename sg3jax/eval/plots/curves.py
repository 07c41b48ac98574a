"""The curves of a run in one figure: losses, scores, metrics against kimg."""

import dataclasses
import io
import math
import pathlib
import re

import numpy as np

from sg3jax import files
from sg3jax.eval import results
from sg3jax.eval.plots import grids

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')


@dataclasses.dataclass
class _Line:
  label: str
  kimg: np.ndarray
  value: np.ndarray
  std: np.ndarray | None = None


@dataclasses.dataclass
class _Panel:
  title: str
  ylabel: str
  lines: list[_Line]
  log: bool = False
  markers: bool = False  # Few points, each of which was measured with care.
  from_zero: bool = False


def plot_curves(stats_path: grids.Path, out_png: grids.Path) -> None:
  """Draws a run's curves: losses, scores, R1 penalty, and metrics if measured.

  Args:
    stats_path: the run's `stats.jsonl`. The files `metric-*.jsonl` beside it
      add panels: one for the equivariance figures, one for each other metric.
    out_png: the figure to write; a file of that name is replaced.

  Raises:
    FileNotFoundError: there is no such `stats.jsonl`.
    ValueError: it has no tick yet.
  """
  # matplotlib takes long to import, and only this function draws with it. A
  # Figure of its own leaves pyplot's state and the display alone.
  from matplotlib.figure import Figure

  stats_path = pathlib.Path(stats_path)
  panels = _stats_panels(stats_path) + _metric_panels(stats_path.parent)
  if not panels:
    raise ValueError(f'{stats_path} has no tick yet: there is nothing to draw.')
  columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
  rows = math.ceil(len(panels) / columns)
  figure = Figure(figsize=(4.4 * columns, 3.1 * rows), layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).flat
  for axis, panel in zip(axes, panels, strict=False):
    _draw(axis, panel)
  for axis in axes[len(panels) :]:
    axis.remove()
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=110)
  files.write_bytes(out_png, buffer.getvalue())


def style_axis(axis) -> None:
  """Gives an axis the look of all figures: light grid, small labels."""
  axis.tick_params(which='both', labelsize=8)
  axis.grid(color='0.9', linewidth=0.7)
  axis.set_axisbelow(True)
  axis.spines[['top', 'right']].set_visible(False)
  axis.margins(x=0.02)


def _stats_panels(path: pathlib.Path) -> list[_Panel]:
  ticks = [tick for tick in results.read_lines(path) if 'Progress/kimg' in tick]

  def lines(*names: tuple[str, str], spread: bool = False) -> list[_Line]:
    found = []
    for name, label in names:
      those = [tick for tick in ticks if name in tick]
      if those:
        kimg = [tick['Progress/kimg']['mean'] for tick in those]
        mean = [tick[name]['mean'] for tick in those]
        std = [tick[name]['std'] for tick in those]
        found.append(
          _Line(
            label,
            np.array(kimg, np.float64),
            np.array(mean, np.float64),
            np.array(std, np.float64) if spread else None,
          )
        )
    return found

  panels = [
    _Panel(
      'Losses',
      'loss (nats)',
      lines(('Loss/G/loss', 'generator'), ('Loss/D/loss', 'discriminator')),
    ),
    _Panel(
      'Discriminator scores (band: ±1 standard deviation)',
      'logit',
      lines(
        ('Loss/scores/real', 'real'),
        ('Loss/scores/fake', 'generated'),
        spread=True,
      ),
    ),
    _Panel(
      'R1 penalty',
      'squared gradient norm',
      lines(('Loss/r1_penalty', 'R1')),
      log=True,
    ),
  ]
  return [panel for panel in panels if panel.lines]


def _metric_panels(folder: pathlib.Path) -> list[_Panel]:
  equivariance = _Panel(
    'Equivariance (higher is better)', 'PSNR (dB)', [], markers=True
  )
  panels = []
  for path in sorted(folder.glob('metric-*.jsonl')):
    # The last line counts where a snapshot was measured twice.
    measured: dict[str, dict[float, float]] = {}
    for line in results.read_lines(path):
      if line.get('kimg') is not None:
        for name, value in line.get('results', {}).items():
          measured.setdefault(name, {})[line['kimg']] = value
    panel = _Panel('', '', [], markers=True, from_zero=True)
    for name, points in measured.items():
      kimg = np.array(sorted(points), np.float64)
      value = np.array([points[k] for k in sorted(points)], np.float64)
      label = _equivariance_label(name)
      target = equivariance if label else panel
      target.lines.append(_Line(label or _result_label(name), kimg, value))
    if panel.lines:
      panel.title, panel.ylabel = _metric_title(path.stem[len('metric-') :])
      panels.append(panel)
  # Translation comes first, as in the paper's tables.
  equivariance.lines.sort(key=lambda line: ('-R' in line.label, line.label))
  return panels + ([equivariance] if equivariance.lines else [])


def _equivariance_label(name: str) -> str | None:
  """Returns EQ-T for `eqt50k_int`, and so on; None for other metrics."""
  match = re.match(r'eq-?([tr])', name.lower())
  if match is None:
    return None
  fractional = ' (subpixel)' if 'frac' in name.lower() else ''
  return f'EQ-{match[1].upper()}{fractional}'


def _result_label(name: str) -> str:
  """Returns what a legend calls a result: the levels of the distance, say."""
  if name == 'swd':
    return 'mean'
  match = re.fullmatch(r'swd_(\d+)', name)
  return f'level of {match[1]} pixels' if match else name


def _metric_title(name: str) -> tuple[str, str]:
  """Returns a metric panel's title and the label of its y axis."""
  if name == 'swd':
    return (
      'Distance to real images (lower is better)',
      '1000 x sliced Wasserstein distance',
    )
  return f'Metric {name}', name


def _smooth(y: np.ndarray, window: int) -> np.ndarray:
  """Returns the centred running mean of the finite values."""
  box, finite = np.ones(window), np.isfinite(y)
  total = np.convolve(np.where(finite, y, 0), box, 'same')
  count = np.convolve(finite, box, 'same')
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw(axis, panel: _Panel) -> None:
  for line, colour in zip(panel.lines, COLOURS * 4, strict=False):
    style = {'color': colour, 'label': line.label, 'linewidth': 1.6}
    value = line.value
    if panel.markers or len(value) == 1:
      style |= {'marker': 'o', 'markersize': 4}
    elif len(value) >= 60:
      # A long run's ticks are noisy: they stay visible behind their trend.
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
  style_axis(axis)
  values = np.concatenate([line.value for line in panel.lines])
  positive = bool(np.all(values[np.isfinite(values)] > 0))
  if panel.log and positive:
    axis.set_yscale('log')
  elif panel.from_zero and positive:
    axis.set_ylim(bottom=0)
  if len(panel.lines) > 1:
    axis.legend(fontsize=8, frameon=False)
