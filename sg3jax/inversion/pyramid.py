"""A distance between images that needs no network: Laplacian pyramids."""

import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.ops import filters
from sg3jax.ops.upfirdn import upfirdn
from sg3jax.types import Array, Images

# Side of the coarsest level, in pixels.
_COARSEST = 4


def laplacian(x: Images) -> list[Float[Array, 'n h2 w2 c']]:
  """Returns the levels of an image's Laplacian pyramid, the finest first.

  Each level is the difference between the image at one resolution and its
  half-resolution copy, scaled up again. The last level is the remaining image,
  at most 7 pixels a side. Scaling uses the binomial filter [1, 3, 3, 1].
  """
  x = jnp.asarray(x)
  levels = []
  while min(x.shape[1:3]) >= 2 * _COARSEST and not any(
    side % 2 for side in x.shape[1:3]
  ):
    low = upfirdn(x, filters.BINOMIAL, down=2, padding=((1, 1), (1, 1)))
    high = upfirdn(
      low, filters.BINOMIAL, up=2, padding=((2, 1), (2, 1)), gain=4
    )
    levels.append(x - high)
    x = low
  return [*levels, x]


def distance(
  generated: Images, target: Images, *, pixel_weight: float = 1.0
) -> Float[Array, ' n']:
  """Returns the distance of each pair of images, at least 0.

  It is the mean absolute difference at each level of the Laplacian pyramids,
  summed over the levels, plus the mean squared difference of the pixels. The
  first part counts coarse shapes as much as fine detail, which single pixels of
  a misplaced image say nothing about. The second part is smooth at its minimum.

  Args:
    generated: Images in [-1, 1].
    target: Images of the same shape.
    pixel_weight: Factor on the squared differences.
  """
  # The pyramid is linear, so that of the difference is enough.
  difference = jnp.asarray(generated) - target
  axes = (1, 2, 3)
  levels = sum(
    jnp.mean(jnp.abs(level), axes) for level in laplacian(difference)
  )
  return levels + pixel_weight * jnp.mean(jnp.square(difference), axes)
