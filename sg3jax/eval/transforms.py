"""Samples random transforms, and measures how well images follow them.

This has the three families of transforms of the paper's equivariance metrics
(appendix E; math.md section 3); rotations that are compared with a finer
resampler, and changes of scale (docs/equivariance.md); and the arithmetic of
their PSNR.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.eval import band_limited, resampling
from sg3jax.types import AnyArray, Array, Images

MAX_RANGE = 2.0  # I_max.
_MAX_SHIFT = 0.125  # Fraction of the image's width, or height.
_MAX_OCTAVES = 0.5  # The scale changes by so much, up or down.
_NORMAL_95 = 1.96  # Standard errors in half a 95 % interval.

# Squared errors and numbers of valid values, for each sample of a group.
Errors = tuple[Float[Array, ' n'], Float[Array, ' n']]


@dataclasses.dataclass(frozen=True)
class Transform:
  """The family of transforms that one of the metrics applies.

  The parameter of a transform is an offset (x, y) in pixels right and down, a
  counterclockwise angle in radians, or the factors (x, y) of a scaling.

  Attributes:
    result: Name of the value in result files. The name keeps the protocol's
      50k; the actual number of samples is recorded with the value.
    sample: Maps (key, (height, width)) to a random parameter.
    inverse: Maps (parameter, (height, width)) to the matrix [3, 3] for the
      generator's input: the inverse of the image's transform, in units of the
      image's width along x and of its height along y.
    compare: Maps (original [n, h, w, c], transformed [n, h, w, c], parameter)
      to the squared errors and the number of valid values of each sample.
  """

  result: str
  sample: Callable[[Array, tuple[int, int]], Array]
  inverse: Callable[[Array, tuple[int, int]], Array]
  compare: Callable[[Array, Array, Array], Errors]


def _sample_offset(key: Array, size: tuple[int, int]) -> Float[Array, '2']:
  shift = jax.random.uniform(key, (2,), minval=-_MAX_SHIFT, maxval=_MAX_SHIFT)
  return shift * jnp.array(size[::-1], jnp.float32)


def _sample_integer_offset(
  key: Array, size: tuple[int, int]
) -> Float[Array, '2']:
  return jnp.round(_sample_offset(key, size))


def _sample_angle(key: Array, size: tuple[int, int]) -> Float[Array, '']:
  del size
  return jax.random.uniform(key, minval=-math.pi, maxval=math.pi)


def _sample_scale(key: Array, size: tuple[int, int]) -> Float[Array, '2']:
  del size
  octaves = jax.random.uniform(key, minval=-_MAX_OCTAVES, maxval=_MAX_OCTAVES)
  return jnp.exp2(jnp.stack([octaves, octaves]))


def _sample_scales(key: Array, size: tuple[int, int]) -> Float[Array, '2']:
  del size
  return jnp.exp2(
    jax.random.uniform(key, (2,), minval=-_MAX_OCTAVES, maxval=_MAX_OCTAVES)
  )


def _inverse_offset(
  offset: Float[AnyArray, '2'], size: tuple[int, int]
) -> Float[Array, '3 3']:
  return resampling.translation_matrix(
    -offset / np.array(size[::-1], np.float32)
  )


def _inverse_rotation(
  angle: Float[AnyArray, ''], size: tuple[int, int]
) -> Float[Array, '3 3']:
  del size
  return resampling.rotation_matrix(-angle)


def _inverse_scale(
  scale: Float[AnyArray, '2'], size: tuple[int, int]
) -> Float[Array, '3 3']:
  del size
  return jnp.diag(jnp.append(1 / scale, 1.0))


def _compare_integer_offset(
  original: Images, transformed: Images, offset: Float[AnyArray, '2']
) -> Errors:
  shift = jnp.round(offset).astype(jnp.int32)
  reference, mask = resampling.translate_integer(original, shift)
  return _masked_errors(transformed, reference, mask)


def _compare_offset(
  original: Images, transformed: Images, offset: Float[AnyArray, '2']
) -> Errors:
  reference, mask = resampling.translate_fractional(original, offset)
  return _masked_errors(transformed, reference, mask)


def _compare_rotation(
  original: Images, transformed: Images, angle: Float[AnyArray, '']
) -> Errors:
  reference, reference_mask = resampling.rotate(original, angle)
  transformed, mask = resampling.pseudo_rotate(transformed, angle)
  return _masked_errors(transformed, reference, mask * reference_mask)


def _compare_fine_rotation(
  original: Images, transformed: Images, angle: Float[AnyArray, '']
) -> Errors:
  inverse = resampling.rotation_matrix(-angle)
  reference, reference_mask = band_limited.resample(original, inverse)
  filtered, mask = band_limited.low_pass(transformed)
  return _masked_errors(filtered, reference, mask * reference_mask)


def _compare_scale(
  original: Images, transformed: Images, scale: Float[AnyArray, '2']
) -> Errors:
  """Compares what both grids can represent.

  An image that is scaled down has frequencies beyond its Nyquist limit, which
  an ideal generator omits: the original is limited to a narrower band. An image
  that is scaled up may have details that the original cannot have: the new one
  is limited.
  """
  height, width = original.shape[1:3]
  inverse = _inverse_scale(scale, (height, width))
  least = 2.0**-_MAX_OCTAVES
  reference, reference_mask = band_limited.resample(
    original, inverse, stretch=jnp.minimum(scale, 1), min_stretch=least
  )
  filtered, mask = band_limited.low_pass(
    transformed,
    stretch=jnp.minimum(1 / scale, 1),
    min_stretch=least,
  )
  return _masked_errors(filtered, reference, mask * reference_mask)


def _masked_errors(a: Images, b: Images, mask: Array) -> Errors:
  squares = jnp.square(a - b) * mask
  counts = jnp.full(a.shape[0], mask.sum() * a.shape[3])
  return squares.sum((1, 2, 3)), counts


# Add new transforms last: a transform's index is part of its random key.
TRANSFORMS = {
  'eqt': Transform(
    'eqt50k_int',
    _sample_integer_offset,
    _inverse_offset,
    _compare_integer_offset,
  ),
  'eqt_frac': Transform(
    'eqt50k_frac', _sample_offset, _inverse_offset, _compare_offset
  ),
  'eqr': Transform(
    'eqr50k', _sample_angle, _inverse_rotation, _compare_rotation
  ),
  'eqr_hq': Transform(
    'eqr_hq', _sample_angle, _inverse_rotation, _compare_fine_rotation
  ),
  'eqs': Transform('eqs', _sample_scale, _inverse_scale, _compare_scale),
  'eqsa': Transform('eqsa', _sample_scales, _inverse_scale, _compare_scale),
}

# The metrics of the paper.
OFFICIAL = ('eqt', 'eqt_frac', 'eqr')


def psnr(
  squared_errors: Float[AnyArray, ' n'], counts: Float[AnyArray, ' n']
) -> float:
  """Returns the pooled PSNR in dB; infinite if nothing differs.

  Args:
    squared_errors: Sums of squared errors, which are added up in float64.
    counts: Numbers of values in those sums.
  """
  mse = np.sum(squared_errors, dtype=np.float64)
  mse /= np.sum(counts, dtype=np.float64)
  if mse == 0:
    return math.inf
  return float(20 * np.log10(MAX_RANGE) - 10 * np.log10(mse))


def psnr_ci95(
  squared_errors: Float[AnyArray, ' n'],
  counts: Float[AnyArray, ' n'],
  group_size: int,
) -> float:
  """Returns the half width of the 95 % interval of a pooled PSNR, in dB.

  The mean squared error is a ratio of two sums, over groups that share a
  transform and are independent of each other. Its standard error follows from
  the residuals of the groups (the delta method), and the standard error of its
  logarithm is the relative one.

  Args:
    squared_errors: Sums of squared errors.
    counts: Numbers of values in those sums.
    group_size: Number of samples per transform; the last group may be smaller.

  Returns:
    Decibels; 0 if nothing differs, and infinite for fewer than two groups,
    whose spread is unknown.
  """
  starts = np.arange(0, len(squared_errors), group_size)
  squares, values = (
    np.add.reduceat(np.asarray(x, np.float64), starts)
    for x in (squared_errors, counts)
  )
  if len(starts) < 2:
    return math.inf
  mse = squares.sum() / values.sum()
  if mse == 0:
    return 0.0
  residuals = squares - mse * values
  variance = np.square(residuals).sum() * len(starts) / (len(starts) - 1)
  relative = np.sqrt(variance) / values.sum() / mse
  return float(_NORMAL_95 * 10 / math.log(10) * relative)
