"""Chooses the distance that projection minimises."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.inversion import pyramid
from sg3jax.nets import spec as spec_lib
from sg3jax.types import AnyArray, Array, Images

# Maps generated and target images in [-1, 1] to a distance for each pair. It
# is traced and differentiated.
Loss = Callable[[Images, Images], Float[Array, ' n']]

NAMES = ('auto', 'lpips', 'pyramid')

_MAX_RANGE = 2.0


def choose(name: str, lpips: Loss | None) -> tuple[str, Loss]:
  """Returns a loss and its name.

  Args:
    name: 'lpips', 'pyramid', or 'auto' for LPIPS if it is available.
    lpips: LPIPS with its weights, or None if there are no weights.

  Raises:
    ValueError: If the name is unknown.
    FileNotFoundError: If LPIPS is requested but not available.
  """
  spec_lib.check_choice('loss', name, NAMES)
  if name == 'lpips' and lpips is None:
    raise FileNotFoundError(
      'the loss lpips needs weights, which were not found: choose the loss '
      'pyramid, which needs none'
    )
  if name != 'pyramid' and lpips is not None:
    return 'lpips', lpips
  return 'pyramid', pyramid.distance


def squared_error(generated: Images, target: Images) -> Float[Array, ' n']:
  """Returns the mean squared difference of each pair of images."""
  difference = jnp.asarray(generated) - target
  return jnp.mean(jnp.square(difference), axis=(1, 2, 3))


def for_refinement(loss: Loss) -> Loss:
  """Returns the loss that the last phase of projection minimises.

  The pyramid's mean absolute differences have kinks at every pixel that is
  right, so the squared error takes its place. Other losses are kept.
  """
  return squared_error if loss is pyramid.distance else loss


def at_most(loss: Loss, side: int) -> Loss:
  """Returns a loss that first averages larger images down to a size.

  LPIPS looks at few pixels at a time, so on large images it ignores shapes. The
  projector of StyleGAN2 (its appendix D) compares images of 256 pixels.

  Args:
    loss: The loss.
    side: The most pixels a side that it sees.
  """

  def reduced(x: Images) -> Float[Array, 'n h2 w2 c']:
    while x.shape[1] > side and x.shape[1] % 2 == 0:
      n, h, w, c = x.shape
      x = jnp.mean(x.reshape(n, h // 2, 2, w // 2, 2, c), (2, 4))
    return jnp.asarray(x)

  return lambda generated, target: loss(reduced(generated), reduced(target))


def psnr(
  a: Float[AnyArray, 'n h w c'], b: Float[AnyArray, 'n h w c']
) -> Float[np.ndarray, ' n']:
  """Returns the PSNR of each pair of images in dB, both clipped to [-1, 1]."""
  a, b = (np.clip(np.asarray(x, np.float64), -1, 1) for x in (a, b))
  mse = np.mean(np.square(a - b), axis=(1, 2, 3))
  with np.errstate(divide='ignore'):
    return 20 * np.log10(_MAX_RANGE) - 10 * np.log10(mse)
