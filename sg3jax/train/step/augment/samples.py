"""Samples what happens to each image: the random part of the augmentation.

Every operator samples an image's values from a distribution of its own. It
takes them with the probability p, and otherwise the value that changes nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.train import sharding
from sg3jax.types import AnyArray, Array

# Sampled values by operator: [n, features], or, for `noise`, the noise itself
# [n, h, w, c]. An operator that is missing is not compiled.
Samples = dict[str, Any]


class Op(NamedTuple):
  """The distribution of one operator's values.

  Attributes:
    value: Maps uniform numbers in (0, 1) to values.
    neutral: The value that changes nothing.
    features: Values an image.
    gates: Decisions an image: one for all values, or one for each.
    probability: Maps p to the probability of a decision.
  """

  value: Callable[[Array], Array]
  neutral: float = 0.0
  features: int = 1
  gates: int = 1
  probability: Callable[[Array], Array] = jnp.asarray


def _uniform(bound: float) -> Callable[[Array], Array]:
  return lambda u: bound * (2 * u - 1)


def _normal(std: float) -> Callable[[Array], Array]:
  return lambda u: std * 2**0.5 * jax.scipy.special.erfinv(2 * u - 1)


def _log_normal(std: float) -> Callable[[Array], Array]:
  return lambda u: jnp.exp2(_normal(std)(u))


def _integer(count: int) -> Callable[[Array], Array]:
  return lambda u: jnp.floor(count * u)


def _half_of_two(p: Array) -> Array:
  """Two chances, with p that at least one of them is taken."""
  return 1 - jnp.sqrt(1 - p)


# In the order in which they act on an image. Shifts are fractions of its size,
# (right, down); angles are radians.
OPS = {
  'xflip': Op(_integer(2)),  # 1 flips.
  'rotate90': Op(_integer(4)),  # Quarter turns.
  'xint': Op(_uniform(0.125), features=2),  # To be rounded to whole pixels.
  'scale': Op(_log_normal(0.2), 1.0),
  # Before and after `aniso`, which would else stretch along the axes only.
  'rotate': Op(_uniform(jnp.pi), features=2, gates=2, probability=_half_of_two),
  'aniso': Op(_log_normal(0.2), 1.0),  # Of x, and its inverse of y.
  'xfrac': Op(_normal(0.125), features=2),
  'brightness': Op(_normal(0.2)),
  'contrast': Op(_log_normal(0.5), 1.0),
  'lumaflip': Op(_integer(2)),  # 1 flips.
  'hue': Op(_uniform(jnp.pi)),
  'saturation': Op(_log_normal(1.0), 1.0),
  'imgfilter': Op(_log_normal(1.0), 1.0, features=4, gates=4),  # By band.
  'noise': Op(lambda u: jnp.abs(_normal(0.1)(u))),  # A standard deviation.
  # The centre; that of images that are left alone is far outside.
  'cutout': Op(lambda u: u, -1.0, features=2),
}

_BLIT = ('xflip', 'rotate90', 'xint')
_GEOM = ('scale', 'rotate', 'aniso', 'xfrac')
_COLOUR = ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation')

# Groups of operators under the names that users know.
PIPELINES = {
  'blit': _BLIT,
  'geom': _GEOM,
  'color': _COLOUR,
  'filter': ('imgfilter',),
  'noise': ('noise',),
  'cutout': ('cutout',),
  'bg': (*_BLIT, *_GEOM),
  'bgc': (*_BLIT, *_GEOM, *_COLOUR),
  'bgcf': (*_BLIT, *_GEOM, *_COLOUR, 'imgfilter'),
  'bgcfn': (*_BLIT, *_GEOM, *_COLOUR, 'imgfilter', 'noise'),
  'bgcfnc': (*_BLIT, *_GEOM, *_COLOUR, 'imgfilter', 'noise', 'cutout'),
}


def get_ops(pipeline: str) -> tuple[str, ...]:
  """Returns the operators of a group, or of several: `blit,color`.

  Raises:
    ValueError: If there is no such group.
  """
  groups = pipeline.split(',')
  for group in groups:
    if group not in PIPELINES:
      raise ValueError(
        f'there is no augmentation pipeline {group!r}: use one of '
        f'{", ".join(PIPELINES)}, or several with commas'
      )
  return tuple(dict.fromkeys(op for group in groups for op in PIPELINES[group]))


def sample(
  key: jax.Array,
  p: Float[AnyArray, ''] | float,
  shape: tuple[int, ...],
  ops: tuple[str, ...],
) -> Samples:
  """Samples the values of a batch.

  What an operator samples does not depend on which others there are, nor on the
  number of devices.

  Args:
    key: A random key, of this batch alone.
    p: Probability of each operator, in [0, 1], may be traced. With 0 all values
      are neutral.
    shape: Shape of the images, [n, h, w, c].
    ops: Names from `OPS`.

  Returns:
    Values by operator.
  """
  uniform_key, noise_key = jax.random.split(key)
  # One call for all: each is a program of a hundred instructions.
  columns = sum(op.features + op.gates for op in OPS.values())
  uniforms = jax.random.uniform(uniform_key, (shape[0], columns))
  uniforms = sharding.constrain_batch(uniforms)
  p = jnp.asarray(p, jnp.float32)
  samples = {}
  start = 0
  for name, op in OPS.items():
    stop = start + op.features
    # They are multiples of 2^-23: this keeps normal values finite.
    values = op.value(uniforms[:, start:stop] + 2.0**-24)
    start = stop + op.gates
    chosen = uniforms[:, stop:start] < op.probability(p)
    samples[name] = jnp.where(chosen, values, op.neutral)
  if 'noise' in ops:
    noise = sharding.constrain_batch(jax.random.normal(noise_key, shape))
    samples['noise'] = samples['noise'][:, :, None, None] * noise
  return {name: samples[name] for name in OPS if name in ops}
