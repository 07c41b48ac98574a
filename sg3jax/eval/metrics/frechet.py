"""Fréchet distances between the features of real and generated images.

Heusel et al. 2017 (arXiv 1706.08500) compare the means and the covariances of
Inception features (FID). The distance of finite sets is larger than that of the
distributions, by an amount that shrinks with the number of images: compare
values only at one number.
"""

import functools

import numpy as np

from sg3jax.eval import feature_sets, intervals
from sg3jax.eval.feature_sets import ALL, SOME, Wanted
from sg3jax.eval.metrics import base, formulas

_METHOD = 'delta method over generated images, given the real ones'
_EVERY = 2**62  # Rows of all images.


def _measure(
  name: str, wanted: Wanted, context: base.Context
) -> base.Measurement:
  reals, fakes = context.features(wanted)
  distance = formulas.Frechet(reals.moments, fakes.moments)
  return base.Measurement(
    {name: distance.value},
    fakes.count,
    {name: _ci95(distance, fakes)},
    {'ci95_method': _METHOD, **context.describe_features(wanted)},
  )


def _ci95(distance: formulas.Frechet, fakes: feature_sets.FeatureSet) -> float:
  influence = distance.influence(fakes.first)
  return float(intervals.Z95 * np.std(influence) / np.sqrt(fakes.count))


def _measure_classes(
  name: str, wanted: Wanted, context: base.Context
) -> base.Measurement:
  """Measures the distance of each class; the value is the mean over them."""
  reals, fakes = context.features(wanted)
  if not context.source.labels().has_classes:
    raise ValueError(
      f'the metric {name} compares classes, but the labels are vectors'
    )
  fake_labels = context.fake_labels()
  if fake_labels is None:
    raise ValueError(
      f'the metric {name} compares classes, but the images to measure have no '
      'labels: use a conditional network'
    )
  real_classes = context.real_labels(wanted.reals).argmax(1)
  fake_classes = fake_labels.argmax(1)
  values = {}
  for i in np.unique(real_classes).tolist():
    own, other = reals.first[real_classes == i], fakes.first[fake_classes == i]
    if min(len(own), len(other)) < 2:
      raise ValueError(
        f'the metric {name} needs two real and two generated images of each '
        f'class, got {len(own)} and {len(other)} of class {i}: use more samples'
      )
    values[f'{name}_{i}'] = formulas.frechet(
      formulas.moments(own), formulas.moments(other)
    )
  mean = float(np.mean(list(values.values())))
  return base.Measurement(
    values | {name: mean},
    fakes.count,
    about={
      'classes': len(values),
      **context.describe_features(wanted),
    },
  )


_register = functools.partial(
  base.register,
  unit='Fréchet distance',
  higher_is_better=False,
  min_images=2,
)

for _name, _title, _wanted in (
  ('rfd', 'Fréchet distance, random features', Wanted('random')),
  ('fid50k_full', 'FID', Wanted('inception', reals=ALL)),
  ('fid50k', 'FID (50k reals)', Wanted('inception')),
  ('fd_dinov2', 'Fréchet distance, DINOv2', Wanted('dinov2', reals=ALL)),
):
  _register(
    _name,
    title=_title,
    needs=(base.REALS,),
    features=_wanted,
    panel='FID' if _name.startswith('fid') else None,
  )(functools.partial(_measure, _name, _wanted))

for _name, _title, _network, _reals in (
  ('rfd_per_class', 'Random features by class', 'random', SOME),
  ('fid_per_class', 'FID by class', 'inception', ALL),
):
  _wanted = Wanted(_network, reals=_reals, real_rows=_EVERY)
  _register(
    _name,
    title=_title,
    needs=(base.REALS, base.LABELS),
    features=_wanted,
    labels={_name: 'mean', rf'{_name}_(\d+)': r'class \1'},
  )(functools.partial(_measure_classes, _name, _wanted))
