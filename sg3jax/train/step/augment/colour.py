"""Brightness, contrast, luma flip, hue and saturation: one matrix per image."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.train.step.augment.samples import Samples
from sg3jax.types import Array, Images

NAMES = frozenset(['brightness', 'contrast', 'lumaflip', 'hue', 'saturation'])

# Unit vector along grey, the projection onto it, and the cross product with it.
_LUMA = np.ones(3) / np.sqrt(3)
_PROJECTION = np.outer(_LUMA, _LUMA)
_CROSS = np.cross(np.eye(3), _LUMA)


def transform(images: Images, samples: Samples) -> Float[Array, 'n h w c']:
  """Recolours images, and returns those that no operator affects unchanged.

  Args:
    images: Grey, RGB or RGBA images; opacity is kept. A grey image is treated
      as an RGB image with three equal channels: hue and saturation do not
      change it, and a luma flip changes the sign.
    samples: Values returned by `samples.sample`.

  Raises:
    ValueError: If the images have another number of channels.
  """
  n, _, _, channels = images.shape
  if channels not in (1, 3, 4):
    raise ValueError(
      'images must have 1, 3 or 4 channels to augment colours, got '
      f'{channels}: use another augmentation pipeline, such as bg'
    )
  matrix = colour_matrix(samples, n)
  if channels == 1:
    linear = jnp.sum(matrix[:, :1, :3], axis=2, keepdims=True)
  else:
    linear = matrix[:, :3, :3]
  # Avoid a matrix product, in which TPUs and GPUs would round the images.
  coloured = matrix[:, None, None, : linear.shape[1], 3]
  for i in range(linear.shape[2]):
    column = linear[:, None, None, :, i]
    coloured = coloured + column * images[:, :, :, i : i + 1]
  coloured = jnp.concatenate([coloured, images[:, :, :, 3:]], axis=3)
  same = jnp.all(matrix == jnp.eye(4), axis=(1, 2))
  return jnp.where(same[:, None, None, None], images, coloured)


def colour_matrix(samples: Samples, n: int) -> Float[Array, 'n 4 4']:
  """Returns the maps of (r, g, b, 1); exactly the identity if all are neutral.

  Args:
    samples: Values of the operators of `NAMES`; a missing one is neutral.
    n: Number of images.
  """
  linear = jnp.broadcast_to(jnp.eye(3), (n, 3, 3))
  offset = jnp.zeros((n, 3, 1))
  # Each acts on the result of the previous ones.
  if 'brightness' in samples:
    offset = offset + samples['brightness'][:, :, None]
  if 'contrast' in samples:
    contrast = samples['contrast'][:, :, None]
    linear, offset = contrast * linear, contrast * offset
  for change in _linear_changes(samples):
    linear, offset = _product(change, linear), _product(change, offset)
  last = jnp.broadcast_to(jnp.eye(4)[3:], (n, 1, 4))
  upper = jnp.concatenate([linear, offset], axis=2)
  return jnp.concatenate([upper, last], axis=1)


def _linear_changes(samples: Samples) -> list[Float[Array, 'n 3 3']]:
  """Returns I plus terms that vanish for neutral values."""
  identity, colour = np.eye(3), np.eye(3) - _PROJECTION
  changes = []
  if 'lumaflip' in samples:
    changes.append(identity - 2 * samples['lumaflip'][:, :, None] * _PROJECTION)
  if 'hue' in samples:  # Rodrigues' rotation formula about the grey axis.
    angle = samples['hue'][:, :, None]
    changes.append(
      identity + (jnp.cos(angle) - 1) * colour + jnp.sin(angle) * _CROSS
    )
  if 'saturation' in samples:
    changes.append(identity + (samples['saturation'][:, :, None] - 1) * colour)
  return changes


def _product(
  a: Float[Array, 'n 3 3'], b: Float[Array, 'n 3 k']
) -> Float[Array, 'n 3 k']:
  return jnp.sum(a[:, :, :, None] * b[:, None, :, :], axis=2)
