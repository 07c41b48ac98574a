"""The nearest real images of generated ones."""

import numpy as np

from sg3jax.eval.analysis import neighbours
from sg3jax.eval.plots import grids, panels
from sg3jax.report import base
from sg3jax.report.subjects import Subject

_SHOWN = 6  # Generated images that are shown.
_NEIGHBOURS = 4
_MEASURED = 256  # Generated images, and reals, whose distances are compared.
_CELL = 96


@base.register(
  'memorisation',
  title='Nearest real images',
  place=80,
  about=(
    'Generated images, and the real images that are nearest to them. A model '
    'that has learned a distribution generates images that differ from all of '
    'them; a model that has memorised repeats them. The ratio compares the '
    'distances from generated images to their nearest reals with those from '
    'reals to their nearest other reals.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Searches the real images for neighbours of each model's images."""
  findings = base.Findings()
  reals = context.reals
  if reals is None:
    findings.notes.append(
      'Real images were not given: pass --data to search them.'
    )
    return findings
  searched = min(context.searched, len(reals))
  if searched < _NEIGHBOURS + 1:
    findings.notes.append(
      f'There are {searched} real images to search, too few for {_NEIGHBOURS} '
      'neighbours each.'
    )
    return findings
  features = np.concatenate(
    [context.features.apply(batch) for batch in reals.batches(searched)]
  )
  # The reals are in random order: the first ones are a random choice.
  between = neighbours.find_nearest(
    features[:_MEASURED], features, 1, skip_same=True
  ).distances[:, 0]
  figures, rows = [], []
  for subject in context.subjects:
    figure, row = _search(subject, context, features, between)
    figures.append(figure)
    rows.append(row)
  findings.tables.append(
    base.Table(
      f'Features: {context.features.title}. Median distances over {_MEASURED} '
      f'generated images and {len(between)} reals; {searched} of {len(reals)} '
      'real images were searched. A ratio far below 1 means memorisation.',
      rows,
    )
  )
  findings.figures.append(figures)
  return findings


def _search(
  subject: Subject,
  context: base.Context,
  features: np.ndarray,
  between: np.ndarray,
) -> tuple[base.Figure, dict[str, object]]:
  reals = context.reals
  assert reals is not None
  shown, found = [], []
  for batch in subject.batches(context.seed, _MEASURED):
    shown += list(batch[: max(0, _SHOWN - len(shown))])
    found.append(context.features.apply(batch))
  nearest = neighbours.find_nearest(
    np.concatenate(found), features, _NEIGHBOURS
  )
  rows = [
    [
      panels.fit(grids.to_rgb(image), _CELL)
      for image in (generated, *(reals.image(int(i)) for i in indices))
    ]
    for generated, indices in zip(shown, nearest.indices, strict=False)
  ]
  panel = panels.compose(
    rows,
    columns=('generated', 'nearest', *[''] * (_NEIGHBOURS - 1)),
    labels=[str(context.seed + i) for i in range(len(rows))],
  )
  figure = base.Figure(
    f'nearest-{subject.name}',
    panels.to_png(panel),
    'Rows: seeds. Right: the nearest real images, nearest first.',
    subject.name,
  )
  distances = nearest.distances[:, 0]
  row = {
    'model': subject.name,
    'generated to real': float(np.median(distances)),
    'real to real': float(np.median(between)),
    'ratio': neighbours.novelty(distances, between),
    'smallest distance': float(distances.min()),
  }
  return figure, row
