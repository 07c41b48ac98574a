"""Shows how far an image follows when its input moves, and the limit of that.

The input of the generator is moved, the move is undone in the image, and the
result is compared with the image at rest, with the operators of EQ-T_frac and
EQ-R (docs/math.md, section 3). The ceiling is what the same comparison gives
for an ideal generator whose images have the same spectrum
(docs/equivariance.md).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from sg3jax.eval import ideal_generator, resampling
from sg3jax.eval import transforms as transforms_lib
from sg3jax.render import camera
from sg3jax.types import AnyArray, Array, Images
from sg3jax.view import views

# Range of the picture of errors, in dB relative to the range of the image.
FLOOR_DB = -80.0

# Colour of pixels that the comparison does not define.
_UNDEFINED = 128


@dataclasses.dataclass(frozen=True)
class Check:
  """The error of one image.

  Attributes:
    undone: The image of the moved input, moved back, [h, w, c].
    error_db: Error of each pixel [h, w] in dB relative to the range of 2; NaN
      where it is undefined.
    psnr: The PSNR over all pixels in dB; NaN if none is defined, and infinite
      if nothing differs.
    ceiling: The PSNR that an ideal generator would get; None if it was not
      computed.
  """

  undone: Float[np.ndarray, 'h w c']
  error_db: Float[np.ndarray, 'h w']
  psnr: float
  ceiling: float | None


def pose_of(view: views.View) -> camera.Pose:
  """Returns the part of the view's transform that its check moves by."""
  if view.check == 'translation':
    return camera.Pose(x=view.x, y=view.y)
  return camera.Pose(rotate=view.rotate)


def check(
  view: views.View,
  original: Float[np.ndarray, '1 h w c'],
  moved: Float[np.ndarray, '1 h w c'],
  *,
  has_ceiling: bool = True,
) -> Check:
  """Compares an image with that of the moved input.

  Args:
    view: The view, whose check is not empty.
    original: The image at rest, in [-1, 1].
    moved: The image with the transform `pose_of(view)`.
    has_ceiling: Whether to compute the ceiling, which takes longer than the
      rest for small images.
  """
  pose = pose_of(view)
  if view.check == 'translation':
    width = original.shape[2]
    parameter = np.array([pose.x, pose.y], np.float32) * width
  else:
    parameter = np.float32(math.radians(pose.rotate))
  compare, imitate = _programs(view.check)
  undone, squares, mask = (
    np.asarray(x) for x in compare(original, moved, parameter)
  )
  ceiling = None
  if has_ceiling:
    ceiling = _psnr(*map(float, imitate(original, parameter, pose.inverse())))
  valid = mask[..., 0] > 0
  mean = squares.mean(-1) / transforms_lib.MAX_RANGE**2
  error = 10 * np.log10(np.maximum(mean, 10 ** (FLOOR_DB / 10)))
  return Check(
    undone,
    np.where(valid, error, np.nan),
    _psnr(float(squares.sum()), float(valid.sum() * original.shape[-1])),
    ceiling,
  )


def error_picture(
  error_db: Float[np.ndarray, 'h w'],
) -> UInt8[np.ndarray, 'h w 3']:
  """Colours errors from `FLOOR_DB` (dark) to 0 dB; undefined ones are grey."""
  import matplotlib  # Slow to import.

  scaled = np.clip(1 - np.nan_to_num(error_db) / FLOOR_DB, 0, 1)
  colours = matplotlib.colormaps['magma'](scaled)[..., :3]
  pixels = np.round(colours * 255).astype(np.uint8)
  return np.where(np.isnan(error_db)[..., None], np.uint8(_UNDEFINED), pixels)


def _psnr(squares: float, count: float) -> float:
  if not count:
    return math.nan
  return transforms_lib.psnr(np.array([squares]), np.array([count]))


_Undo = Callable[[Array, Array, Array], tuple[Array, Array, Array]]


def _undo_translation(
  original: Images, moved: Images, offset: Float[AnyArray, '2']
) -> tuple[Array, Array, Array]:
  undone, mask = resampling.translate_fractional(moved, -offset)
  return jnp.asarray(original), undone, mask


def _undo_rotation(
  original: Images, moved: Images, angle: Float[AnyArray, '']
) -> tuple[Array, Array, Array]:
  undone, mask = resampling.rotate(moved, -angle)
  # The band of the original is limited as the rotation limits the other's.
  reference, inside = resampling.pseudo_rotate(original, -angle)
  return reference, undone, mask * inside


@functools.cache
def _programs(kind: str):
  """Returns the jitted comparison, and that of an ideal generator.

  Each compiles once for each shape of images.
  """
  undo: _Undo = {
    'translation': _undo_translation,
    'rotation': _undo_rotation,
  }[kind]

  def compare(original, moved, parameter):
    reference, undone, mask = undo(original, moved, parameter)
    squares = jnp.square(reference - undone) * mask
    return undone[0], squares[0], mask

  def imitate(original, parameter, inverse):
    size = original.shape[1:3]
    waves = ideal_generator.sample_waves(
      ideal_generator.power_spectrum(original), jax.random.key(0), 1
    )
    still, moved = (
      ideal_generator.render(waves, matrix[None], size)
      for matrix in (jnp.eye(3), inverse)
    )
    _, squares, mask = compare(still, moved, parameter)
    return squares.sum(), mask.sum()

  return jax.jit(compare), jax.jit(imitate)
