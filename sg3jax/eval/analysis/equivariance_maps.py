"""Maps of where a moved image differs from the image of a moved input.

The input of the generator is transformed, the transform is undone in the image,
and the result is compared with the original, pixel by pixel. The operators are
those of the equivariance metrics (paper appendix E).
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.eval import resampling, transforms
from sg3jax.types import Array, Images


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Errors of images under one transform.

  Attributes:
    undone: The images of the moved input, moved back, [n, h, w, c].
    error_db: The error of each pixel, 10 log10 of the mean square over channels
      relative to the range of 2, in dB [n, h, w]; NaN where it is undefined.
    psnr: The PSNR over all valid pixels of the images, in dB.
  """

  undone: Float[np.ndarray, 'n h w c']
  error_db: Float[np.ndarray, 'n h w']
  psnr: float


@dataclasses.dataclass(frozen=True)
class Move:
  """A transform to compare under.

  Attributes:
    title: The transform in words.
    inverse: The matrix for the input of the generator, [3, 3].
    compare: Maps (original, moved) images to the reference, the image moved
      back, and the mask of valid pixels.
  """

  title: str
  inverse: Float[np.ndarray, '3 3']
  compare: Callable[[Array, Array], tuple[Array, Array, Array]]


def translation(width: int, pixels: float | int) -> Move:
  """Returns a translation to the right and down by the same distance.

  Args:
    width: Pixels per side of the images.
    pixels: The distance. Integers are undone exactly, as in EQ-T; fractions
      with a Lanczos kernel, as in EQ-T_frac.
  """
  offset = np.full(2, -pixels, np.float32)
  is_exact = float(pixels).is_integer()

  def compare(original: Array, moved: Array) -> tuple[Array, Array, Array]:
    if is_exact:
      shift = offset.astype(np.int32)
      undone, mask = resampling.translate_integer(moved, shift)
    else:
      undone, mask = resampling.translate_fractional(moved, offset)
    return original, undone, mask

  inverse = np.eye(3, dtype=np.float32)
  inverse[:2, 2] = -pixels / width
  return Move(f'moved {pixels:g} px', inverse, compare)


def rotation(degrees: float | int) -> Move:
  """Returns a counterclockwise rotation about the centre, undone as in EQ-R.

  The band of the original is limited as the rotation limits that of the moved
  image.
  """
  angle = math.radians(degrees)

  def compare(original: Array, moved: Array) -> tuple[Array, Array, Array]:
    undone, mask = resampling.rotate(moved, -angle)
    reference, inside = resampling.pseudo_rotate(original, -angle)
    return reference, undone, mask * inside

  inverse = np.asarray(resampling.rotation_matrix(-angle), np.float32)
  return Move(f'rotated {degrees:g}°', inverse, compare)


def compare(
  move: Move, original: Images, moved: Images, *, floor_db: float | int = -100
) -> Comparison:
  """Compares images with those of a moved input.

  Args:
    move: The transform.
    original: Images in [-1, 1].
    moved: The images of the same styles with `move.inverse`.
    floor_db: The smallest error of a pixel.
  """
  reference, undone, mask = jax.jit(move.compare)(
    jnp.asarray(original), jnp.asarray(moved)
  )
  valid = np.asarray(mask[..., 0]) > 0
  squares = np.asarray(jnp.square(reference - undone) * mask, np.float64)
  count = valid.sum() * squares.shape[-1]
  mean = squares.mean(-1) / transforms.MAX_RANGE**2
  decibels = 10 * np.log10(np.maximum(mean, 10 ** (floor_db / 10)))
  return Comparison(
    np.asarray(undone),
    np.where(valid, decibels, np.nan),
    transforms.psnr(
      squares.sum((1, 2, 3)), np.full(len(squares), count, np.float64)
    )
    if count
    else math.nan,
  )
