"""The energy of feature maps above the band limits of their layers.

Each alias-free layer is designed to pass frequencies up to its cutoff f_c, and
to suppress those above its minimum stopband f_t (paper section 3.2, Fig. 4c).
What its output contains above has passed the filter, or was folded back by the
sampling.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from sg3jax.eval.analysis import spectra
from sg3jax.types import AnyArray


@dataclasses.dataclass(frozen=True)
class Leakage:
  """The fractions of a layer's energy above its band limits.

  Attributes:
    above_cutoff: Fraction above f_c, 0 to 1; NaN if the samples cannot
      represent such frequencies, as in critically sampled layers.
    above_stopband: Fraction above f_t, likewise.
  """

  above_cutoff: float
  above_stopband: float


def power_spectrum(
  features: Float[AnyArray, 'n h h c'],
) -> Float[np.ndarray, 'h h']:
  """Returns the power spectrum of feature maps, the mean over all channels.

  A Kaiser window reduces the influence of the borders. The mean of each
  channel, weighted with the window, is subtracted, so that the zero frequency
  is empty.

  Args:
    features: Feature maps.

  Returns:
    Float64 [h, h], with the zero frequency first.
  """
  n, size, _, channels = features.shape
  window = spectra.window_2d(size)
  weights = window / window.sum()
  total = np.zeros((size, size))
  # One channel at a time: maps of high resolutions take much memory.
  for image in range(n):
    for channel in range(channels):
      x = np.asarray(features[image, :, :, channel], np.float64)
      x = (x - np.sum(x * weights)) * window
      total += np.square(np.abs(np.fft.fft2(x)))
  return total / (n * channels)


def measure_leakage(
  power: Float[AnyArray, 'h h'],
  *,
  sampling_rate: float | int,
  cutoff: float | int,
  stopband: float | int,
  radial: bool,
) -> Leakage:
  """Returns the fractions of energy above the band limits of a layer.

  Args:
    power: The result of `power_spectrum`.
    sampling_rate: Samples per side of the canvas.
    cutoff: f_c, in cycles per side of the canvas.
    stopband: f_t, in the same unit.
    radial: Whether the limits apply to the length of the frequency vector, as
      for radially symmetric filters, or to each of its components.
  """
  frequency = np.abs(np.fft.fftfreq(len(power))) * sampling_rate
  combine = np.hypot if radial else np.maximum
  distance = combine(frequency[:, None], frequency)
  total = np.sum(power)

  def above(limit: float) -> float:
    if limit >= sampling_rate / 2:
      return float('nan')
    return float(np.sum(power[distance > limit]) / total) if total else 0.0

  return Leakage(above(cutoff), above(stopband))
