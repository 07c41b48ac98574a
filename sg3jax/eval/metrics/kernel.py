"""Kernel distances between the features of real and generated images.

KID (Bińkowski et al. 2018, arXiv 1801.01401) averages an unbiased estimate over
random subsets, so it suits small data sets better than FID. CMMD (Jayasumana et
al. 2024, arXiv 2401.09603) uses a Gaussian kernel and CLIP.
"""

import functools

from sg3jax.eval import intervals
from sg3jax.eval.feature_sets import ALL, SOME, Wanted
from sg3jax.eval.metrics import base, formulas

_MOST_REALS = 1_000_000
_SUBSETS, _SIZE = 100, 1000
_METHOD = 'variance over random subsets of both sets'
_CMMD = Wanted('clip', reals=ALL, real_rows=_MOST_REALS)


def _measure(
  name: str, wanted: Wanted, context: base.Context
) -> base.Measurement:
  reals, fakes = context.features(wanted)
  count = min(len(reals.first), fakes.count)
  # Half of the images, so that subsets reveal the variance.
  size = min(_SIZE, max(count // 2, 2))
  distances = formulas.subset_distances(
    reals.first,
    fakes.first,
    subsets=_SUBSETS,
    size=size,
    seed=context.seed,
  )
  return base.Measurement(
    {name: float(distances.mean())},
    fakes.count,
    {name: intervals.of_subsets(distances, size, count)},
    {
      'ci95_method': _METHOD,
      'subsets': _SUBSETS,
      'subset_size': size,
      **context.describe_features(wanted),
    },
  )


_register = functools.partial(
  base.register, higher_is_better=False, needs=(base.REALS,)
)

for _name, _title, _network, _reals in (
  ('rkd', 'Kernel distance, random features', 'random', SOME),
  ('kid50k_full', 'KID', 'inception', ALL),
  ('kid50k', 'KID (50k reals)', 'inception', SOME),
):
  _wanted = Wanted(_network, reals=_reals, real_rows=_MOST_REALS)
  _register(
    _name,
    title=_title,
    unit='squared MMD',
    features=_wanted,
    panel='KID' if _name.startswith('kid') else None,
    min_images=2,
  )(functools.partial(_measure, _name, _wanted))


@_register(
  'cmmd',
  title='CMMD',
  unit='1000 x squared MMD',
  features=_CMMD,
)
def measure_cmmd(context: base.Context) -> base.Measurement:
  """Compares CLIP features with a Gaussian kernel."""
  reals, fakes = context.features(_CMMD)
  value = formulas.gaussian_mmd(reals.first, fakes.first)
  return base.Measurement(
    {'cmmd': value}, fakes.count, about=context.describe_features(_CMMD)
  )
