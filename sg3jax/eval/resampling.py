"""Shifts and rotates images as the equivariance metrics define it.

Paper appendix E; math.md section 3. Every operator takes a batch and one
transform, which may be traced. It returns the images and a mask [h, w, 1] of
valid pixels, which is 1 where no sample outside the frame contributes.

Coordinates: x points right, y points down, the origin is the centre of the
image. Matrices act on column vectors (x, y, 1). A rotation by `angle` maps
(1, 0) to (cos, -sin): counterclockwise on the screen.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sg3jax.types import AnyArray, Array, Images

# Farther away, in widths, float32 cannot distinguish neighbouring pixels.
_MAX_SHIFT = 1000.0

# Half widths of the Lanczos kernel and of the band-limit filter, in pixels.
_LANCZOS = 3
_REACH = 2 * _LANCZOS
# The sincs are truncated at the ends of this open interval, in pixels.
_SINC_REACH = 64
# Samples per pixel and side for the bilinear interpolation.
_UPSAMPLING = 4
_PSEUDO_BORDER = _REACH - 1

# Resampling is the reference: no bfloat16 or TF32 passes.
_EXACT = jax.lax.Precision.HIGHEST


def translation_matrix(
  offset: Float[AnyArray, '2'],
) -> Float[Array, '3 3']:
  """Returns the homogeneous matrix that adds `offset` = (x, y)."""
  return jnp.eye(3).at[:2, 2].set(offset)


def rotation_matrix(angle: Float[AnyArray, ''] | float) -> Float[Array, '3 3']:
  """Returns the homogeneous matrix of a rotation by `angle` radians."""
  c, s = jnp.cos(angle), jnp.sin(angle)
  return jnp.eye(3).at[:2, :2].set(jnp.array([[c, s], [-s, c]]))


def translate_integer(
  x: Images, shift: Int[AnyArray, '2']
) -> tuple[Float[Array, 'n h w c'], Float[Array, 'h w 1']]:
  """Shifts images by integer pixels, padding with zeros (EQ-T).

  Args:
    x: Images.
    shift: Pixels right and down.

  Returns:
    The shifted images, and the mask of the overlap with the unshifted frame.
  """
  shift = jnp.asarray(shift)
  mask = _mask(
    *(
      (jnp.arange(size) >= d) & (jnp.arange(size) < size + d)
      for size, d in zip(x.shape[1:3], shift[::-1], strict=True)
    )
  )
  return jnp.roll(x, shift[::-1], axis=(1, 2)) * mask, mask


def translate_fractional(
  x: Images, shift: Float[AnyArray, '2']
) -> tuple[Float[Array, 'n h w c'], Float[Array, 'h w 1']]:
  """Shifts images by any distance with a Lanczos kernel, a = 3 (EQ-T_frac).

  Args:
    x: Images, taken as zero outside the frame.
    shift: Pixels right and down.

  Returns:
    The shifted images, and the mask of pixels whose 6x6 taps all lie in the
    frame.
  """
  shift = jnp.asarray(shift, jnp.float32)
  (rows, valid_rows), (columns, valid_columns) = (
    _lanczos_shift(size, t)
    for size, t in zip(x.shape[1:3], shift[::-1], strict=True)
  )
  x = jnp.einsum('oh,nhwc->nowc', rows, x, precision=_EXACT)
  x = jnp.einsum('ow,nhwc->nhoc', columns, x, precision=_EXACT)
  return x, _mask(valid_rows, valid_columns)


def rotate(
  x: Images, angle: Float[AnyArray, ''] | float
) -> tuple[Float[Array, 'n h w c'], Float[Array, 'h w 1']]:
  """Rotates images about their centre: R_α, the high-quality rotation.

  It upsamples by four with the filter that limits the band to what both the
  input grid and the rotated grid can represent, then interpolates bilinearly.

  Args:
    x: Images, taken as zero outside the frame.
    angle: Radians.

  Returns:
    The rotated images, and the mask of pixels that were read at least 6 source
    pixels inside the frame.
  """
  up = _UPSAMPLING
  height, width = x.shape[1:3]
  matrix = rotation_matrix(angle)[:2, :2]
  f = band_limit_filter(matrix, up=up)

  # Source position of each output pixel, in input pixels.
  rows = jnp.arange(height) + 0.5 - height / 2
  columns = jnp.arange(width) + 0.5 - width / 2
  inverse = matrix.T
  source_x = inverse[0, 0] * columns + inverse[0, 1] * rows[:, None]
  source_y = inverse[1, 0] * columns + inverse[1, 1] * rows[:, None]
  source_x += width / 2 - 0.5
  source_y += height / 2 - 0.5

  def turn(image: Float[Array, 'h w c']) -> Float[Array, 'h w c']:
    # `_upsample` returns the frame with a border of _REACH pixels.
    return _bilinear(
      _upsample(image, f, up),
      (source_y + _REACH) * up,
      (source_x + _REACH) * up,
    )

  # One image at a time: upsampling takes 16 times the memory.
  out = jax.lax.map(turn, jnp.asarray(x))
  inside = _reads_inside(source_y, height) & _reads_inside(source_x, width)
  return out, inside[:, :, None].astype(x.dtype)


def pseudo_rotate(
  x: Images, angle: Float[AnyArray, ''] | float
) -> tuple[Float[Array, 'n h w c'], Float[Array, 'h w 1']]:
  """Limits the band as a rotation by `angle` would, without rotating: R*_α.

  An image that was generated rotated has a square spectrum; one that `rotate`
  rotated has an octagonal one. This gives the former the latter's spectrum.

  Args:
    x: Images, taken as zero outside the frame.
    angle: Radians.

  Returns:
    The filtered images, and the mask that excludes 5 pixels at each border.
  """
  f = band_limit_filter(rotation_matrix(-angle)[:2, :2], up=1)
  border = _PSEUDO_BORDER
  # The filter is point-symmetric, so correlation equals convolution.
  planes = _convolve(_planes(x), f[:, :, None, None], (border, border))
  rows, columns = (
    (jnp.arange(size) >= border) & (jnp.arange(size) < size - border)
    for size in x.shape[1:3]
  )
  return _from_planes(planes, x.shape), _mask(rows, columns)


def band_limit_filter(
  matrix: Float[AnyArray, '2 2'], *, up: int
) -> Float[Array, 't t']:
  """Designs the filter that keeps what an affine resampling can represent.

  The filter is the ideal low-pass of the input grid, convolved with that of the
  output grid in input coordinates, times the same convolution of two Lanczos
  windows. It is computed in float32 on the device, so that the transform can be
  traced.

  Args:
    matrix: Maps input positions to output positions.
    up: Number of taps per pixel.

  Returns:
    Taps over the open interval (-6, 6) pixels, 12 * up - 1 per side. Each of
    the up * up polyphase components sums to 1 / up².
  """
  f = _convolve_with_image(_sinc, matrix, up)
  f = f * _convolve_with_image(_lanczos_window, matrix, up)
  taps = f.shape[0] + 1
  phases = jnp.pad(f, (0, 1)).reshape(taps // up, up, taps // up, up)
  phases /= phases.sum((0, 2), keepdims=True) * up**2
  return phases.reshape(taps, taps)[:-1, :-1]


def _convolve_with_image(
  function: Callable[[Array], Array],
  matrix: Float[AnyArray, '2 2'],
  up: int,
) -> Float[Array, 't t']:
  """Convolves f(x)f(y) with its image under `matrix`.

  The first factor is separable and does not depend on the matrix, so the
  (circular) convolution is a product with a constant matrix on either side.
  """
  reach = _SINC_REACH * up - 1
  steps = np.arange(-reach, reach + 1)
  taps = np.arange(-_REACH * up + 1, _REACH * up)
  distances = taps[:, None] - steps
  distances -= len(steps) * np.rint(distances / len(steps)).astype(int)
  left = function(jnp.asarray(distances / up, jnp.float32))

  grid = jnp.asarray(steps / up, jnp.float32)
  m = jnp.asarray(matrix, jnp.float32)
  image_x = m[0, 0] * grid + m[0, 1] * grid[:, None]
  image_y = m[1, 0] * grid + m[1, 1] * grid[:, None]
  image = function(image_x) * function(image_y)
  product = jnp.matmul(left, image, precision=_EXACT)
  return jnp.matmul(product, left.T, precision=_EXACT)


def _sinc(x: Array) -> Array:
  """Returns sin(πx) / (πx).

  This replaces `jnp.sinc`, whose expansion at zero, which only derivatives
  need, does not pass the checks of `jax.shard_map` in JAX 0.12.
  """
  x = jnp.where(x == 0, 1e-6, x) * jnp.pi
  return jnp.sin(x) / x


def _lanczos_window(x: Array) -> Array:
  return jnp.where(jnp.abs(x) < _LANCZOS, _sinc(x / _LANCZOS), 0.0)


def _lanczos_shift(
  size: int, shift: Float[Array, '']
) -> tuple[Float[Array, 'o i'], Array]:
  """Returns the matrix that shifts a row, and which of its rows are valid."""
  whole = jnp.floor(shift).astype(jnp.int32)
  out = jnp.arange(size)
  distance = (out[:, None] - out - whole).astype(jnp.float32)
  fraction = shift - whole

  def tap(k: Array) -> Array:
    inside = (k > -_LANCZOS) & (k <= _LANCZOS)
    x = k - fraction
    return jnp.where(inside, _sinc(x) * _sinc(x / _LANCZOS), 0.0)

  total = tap(jnp.arange(-_LANCZOS + 1.0, _LANCZOS + 1.0)).sum()
  valid = (out >= whole + _LANCZOS) & (out < size + whole - _LANCZOS + 1)
  return tap(distance) / total, valid


def _reads_inside(position: Array, size: int) -> Array:
  """Returns which positions are at least _REACH pixels inside the frame.

  Pixels are `_UPSAMPLING` samples wide. Pixel j covers samples up * j to
  up * j + up - 1, and lies at the third of these four.
  """
  up = _UPSAMPLING
  sample = jnp.round(position * up) + up // 2
  return (sample >= _REACH * up) & (sample < (size - _REACH) * up)


def _upsample(
  image: Float[Array, 'h w c'], f: Float[Array, 't t'], up: int
) -> Float[Array, 'h2 w2 c']:
  """Upsamples one image, with a border of _REACH pixels for filter tails.

  Sample up * (j + _REACH) lies on pixel j. One convolution computes the up²
  polyphase components as channels, so that no zeros are multiplied.
  """
  height, width, channels = image.shape
  taps = 2 * _REACH
  kernel = jnp.pad(f * up**2, (1, 0)).reshape(taps, up, taps, up)
  kernel = kernel[::-1, :, ::-1].transpose(0, 2, 1, 3)
  kernel = kernel.reshape(taps, taps, 1, up * up)
  planes = _convolve(_planes(image[None]), kernel, (taps - 1, taps))
  height, width = height + taps, width + taps
  x = planes.reshape(channels, height, width, up, up)
  return x.transpose(1, 3, 2, 4, 0).reshape(height * up, width * up, channels)


def _bilinear(
  image: Float[Array, 'h w c'],
  y: Float[Array, 'h2 w2'],
  x: Float[Array, 'h2 w2'],
) -> Float[Array, 'h2 w2 c']:
  """Interpolates an image at positions in samples; zero outside."""
  height, width, _ = image.shape
  top, left = jnp.floor(y), jnp.floor(x)
  out = 0.0
  for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
    for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
      inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
      value = image[
        jnp.clip(row, 0, height - 1).astype(jnp.int32),
        jnp.clip(column, 0, width - 1).astype(jnp.int32),
      ]
      weight = jnp.where(inside, weight_y * weight_x, 0.0)
      out = out + weight[:, :, None] * value
  return out


def _planes(x: Images) -> Float[Array, 'p h w 1']:
  """Turns every channel into a separate image."""
  n, height, width, channels = x.shape
  x = jnp.moveaxis(jnp.asarray(x), 3, 1)
  return x.reshape(n * channels, height, width, 1)


def _from_planes(
  planes: Float[Array, 'p h w 1'], shape: tuple[int, ...]
) -> Float[Array, 'n h w c']:
  n, height, width, channels = shape
  return jnp.moveaxis(planes.reshape(n, channels, height, width), 1, 3)


def _convolve(
  planes: Float[Array, 'p h w 1'],
  kernel: Float[Array, 't t 1 o'],
  padding: tuple[int, int],
) -> Float[Array, 'p h2 w2 o']:
  """Correlates planes with a kernel, zero-padded by (before, after)."""
  return jax.lax.conv_general_dilated(
    planes,
    kernel,
    window_strides=(1, 1),
    padding=(padding, padding),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=_EXACT,
  )


def _mask(rows: Array, columns: Array) -> Float[Array, 'h w 1']:
  """Returns the outer product of two vectors of booleans."""
  return (rows[:, None] & columns)[:, :, None].astype(jnp.float32)


def inverse_transform(
  translate: tuple[float, float] = (0.0, 0.0), rotate: float = 0.0
) -> Float[np.ndarray, '3 3'] | None:
  """Returns the `transform` of a rotation followed by a shift.

  Args:
    translate: The shift (x, y), in units of the image's width.
    rotate: The rotation in degrees, counterclockwise.

  Returns:
    The inverse transform for `Model.synthesis`; None for the identity.

  Raises:
    ValueError: If a number is not finite, or the shift is too long for float32.
  """
  x, y = translate
  if not all(abs(value) <= _MAX_SHIFT for value in (x, y)):
    raise ValueError(
      f'translate must be within {_MAX_SHIFT:g} widths, got {x:g},{y:g}'
    )
  if not math.isfinite(rotate):
    raise ValueError(f'rotate must be a finite number, got {rotate}')
  if not (x or y or rotate):
    return None
  turn = rotation_matrix(math.radians(math.fmod(rotate, 360)))
  shift = translation_matrix(jnp.array([x, y]))
  return np.linalg.inv(np.asarray(shift @ turn))
