"""Distance between the average power spectra of real and generated images.

The value is the root mean square, over bands of radial frequency, of the
difference in decibels. 3 dB at one frequency mean twice the power. Blur lowers
high frequencies, noise raises them, and grids of upsampling leave peaks.
"""

import numpy as np
from jaxtyping import Float

from sg3jax.eval import intervals
from sg3jax.eval.feature_sets import Wanted
from sg3jax.eval.metrics import base

_WANTED = Wanted('spectrum')
# A hundredth of the noise of rounding to integers, in squared grey levels.
# Bands with less power count as equal.
_FLOOR = 1 / 1200


def distance(
  a: Float[np.ndarray, ' bands'], b: Float[np.ndarray, ' bands']
) -> float:
  """Returns the distance in dB of two average spectra."""
  levels = 10 * np.log10((b + _FLOOR) / (a + _FLOOR))
  return float(np.sqrt(np.mean(np.square(levels))))


@base.register(
  'spectral',
  title='Spectral distance',
  unit='dB',
  higher_is_better=False,
  needs=(base.REALS,),
  features=_WANTED,
  min_images=2,
)
def measure(context: base.Context) -> base.Measurement:
  """Compares the average spectra."""
  reals, fakes = context.features(_WANTED)
  real = reals.moments.mean

  def of(rows: np.ndarray) -> float:
    return distance(real, rows.mean(0, dtype=np.float64))

  return base.Measurement(
    {'spectral': distance(real, fakes.moments.mean)},
    fakes.count,
    {'spectral': intervals.by_jackknife(fakes.first, of)},
    {
      'ci95_method': 'jackknife over 20 groups of generated images',
      **context.describe_features(_WANTED),
    },
  )
