"""Pictures of feature maps, and a measure of what they encode (paper Fig. 6).

The paper observes that maps of StyleGAN2 look like magnitudes, which mark
features, while some of StyleGAN3 look like phases, waves on the surface of
objects. A wave has a constant envelope; marks have one that varies.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from sg3jax.types import AnyArray

# Fraction of the width that the measure leaves out at each border, where the
# periodic continuation of the Riesz transform is wrong.
_BORDER = 0.125


def envelope(channel: Float[AnyArray, 'h w']) -> Float[np.ndarray, 'h w']:
  """Returns the local amplitude of a channel, by the monogenic signal.

  The Riesz transform is the two-dimensional form of the Hilbert transform: the
  amplitude is sqrt(f² + |R f|²), where R multiplies the spectrum by
  -i ξ / |ξ|. The mean of the channel is subtracted first.

  Args:
    channel: One channel of a feature map, continued periodically.
  """
  x = np.asarray(channel, np.float64)
  x = x - x.mean()
  fy, fx = (np.fft.fftfreq(size) for size in x.shape)
  radius = np.hypot(fx, fy[:, None])
  radius[0, 0] = 1  # The mean is zero there.
  spectrum = np.fft.fft2(x) / radius
  parts = (np.fft.ifft2(-1j * f * spectrum).real for f in (fx, fy[:, None]))
  return np.sqrt(np.square(x) + sum(np.square(part) for part in parts))


def flatness(features: Float[AnyArray, 'h w c']) -> Float[np.ndarray, ' c']:
  """Returns how flat the envelope of each channel is.

  The value is mean(A)² / mean(A²) of the amplitude A, without the borders.

  Args:
    features: The channels of one feature map.

  Returns:
    [c], from 0 to 1: 1 for a plane wave, whose phase encodes a position; about
    0.84 for white noise; and small for a channel that is silent except for a
    few marks. NaN for a constant channel.
  """
  # One channel at a time: maps of high resolutions take much memory.
  return np.array(
    [_flatness(channel) for channel in np.moveaxis(np.asarray(features), 2, 0)]
  )


def _flatness(channel: Float[AnyArray, 'h w']) -> float:
  rows, columns = (max(1, round(size * _BORDER)) for size in channel.shape)
  a = envelope(channel)[rows:-rows, columns:-columns]
  power = np.square(a).mean()
  # Rounding is no wave.
  if power <= 1e-12 * np.square(channel).mean():
    return float('nan')
  return float(a.mean() ** 2 / power)


@dataclasses.dataclass(frozen=True)
class Colours:
  """A projection of channels to the three channels of a picture.

  Attributes:
    mean: Mean of each channel, [c].
    axes: Orthonormal axes, [c, 3].
    scale: Half the range of each axis that the colours span, [3].
  """

  mean: Float[np.ndarray, ' c']
  axes: Float[np.ndarray, 'c 3']
  scale: Float[np.ndarray, ' 3']

  def __call__(
    self, features: Float[AnyArray, 'h w c']
  ) -> Float[np.ndarray, 'h w 3']:
    """Returns a picture in [-1, 1] of a feature map."""
    x = (np.asarray(features, np.float64) - self.mean) @ self.axes
    return np.clip(x / self.scale, -1, 1).astype(np.float32)


def fit_colours(features: Float[AnyArray, 'h w c']) -> Colours:
  """Returns the projection to the first three principal components.

  Args:
    features: The map that the components are computed for. Apply the result to
      the maps of moved images too, so that equal colours mean equal features.

  Returns:
    The projection. The signs of the components are fixed, and the colours span
    three standard deviations.
  """
  x = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
  mean = x.mean(0)
  values, vectors = np.linalg.eigh(np.cov(x - mean, rowvar=False, ddof=0))
  order = np.argsort(values)[::-1][:3]
  axes, variances = vectors[:, order], values[order]
  # Eigenvectors have no sign of their own: make the largest entry positive.
  largest = np.abs(axes).argmax(0)
  axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])
  missing = 3 - axes.shape[1]
  axes = np.pad(axes, ((0, 0), (0, missing)))
  deviations = np.sqrt(np.maximum(np.pad(variances, (0, missing)), 0))
  return Colours(mean, axes, np.where(deviations > 0, 3 * deviations, 1.0))
