"""The models of the report: design, training, metrics."""

import datetime
from collections.abc import Mapping
from typing import Any

from sg3jax import files, launch, text
from sg3jax.eval.metrics import base as metrics
from sg3jax.eval.plots import grids, panels
from sg3jax.nets import abstract
from sg3jax.report import base
from sg3jax.report.subjects import Subject

_EXAMPLES = (8, 2)  # Columns and rows of generated images.
_CELL = 64  # Width of an image, in pixels.


@base.register(
  'models',
  title='Models and metrics',
  place=10,
  about=(
    'The models, and the metrics that were measured for them before, from the '
    'files metric-NAME.jsonl of their folders. Each value is the newest one of '
    'this checkpoint; if there is none, the newest one of the folder, with its '
    'kimg. Intervals are 95 % confidence intervals. The pictures are not '
    'selected: they show successive seeds without truncation.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Lists the models and their metrics, and shows images of each."""
  facts = {s.name: _describe(s) for s in context.subjects}
  values = {s.name: _read_metrics(s) for s in context.subjects}
  findings = base.Findings(
    tables=[
      base.Table('Design and training.', _transpose(facts)),
      base.Table('Metrics.', _transpose(values)),
    ],
    figures=[[_show(s, context.seed) for s in context.subjects]],
  )
  for name, metric_values in values.items():
    if not metric_values:
      findings.notes.append(
        f'{name}: there are no metric files in its folder: measure some with '
        'sg3jax evaluate.'
      )
  if not any(values.values()):
    findings.tables.pop()
  return findings


def _transpose(
  columns: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """Returns rows with one property each, and a column for each model."""
  names = dict.fromkeys(name for column in columns.values() for name in column)
  return [
    {'': name} | {model: column.get(name) for model, column in columns.items()}
    for name in names
  ]


def _describe(subject: Subject) -> dict[str, Any]:
  model = subject.model
  spec = model.generator.spec
  height, width, channels = spec.image_shape
  facts: dict[str, Any] = {
    'path': str(subject.path),
    'design': 'StyleGAN2' if subject.is_stylegan2 else _alias_free(spec),
    'images': f'{width}x{height}, {_CHANNELS[channels]}',
    'layers': spec.num_layers,
    'training': f'{model.kimg:g} kimg' if model.kimg else 'kimg unknown',
    'precision': model.precision,
    'parameters of G': abstract.count(model.variables['params']),
  }
  discriminator = model.discriminator_variables
  if discriminator is not None:
    facts['parameters of D'] = abstract.count(discriminator['params'])
  if model.label_dim:
    facts['classes'] = model.label_dim
    assert subject.label is not None
    facts['label of the images'] = _label_name(subject)
  return facts


_CHANNELS = {1: 'grey', 3: 'RGB', 4: 'RGBA'}


def _alias_free(spec: Any) -> str:
  # R differs from T by 1x1 convolutions and radial filters.
  layers = [layer for layer in spec.layers if not layer.is_torgb]
  kernel = layers[0].conv_kernel
  radial = any(layer.radial_down_filter for layer in layers)
  return (
    f'alias-free, {kernel}x{kernel} convolutions, '
    f'{"radial" if radial else "separable"} filters'
  )


def _label_name(subject: Subject) -> str:
  label = subject.label
  assert label is not None
  index = int(label.argmax())
  if sorted(label)[-1] != 1 or label.sum() != 1:
    return ', '.join(f'{x:g}' for x in label)
  names = subject.model.class_names
  return f'{index} ({names[index]})' if names else str(index)


def _read_metrics(subject: Subject) -> dict[str, str]:
  """Returns a cell for each value that the model's folder has."""
  cells = {}
  folder = launch.run_folder(subject.path)
  for path in sorted(folder.glob('metric-*.jsonl')):
    lines = [
      line for line in files.read_json_lines(path) if isinstance(line, dict)
    ]
    if not lines:
      continue
    same = [x for x in lines if x.get('kimg') == subject.model.kimg]
    line = (same or lines)[-1]
    for name, value in (line.get('results') or {}).items():
      metric = metrics.find_value(name)
      title = _title(name, metric)
      cells[title] = _cell(name, value, line, metric, bool(same))
  return cells


def _title(name: str, metric: metrics.Metric | None) -> str:
  label = metric.label(name) if metric else None
  if metric is None or label is None:
    return name
  if 'dB' in metric.unit or not metric.unit:
    return label
  if metric.title.lower() in metric.unit.lower():
    return f'{metric.unit}, {label}'
  return f'{metric.title}, {label} ({metric.unit})'


def _cell(
  name: str,
  value: float | None,
  line: Mapping[str, Any],
  metric: metrics.Metric | None,
  is_same: bool,
) -> str:
  shown = 'not finite' if value is None else text.cell(value)
  interval = (line.get('ci95') or {}).get(name)
  if interval is not None:
    shown += f' ± {interval:.2g}'
  if metric and value is not None and 'dB' in metric.unit:
    shown += ' dB'
  about = []
  if line.get('num_samples') is not None:
    about.append(f'{line["num_samples"]} images')
  if not is_same and line.get('kimg') is not None:
    about.append(f'at {line["kimg"]:g} kimg')
  if line.get('timestamp') is not None:
    date = datetime.datetime.fromtimestamp(line['timestamp'], datetime.UTC)
    about.append(f'{date:%Y-%m-%d}')
  return f'{shown} ({", ".join(about)})' if about else shown


def _show(subject: Subject, seed: int) -> base.Figure:
  columns, rows = _EXAMPLES
  count = columns * rows
  images = subject.render(subject.seeds(range(seed, seed + count)))
  cells = [panels.fit(grids.to_rgb(image), _CELL) for image in images]
  panel = panels.compose(
    [cells[i : i + columns] for i in range(0, count, columns)]
  )
  return base.Figure(
    f'images-{subject.name}',
    panels.to_png(panel),
    f'Seeds {seed} to {seed + count - 1}, psi 1.',
    subject.name,
  )
