"""Low-pass filter design in float64 NumPy, and the low-rank split of a filter.

A filter has t taps, t odd or even, at x_i = (i - (t - 1) / 2) / s. It is
symmetric about its centre and scaled to sum to one (unit gain at DC), where

  t   number of taps                s    sampling rate of the taps, Hz
  f_c cutoff, Hz: gain 1/2          f_h  half-width of the transition band, Hz

"Hz" is cycles per unit length of the canvas, as in the paper (arXiv
2106.12423): a feature map with s samples per unit has Nyquist frequency s / 2.
Appendix C gives the formulas.
"""

import numpy as np
import scipy.special
from jaxtyping import Float

Taps = Float[np.ndarray, ' t']
Taps2D = Float[np.ndarray, 't t']

# The binomial filter with which StyleGAN2 resamples everywhere, sum 1.
BINOMIAL: Taps = np.array([1, 3, 3, 1]) / 8


def kaiser_attenuation(
  num_taps: int, *, half_width: float, sampling_rate: float
) -> float:
  """Returns the stopband attenuation of a Kaiser-windowed filter, in dB.

  Kaiser's empirical formula (App. C.1): A = 2.285 (t - 1) pi df + 7.95, with
  the transition width df = 2 f_h / (s / 2) in units of the Nyquist frequency.

  Args:
    num_taps: Filter length t, at least 1.
    half_width: Half of the transition band's width, Hz, not negative.
    sampling_rate: Sampling rate of the taps, Hz, positive.
  """
  width = 4 * half_width / sampling_rate
  return 2.285 * (num_taps - 1) * np.pi * width + 7.95


def kaiser_beta(attenuation: float) -> float:
  """Returns the Kaiser window's shape parameter for an attenuation in dB."""
  if attenuation > 50:
    return 0.1102 * (attenuation - 8.7)
  if attenuation > 21:
    excess = attenuation - 21
    return 0.5842 * excess**0.4 + 0.07886 * excess
  return 0.0


def kaiser_lowpass(
  num_taps: int, *, cutoff: float, half_width: float, sampling_rate: float
) -> Taps:
  """Designs a sinc low-pass filter under a Kaiser window (App. C.1).

  Args:
    num_taps: Filter length t, at least 1; one tap is the identity.
    cutoff: Cutoff f_c, Hz, in (0, sampling_rate / 2].
    half_width: Half-width f_h of the transition band, Hz, not negative.
    sampling_rate: Sampling rate s of the taps, Hz.

  Returns:
    float64 [t], symmetric, sum 1.

  Raises:
    ValueError: If an argument is out of its range.
  """
  x = _positions(num_taps, cutoff, sampling_rate, half_width)
  window = _kaiser_window(num_taps, half_width, sampling_rate)
  return _normalize(np.sinc(2 * cutoff * x) * window)


def radial_lowpass(
  num_taps: int, *, cutoff: float, half_width: float, sampling_rate: float
) -> Taps2D:
  """Designs a radially symmetric low-pass filter (App. C.2, config R).

  The ideal filter is jinc(2 f_c r), jinc(u) = 2 J1(pi u) / (pi u), whose
  passband is a disc. The window is the separable Kaiser window of
  `kaiser_lowpass`.

  Args:
    num_taps: Side t of the filter, at least 1; one tap is the identity.
    cutoff: Cutoff f_c, Hz, in (0, sampling_rate / 2].
    half_width: Half-width f_h of the transition band, Hz, not negative.
    sampling_rate: Sampling rate s of the taps, Hz.

  Returns:
    float64 [t, t], symmetric under transposition and both flips, sum 1.

  Raises:
    ValueError: If an argument is out of its range.
  """
  x = _positions(num_taps, cutoff, sampling_rate, half_width)
  window = _kaiser_window(num_taps, half_width, sampling_rate)
  radius = np.hypot(x[:, None], x[None, :])
  return _normalize(_jinc(2 * cutoff * radius) * np.outer(window, window))


def lanczos_lowpass(
  num_taps: int, *, cutoff: float, sampling_rate: float, lobes: int = 2
) -> Taps:
  """Designs a Lanczos filter, sinc(x) sinc(x / a) at 2 f_c x (App. C.5).

  Args:
    num_taps: Filter length t. The kernel is nonzero over
      lobes * sampling_rate / cutoff taps; fewer truncate it.
    cutoff: Cutoff f_c, Hz, in (0, sampling_rate / 2].
    sampling_rate: Sampling rate s of the taps, Hz.
    lobes: Lobes a of the window on each side of the centre, at least 1.

  Returns:
    float64 [t], symmetric, sum 1.

  Raises:
    ValueError: If an argument is out of its range.
  """
  if lobes < 1:
    raise ValueError(f'lobes must be at least 1, got {lobes}.')
  x = 2 * cutoff * _positions(num_taps, cutoff, sampling_rate)
  inside = np.abs(x) < lobes
  return _normalize(np.sinc(x) * np.sinc(x / lobes) * inside)


