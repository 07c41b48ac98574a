"""Maps of equivariance errors."""

import numpy as np

from sg3jax.eval.analysis import equivariance_maps
from sg3jax.eval.plots import grids, panels
from sg3jax.report import base
from sg3jax.report.subjects import Subject

_EXAMPLES = 2
_MEASURED = 16  # Images whose PSNR is reported.
_LOW_DB, _HIGH_DB = -60, 0
_DEGREES = 45.0
_CELL = 128


@base.register(
  'equivariance',
  title='Equivariance errors',
  place=50,
  about=(
    'The input of the generator is moved or rotated, the transform is undone '
    'in the image, and the result is compared with the original, with the '
    'operators of the metrics EQ-T, EQ-T_frac and EQ-R. Errors are relative to '
    'the range of the image, in dB: black is an exact match, white an error as '
    'large as the range, grey lies outside of the frame. PSNR values here are '
    'of one transform and few images; sg3jax evaluate measures the metrics.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Shows the errors of each model that takes transforms."""
  findings = base.Findings()
  figures, rows = [], []
  for subject in context.subjects:
    if not subject.takes_transforms:
      findings.notes.append(
        f'{subject.name}: its input is a learned constant, which takes no '
        'transforms, so its equivariance is undefined.'
      )
      continue
    figure, row = _show(subject, context.seed)
    figures.append(figure)
    rows.append(row)
  if rows:
    findings.tables.append(
      base.Table(f'PSNR in dB over {_MEASURED} images; higher is better.', rows)
    )
    findings.figures.append(figures)
  return findings


def _show(subject: Subject, seed: int) -> tuple[base.Figure, dict[str, object]]:
  width = subject.model.resolution
  shift = max(1, round(width / 8))
  moves = (
    equivariance_maps.translation(width, shift),
    equivariance_maps.translation(width, shift + 0.5),
    equivariance_maps.rotation(_DEGREES),
  )
  ws = subject.seeds(range(seed, seed + _MEASURED))
  original = subject.render(ws)
  row: dict[str, object] = {'model': subject.name}
  cells = [[_cell(grids.to_rgb(original[i]))] for i in range(_EXAMPLES)]
  titles = ['original']
  for move in moves:
    moved = subject.render(ws, move.inverse)
    comparison = equivariance_maps.compare(move, original, moved)
    row[move.title] = round(comparison.psnr, 2)
    titles += [move.title, 'error']
    for i in range(_EXAMPLES):
      error = comparison.error_db[i]
      cells[i] += [
        _cell(grids.to_rgb(moved[i])),
        _cell(panels.colour_map(error, _LOW_DB, _HIGH_DB)),
      ]
  # One transform in each row of the panel fits narrow screens.
  rows, labels = [], []
  for m, move in enumerate(moves):
    for i in range(_EXAMPLES):
      rows.append([cells[i][0], *cells[i][1 + 2 * m : 3 + 2 * m]])
      labels.append(move.title)
  blank = np.full((1, 1, 3), 255, np.uint8)
  scale = panels.colour_scale(_LOW_DB, _HIGH_DB, 'dB', width=_CELL)
  rows.append([blank, blank, scale])
  panel = panels.compose(
    rows, columns=('original', 'transformed', 'error'), labels=[*labels, '']
  )
  return (
    base.Figure(
      f'errors-{subject.name}',
      panels.to_png(panel),
      f'Seeds {seed} and {seed + 1}.',
      subject.name,
    ),
    row,
  )


def _cell(image: np.ndarray) -> np.ndarray:
  return panels.fit(image, _CELL)
