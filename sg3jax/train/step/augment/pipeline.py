"""Augments a batch of images."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.train.step.augment import colour, corruptions, geometry
from sg3jax.train.step.augment.samples import Samples, sample
from sg3jax.types import AnyArray, Array, Images


def augment(
  images: Images,
  key: jax.Array,
  p: Float[AnyArray, ''] | float,
  ops: tuple[str, ...],
) -> Float[Array, 'n h w c']:
  """Augments each image with independently sampled operators and values.

  The result is differentiable to any order with respect to the images.

  Args:
    images: Real or generated images with 1, 3 or 4 channels.
    key: A random key used only for this batch.
    p: Probability of each operator, in [0, 1]; may be traced. With 0 the images
      are returned bit for bit.
    ops: Names of operators; see `samples.get_ops`.
  """
  return apply(images, sample(key, p, images.shape, ops))


def apply(images: Images, samples: Samples) -> Float[Array, 'n h w c']:
  """Applies sampled values to the images, in the dtype of the images.

  The stages are geometry, colour, band filter, noise and cutout. An image for
  which all values of a stage are neutral passes through it bit for bit.

  Args:
    images: Images with 1, 3 or 4 channels.
    samples: Values by operator, returned by `sample`. Missing operators do
      nothing.
  """
  x, samples = jax.tree.map(jnp.asarray, (images, samples))
  for stage in (geometry, colour, corruptions):
    if stage.NAMES & samples.keys():
      x = stage.transform(x, samples)
  return x.astype(images.dtype)
