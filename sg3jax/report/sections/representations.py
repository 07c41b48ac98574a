"""Feature maps under translation and rotation (paper Fig. 6)."""

import numpy as np

from sg3jax.eval import resampling
from sg3jax.eval.analysis import representations
from sg3jax.eval.plots import grids, panels
from sg3jax.nets import activations
from sg3jax.report import base
from sg3jax.report.subjects import Subject

_LAYERS = 4  # Number of layers that are shown.
_SHIFT, _DEGREES = 1 / 8, 30.0
_CELL = 128


@base.register(
  'representations',
  title='Internal representations',
  place=40,
  about=(
    'Feature maps of some layers, cut to the image. The colours are the first '
    'three principal components of the channels; they are the same in each '
    'row, so that equal colours mean equal features. In an equivariant network '
    'the colours move and turn with the image. Envelope flatness compares the '
    'amplitude A of a channel (Riesz transform) with itself: '
    'mean(A)² / mean(A²) is 1 for a wave whose phase encodes a position, about '
    '0.84 for noise, and low for a map of magnitudes, which is silent except '
    'for a few marks.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Shows maps of each model, and measures the flatness of envelopes."""
  findings = base.Findings()
  figures = []
  for subject in context.subjects:
    figure, rows = _show(subject, context.seed)
    figures.append(figure)
    findings.tables.append(
      base.Table(f'{subject.name}: flatness of envelopes by layer.', rows)
    )
    if not subject.takes_transforms:
      findings.notes.append(
        f'{subject.name}: its input is a learned constant, which takes no '
        'transforms, so there are no moved and rotated maps.'
      )
  findings.figures.append(figures)
  return findings


def _show(
  subject: Subject, seed: int
) -> tuple[base.Figure, list[dict[str, object]]]:
  ws = subject.seeds([seed])
  transforms: dict[str, np.ndarray | None] = {'original': None}
  if subject.takes_transforms:
    transforms |= {
      f'moved by {_SHIFT:g}': resampling.inverse_transform((_SHIFT, 0)),
      f'rotated by {_DEGREES:g}°': resampling.inverse_transform(
        rotate=_DEGREES
      ),
    }
  generator, variables = subject.model.generator, subject.model.variables
  infos = activations.layer_infos(generator.spec)
  places = np.linspace(len(infos) / 4, len(infos) - 1, _LAYERS)
  chosen = [infos[i] for i in sorted({round(place) for place in places})]
  maps = []
  for transform in transforms.values():
    found = activations.feature_maps(generator, variables, ws, transform)
    maps.append(
      {
        info.name: np.asarray(
          activations.crop_margins(found[info.name], info)[0]
        )
        for info in infos
      }
    )
  images = [
    subject.render(ws, transform)[0] for transform in transforms.values()
  ]
  rows = [[panels.fit(grids.to_rgb(image), _CELL) for image in images]]
  for info in chosen:
    colours = representations.fit_colours(maps[0][info.name])
    rows.append(
      [
        panels.fit(grids.to_rgb(colours(found[info.name])), _CELL)
        for found in maps
      ]
    )
  panel = panels.compose(
    rows,
    columns=list(transforms),
    labels=['image', *(info.name for info in chosen)],
  )
  figure = base.Figure(
    f'maps-{subject.name}',
    panels.to_png(panel),
    f'Seed {seed}. Each row has its own colours.',
    subject.name,
  )
  return figure, [_measure(info, maps[0][info.name]) for info in infos]


def _measure(info: activations.LayerInfo, features: np.ndarray) -> dict:
  values = representations.flatness(features)
  values = values[np.isfinite(values)]
  if not len(values):
    return {'layer': info.name, 'channels': info.channels}
  return {
    'layer': info.name,
    'channels': info.channels,
    'mean': float(values.mean()),
    'lowest': float(values.min()),
    'highest': float(values.max()),
  }
