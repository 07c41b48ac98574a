"""Precision, recall, density and coverage in features.

Precision and density measure how realistic images are; recall and coverage
measure how much of the real images' variety they reach.
"""

import functools
from collections.abc import Sequence

from sg3jax.eval import intervals
from sg3jax.eval.feature_sets import ALL, SOME, Wanted
from sg3jax.eval.metrics import base, formulas

_MOST_REALS = 200_000
_METHOD = {
  'precision': 'Wilson over generated images, given the real ones',
  'recall': 'Wilson over real images, given the generated ones',
  'density': 'mean over generated images, given the real ones',
  'coverage': 'Wilson over real images, given the generated ones',
}
_PR_NEIGHBOURS, _DC_NEIGHBOURS = 3, 5


def _wanted(network: str, reals: str) -> Wanted:
  return Wanted(network, reals=reals, real_rows=_MOST_REALS)


def _manifolds(
  wanted: Wanted, k: int, context: base.Context
) -> formulas.Manifolds:
  reals, fakes = context.features(wanted)
  return formulas.manifolds(reals.first, fakes.first, k)


def _random_pr(context: base.Context) -> formulas.Manifolds:
  return _manifolds(_wanted('random', SOME), _PR_NEIGHBOURS, context)


def _random_dc(context: base.Context) -> formulas.Manifolds:
  return _manifolds(_wanted('random', SOME), _DC_NEIGHBOURS, context)


def _half_width(found: formulas.Manifolds, kind: str) -> float:
  if kind == 'density':
    return intervals.of_mean(found.fakes_in_reals / found.k)
  over = found.fakes_in_reals if kind == 'precision' else found.reals_in_fakes
  return intervals.of_fraction(getattr(found, kind), len(over))


def _measurement(
  found: formulas.Manifolds,
  names: dict[str, str],
  wanted: Wanted,
  context: base.Context,
) -> base.Measurement:
  """Returns the values of several kinds under their names."""
  return base.Measurement(
    {name: getattr(found, kind) for name, kind in names.items()},
    len(found.fakes_in_reals),
    {name: _half_width(found, kind) for name, kind in names.items()},
    {
      'ci95_method': {name: _METHOD[kind] for name, kind in names.items()},
      'neighbours': found.k,
      'compared_reals': len(found.reals_in_fakes),
      **context.describe_features(wanted),
    },
  )


def _measure_random(kind: str, context: base.Context) -> base.Measurement:
  """Measures one of the four kinds; those with equal k share the work."""
  is_pr = kind in ('precision', 'recall')
  found = context.shared(_random_pr if is_pr else _random_dc)
  return _measurement(
    found, {f'r{kind}': kind}, _wanted('random', SOME), context
  )


def _measure_pr(
  name: str, wanted: Wanted, context: base.Context
) -> base.Measurement:
  """Measures precision and recall under the names of result files."""
  found = _manifolds(wanted, _PR_NEIGHBOURS, context)
  names = {f'{name}_{kind}': kind for kind in ('precision', 'recall')}
  return _measurement(found, names, wanted, context)


def _register_random(kinds: Sequence[str], k: int) -> None:
  for kind in kinds:
    base.register(
      f'r{kind}',
      title=f'{kind.capitalize()}, random features',
      unit='',
      higher_is_better=True,
      needs=(base.REALS,),
      features=_wanted('random', SOME),
      panel='Fidelity and variety, random features',
      min_images=k + 1,
    )(functools.partial(_measure_random, kind))


_register_random(('precision', 'recall'), _PR_NEIGHBOURS)
_register_random(('density', 'coverage'), _DC_NEIGHBOURS)

for _name, _title, _network, _reals in (
  # Published values use VGG-16.
  ('pr50k3_full', 'Precision', 'vgg16_fc2', ALL),
  ('pr50k3', 'Precision (50k reals)', 'vgg16_fc2', SOME),
  ('pr50k3_inception', 'Precision, Inception', 'inception', ALL),
):
  base.register(
    _name,
    title=_title,
    unit='',
    higher_is_better=True,
    needs=(base.REALS,),
    result=f'{_name}_precision',
    file=_name,
    features=_wanted(_network, _reals),
    panel='Precision and recall',
    labels={
      f'{_name}_precision': _title,
      f'{_name}_recall': _title.replace('Precision', 'Recall'),
    },
    min_images=_PR_NEIGHBOURS + 1,
  )(functools.partial(_measure_pr, _name, _wanted(_network, _reals)))
