"""Samples the random values of the augmentation of each image.

Every operator has its own distribution, from which it samples values for each
image. It uses them with probability p, and the neutral value otherwise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.train import sharding
from sg3jax.types import AnyArray, Array

# Sampled values by operator: [n, features], or the noise itself [n, h, w, c]
# for `noise`. A missing operator is not compiled.
Samples = dict[str, Any]


class Op(NamedTuple):
  """The distribution of one operator's values.

  Attributes:
    value: Maps uniform numbers in (0, 1) to values.
    neutral: The value that changes nothing.
    features: Number of values per image.
    gates: Number of decisions per image: one for all values, or one for each.
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
  """Returns the q for each of two decisions: 1 - (1 - q)^2 = p."""
  return 1 - jnp.sqrt(1 - p)


# Operators in the order in which they act on an image. Shifts are fractions of
# its size, (right, down); angles are in radians.
OPS = {
  'xflip': Op(_integer(2)),  # 1 flips.
  'rotate90': Op(_integer(4)),  # Quarter turns.
  'xint': Op(_uniform(0.125), features=2),  # Rounded to integer pixels later.
  'scale': Op(_log_normal(0.2), 1.0),
  # Before and after `aniso`, which would otherwise only stretch along axes.
  'rotate': Op(_uniform(jnp.pi), features=2, gates=2, probability=_half_of_two),
  'aniso': Op(_log_normal(0.2), 1.0),  # Factor of x; y has its inverse.
  'xfrac': Op(_normal(0.125), features=2),
  'brightness': Op(_normal(0.2)),
  'contrast': Op(_log_normal(0.5), 1.0),
  'lumaflip': Op(_integer(2)),  # 1 flips.
  'hue': Op(_uniform(jnp.pi)),
  'saturation': Op(_log_normal(1.0), 1.0),
  'imgfilter': Op(_log_normal(1.0), 1.0, features=4, gates=4),  # By band.
  'noise': Op(lambda u: jnp.abs(_normal(0.1)(u))),  # A standard deviation.
  # The centre, which is far outside for images that are left unchanged.
  'cutout': Op(lambda u: u, -1.0, features=2),
}

_BLIT = ('xflip', 'rotate90', 'xint')
_GEOM = ('scale', 'rotate', 'aniso', 'xfrac')
_COLOUR = ('brightness', 'contrast', 'lumaflip', 'hue', 'saturation')

# Groups of operators under their published names.
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
  """Returns the operators of one or more groups, such as `blit,color`.

  Raises:
    ValueError: If a group does not exist.
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
  """Samples the values for a batch.

  The samples of an operator depend neither on the other operators nor on the
  number of devices.

  Args:
    key: A random key used only for this batch.
    p: Probability of each operator, in [0, 1]; may be traced. With 0 all values
      are neutral.
    shape: Shape of the images, [n, h, w, c].
    ops: Names from `OPS`.

  Returns:
    Values by operator.
  """
  uniform_key, noise_key = jax.random.split(key)
  # Sample all in one call: each call compiles to a hundred instructions.
  columns = sum(op.features + op.gates for op in OPS.values())
  uniforms = jax.random.uniform(uniform_key, (shape[0], columns))
  uniforms = sharding.constrain_batch(uniforms)
  p = jnp.asarray(p, jnp.float32)
  samples = {}
  start = 0
  for name, op in OPS.items():
    stop = start + op.features
    # Uniform numbers are multiples of 2^-23; this keeps normal values finite.
    values = op.value(uniforms[:, start:stop] + 2.0**-24)
    start = stop + op.gates
    chosen = uniforms[:, stop:start] < op.probability(p)
    samples[name] = jnp.where(chosen, values, op.neutral)
  if 'noise' in ops:
    noise = sharding.constrain_batch(jax.random.normal(noise_key, shape))
    samples['noise'] = samples['noise'][:, :, None, None] * noise
  return {name: samples[name] for name in OPS if name in ops}
