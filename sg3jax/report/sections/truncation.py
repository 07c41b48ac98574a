"""Images of the same seeds with increasing truncation psi."""

from sg3jax.eval.plots import grids, panels
from sg3jax.report import base
from sg3jax.report.subjects import Subject

_PSIS = (0.0, 0.25, 0.5, 0.7, 1.0, 1.25)
_SEEDS = 4
_CELL = 80


@base.register(
  'truncation',
  title='Truncation',
  place=70,
  about=(
    'Images of a seed in each row, whose style is w_avg + psi (w - w_avg): psi '
    '0 is the mean image, 1 is no truncation. Between them variety grows and '
    'quality usually falls; changes should be gradual.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Shows the sweep of each model."""
  figures = [_show(subject, context.seed) for subject in context.subjects]
  return base.Findings(figures=[figures])


def _show(subject: Subject, seed: int) -> base.Figure:
  seeds = range(seed, seed + _SEEDS)
  columns = [subject.render(subject.seeds(seeds, psi)) for psi in _PSIS]
  rows = [
    [panels.fit(grids.to_rgb(column[i]), _CELL) for column in columns]
    for i in range(_SEEDS)
  ]
  panel = panels.compose(
    rows,
    columns=[f'{psi:g}' for psi in _PSIS],
    labels=[str(seed) for seed in seeds],
  )
  return base.Figure(
    f'sweep-{subject.name}',
    panels.to_png(panel),
    f'Columns: psi. Rows: seeds {seeds[0]} to {seeds[-1]}.',
    subject.name,
  )
