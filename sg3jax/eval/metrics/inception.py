"""Inception score: how certain and how varied the recognised classes are.

The score ignores real images (Salimans et al. 2016, arXiv 1606.03498).
"""

from sg3jax.eval import intervals
from sg3jax.eval.feature_sets import NONE, Wanted
from sg3jax.eval.metrics import base, formulas

_LOGITS = 'logits_unbiased'
_WANTED = Wanted('inception', outputs=(_LOGITS,), reals=NONE)
_SPLITS = 10


@base.register(
  'is50k',
  title='Inception score',
  unit='',
  higher_is_better=True,
  result='is50k_mean',
  file='is50k',
  features=_WANTED,
  min_images=_SPLITS,
)
def measure(context: base.Context) -> base.Measurement:
  """Returns the mean and the standard deviation over ten splits."""
  _, fakes = context.features(_WANTED)
  scores = formulas.inception_score(fakes.rows[_LOGITS], _SPLITS)
  return base.Measurement(
    {'is50k_mean': float(scores.mean()), 'is50k_std': float(scores.std())},
    fakes.count,
    {'is50k_mean': intervals.of_mean(scores)},
    {
      'ci95_method': 'mean over splits',
      **context.describe_features(_WANTED),
    },
  )