def gaussian_lowpass(
  num_taps: int, *, cutoff: float, sampling_rate: float, sigma: float = 0.4
) -> Taps:
  """Designs a Gaussian filter, exp(-x^2 / 2 sigma^2) at 2 f_c x (App. C.5).

  The number of taps determines where the tails are truncated: the paper keeps
  eight samples on each side, at the lower of the two rates.

  Args:
    num_taps: Filter length t, at least 1.
    cutoff: Cutoff f_c, Hz, in (0, sampling_rate / 2].
    sampling_rate: Sampling rate s of the taps, Hz.
    sigma: Standard deviation in units of 1 / (2 f_c), positive.

  Returns:
    float64 [t], symmetric, sum 1.

  Raises:
    ValueError: If an argument is out of its range.
  """
  if sigma <= 0:
    raise ValueError(f'sigma must be positive, got {sigma}.')
  x = 2 * cutoff * _positions(num_taps, cutoff, sampling_rate)
  return _normalize(np.exp(-(x**2) / (2 * sigma**2)))


def frequency_response(
  f: Taps | Taps2D,
  frequencies: Float[np.ndarray, ' n'],
  *,
  sampling_rate: float,
) -> Float[np.ndarray, ' n'] | Float[np.ndarray, 'n n']:
  """Returns the gain of a symmetric filter at given frequencies; 1 at DC.

  The Fourier transform of a symmetric filter about its centre is real.

  Args:
    f: Taps [t], or [t, t] for a 2-D filter.
    frequencies: Frequencies in Hz; for a 2-D filter, along each axis.
    sampling_rate: Sampling rate s of the taps, Hz.

  Returns:
    float64 [n]; for a 2-D filter [n, n], at every pair of frequencies.
  """
  x = (np.arange(len(f)) - (len(f) - 1) / 2) / sampling_rate
  waves = np.cos(2 * np.pi * np.outer(frequencies, x))
  return waves @ f if f.ndim == 1 else waves @ f @ waves.T


def split_low_rank(
  f: Float[np.ndarray, 'h w'], tol: float = 4e-7
) -> list[tuple[Float[np.ndarray, ' h'], Float[np.ndarray, ' w']]]:
  """Splits a 2-D filter into a short sum of separable filters.

  This is a singular value decomposition that discards the singular values of at
  most `tol` times the first. The radial filters of config R, 12 x 12, need
  three or four terms for float32 accuracy. Each term has the symmetry of the
  filter: palindromic taps stay palindromic to the last bit.

  Args:
    f: Filter [h, w], finite.
    tol: Largest singular value to discard, relative to the first, in [0, 1).

  Returns:
    Pairs (column, row) of float64 taps [h] and [w], in order of decreasing
    weight. Their `np.outer` products sum to f within tol * sqrt(min(h, w)) of
    its 2-norm. There is at least one pair.

  Raises:
    ValueError: If f is not a finite matrix or tol is out of its range.
  """
  f = np.asarray(f, np.float64)
  if f.ndim != 2 or not f.size or not np.isfinite(f).all():
    raise ValueError(
      f'f must be a finite, non-empty 2-D filter, got shape {f.shape}.'
    )
  if not 0 <= tol < 1:
    raise ValueError(f'tol must be in [0, 1), got {tol}.')
  u, s, vh = np.linalg.svd(f, full_matrices=False)
  rank = max(1, int(np.sum(s > tol * s[0])))
  symmetric = np.array_equal(f, f[::-1]), np.array_equal(f, f[:, ::-1])
  pairs = []
  for i in range(rank):
    weight = np.sqrt(s[i])
    column, row = weight * u[:, i], weight * vh[i]
    # Singular vectors of a flip-symmetric filter are even or odd; only the even
    # ones have weight. Averaging removes the rounding of the decomposition.
    if symmetric[0]:
      column = (column + column[::-1]) / 2
    if symmetric[1]:
      row = (row + row[::-1]) / 2
    pairs.append((column, row))
  return pairs


def _positions(
  num_taps: int,
  cutoff: float,
  sampling_rate: float,
  half_width: float = 0.0,
) -> np.ndarray:
  """Checks the arguments of a design and returns the positions of taps, [t]."""
  if num_taps < 1:
    raise ValueError(f'num_taps must be at least 1, got {num_taps}.')
  if sampling_rate <= 0:
    raise ValueError(f'sampling_rate must be positive, got {sampling_rate}.')
  if not 0 < cutoff <= sampling_rate / 2:
    raise ValueError(
      f'cutoff must be in (0, {sampling_rate / 2}], got {cutoff}: the upper '
      'limit is half the sampling rate.'
    )
  if half_width < 0:
    raise ValueError(f'half_width must be at least 0, got {half_width}.')
  return (np.arange(num_taps) - (num_taps - 1) / 2) / sampling_rate


def _kaiser_window(
  num_taps: int, half_width: float, sampling_rate: float
) -> np.ndarray:
  attenuation = kaiser_attenuation(
    num_taps, half_width=half_width, sampling_rate=sampling_rate
  )
  return np.kaiser(num_taps, kaiser_beta(attenuation))


def _jinc(u: np.ndarray) -> np.ndarray:
  """Returns 2 J1(pi u) / (pi u), one at u = 0."""
  safe = np.where(u == 0, 1, u)
  return np.where(
    u == 0, 1.0, 2 * scipy.special.j1(np.pi * safe) / (np.pi * safe)
  )


def _normalize(f: np.ndarray) -> np.ndarray:
  # Make it symmetric to the last bit: flipping a filter must not change it.
  for axis in range(f.ndim):
    f = (f + np.flip(f, axis)) / 2
  return f / f.sum()
