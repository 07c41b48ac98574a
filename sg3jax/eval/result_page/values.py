"""Puts the metrics of a run into words for its result page."""

import dataclasses
import pathlib

from sg3jax import text
from sg3jax.eval.metrics import base
from sg3jax.eval.plots import curves

# These clauses put common metrics into words, by the metric's name.
WORDS = {
  'swd': 'how far colours and textures are from those of the real images',
  'rfd': 'how far the generated images are from the real ones, in features of '
  'an untrained network',
  'rprecision': 'the share of generated images that resemble real ones',
  'rrecall': 'the share of real images that generated ones resemble',
  'spectral': 'how far the spectrum is from that of the real images',
  'fid50k_full': 'how far the generated images are from the real ones, in '
  'features of Inception',
  'kid50k_full': 'how far the generated images are from the real ones, in '
  'features of Inception',
  'eqt': 'how exactly the image follows when the input moves by whole pixels',
  'eqt_frac': 'how exactly it follows when the input moves by parts of a pixel',
  'eqr': 'how exactly it follows when the input turns; only R is made for this',
}


@dataclasses.dataclass(frozen=True)
class Value:
  """The newest value of a metric.

  Attributes:
    title: Name of the metric.
    value: The value with its unit.
    before: The value before training; empty if it was not measured.
    words: Its meaning in words, and which direction is better.
  """

  title: str
  value: str
  before: str
  words: str


def read(run: pathlib.Path) -> list[Value]:
  """Returns the main values of all metrics that a run has measured.

  Values of metrics that are not registered have no words.

  Raises:
    OSError: If a file cannot be read.
  """
  order = list(base.registry())
  rows = []
  for path in sorted(run.glob('metric-*.jsonl')):
    for name, points in curves.read_values(path).items():
      metric = base.find_value(name)
      if metric is not None and name != metric.result:
        continue
      newest = max(points)
      place = order.index(metric.name) if metric else len(order)
      row = Value(
        metric.title if metric else name,
        _shown(points[newest], metric),
        _shown(points[0.0], metric) if newest and 0.0 in points else '',
        _in_words(metric) if metric else '',
      )
      rows.append((place, row))
  return [row for _, row in sorted(rows, key=lambda item: item[0])]


def _shown(value: float | None, metric: base.Metric | None) -> str:
  if value is None:
    return 'not finite'
  unit = ' dB' if metric and 'dB' in metric.unit else ''
  return f'{text.cell(float(value))}{unit}'


def _in_words(metric: base.Metric) -> str:
  direction = 'higher' if metric.higher_is_better else 'lower'
  words = WORDS.get(metric.name)
  return (
    f'{words}; {direction} is better' if words else f'{direction} is better'
  )
