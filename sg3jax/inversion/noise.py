"""Noise inputs as parameters of projection (StyleGAN2 paper, appendix D).

Optimised freely, noise inputs would store the target image. Two measures keep
them noise: a penalty on correlations between neighbouring values, at all
scales, and normalisation after each step.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.types import Array

Maps = Mapping[str, Float[Array, 'n _ _']]

# Side of the smallest scale at which correlations are penalised.
_SMALLEST = 8


def regularity(maps: Maps) -> Float[Array, ' n'] | float:
  """Returns the penalty for each image; its expectation is small for noise.

  For each map and scale it is the square of the mean product of horizontal
  neighbours, plus that of vertical neighbours; edges wrap around. The next
  scale averages 2x2 values and doubles them, so that white noise of variance 1
  keeps its variance.
  """
  total = 0.0
  for x in maps.values():
    while True:
      for axis in (1, 2):
        product = jnp.mean(x * jnp.roll(x, 1, axis=axis), axis=(1, 2))
        total = total + jnp.square(product)
      if min(x.shape[1:]) < 2 * _SMALLEST:
        break
      n, h, w = x.shape
      x = x[:, : h // 2 * 2, : w // 2 * 2]
      x = 2 * jnp.mean(x.reshape(n, h // 2, 2, w // 2, 2), axis=(2, 4))
  return total


def normalize(maps: Maps) -> dict[str, Float[Array, 'n _ _']]:
  """Returns maps with mean 0 and variance 1 in each image."""
  result = {}
  for name, x in maps.items():
    x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    square = jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True)
    result[name] = x / jnp.sqrt(square + 1e-8)
  return result
