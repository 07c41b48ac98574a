"""Rotation and translation of the generator's input as parameters.

The first style of an alias-free generator has one effect: it rotates and
translates the Fourier features. Styles are a poor coordinate system for that,
in which projection easily gets lost. So the first style is held, the angle and
shift are optimised instead, and they are absorbed into the first style at the
end.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.types import AnyArray, Array, Variables

MODES = ('fixed', 'free', 'later')

# Largest error of an absorbed transform, in radians or image widths.
_TOLERANCE = 1e-5


def moves_input(spec: generator_lib.Spec) -> bool:
  """Returns whether the first style does nothing but move the input."""
  return isinstance(spec, spec_lib.SynthesisSpec) and spec.learned_transform


def check_mode(mode: str | None, spec: generator_lib.Spec) -> str:
  """Returns the mode; by default 'later' if the generator takes transforms.

  Raises:
    ValueError: If the mode is unknown, or the generator takes no transforms.
  """
  if mode is None:
    return 'later' if spec.takes_transforms else 'fixed'
  spec_lib.check_choice('transform', mode, MODES)
  if mode != 'fixed' and not spec.takes_transforms:
    raise ValueError(
      f'transform must be fixed for this generator, got {mode}: its input is a '
      'learned constant, which cannot be moved'
    )
  return mode


def rigid(
  angle: Float[AnyArray, ' n'], shift: Float[AnyArray, 'n 2']
) -> Float[Array, 'n 3 3']:
  """Returns inverse transforms: rotation matrices with a translation column.

  Args:
    angle: Angles in radians.
    shift: Translations in units of the image width.
  """
  c, s = jnp.cos(angle), jnp.sin(angle)
  zero, one = jnp.zeros_like(c), jnp.ones_like(c)
  x, y = shift[:, 0], shift[:, 1]
  rows = [[c, -s, x], [s, c, y], [zero, zero, one]]
  return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def absorb(
  variables: Variables,
  w: Float[AnyArray, 'n d'],
  transform: Float[AnyArray, 'n 3 3'],
) -> Float[np.ndarray, 'n d'] | None:
  """Returns first styles that move the input as `w` and `transform` do.

  Four linear functions of the style, (r_c, r_s, t_x, t_y), set the rotation and
  the translation (math.md 2.4). The result is the closest style to `w` for
  which they have the values of the composition.

  Args:
    variables: Variables of an alias-free generator.
    w: First styles.
    transform: Inverse transforms of images, rigid.

  Returns:
    The styles, float32; None if no style has the effect, as in an untrained
    generator, whose input ignores the style.
  """
  affine = variables['params']['synthesis']['input']['affine']
  weight = np.asarray(affine['weight'], np.float64)
  weight = weight / np.sqrt(len(weight))
  bias = np.asarray(affine['bias'], np.float64)
  w = np.asarray(w, np.float64)
  before = w @ weight + bias
  wanted = _compose(before, np.asarray(transform, np.float64))
  after = w + (wanted - before) @ np.linalg.pinv(weight)
  after = after.astype(np.float32)
  found = after.astype(np.float64) @ weight + bias
  scale = np.linalg.norm(wanted[:, :2], axis=1, keepdims=True)
  is_exact = np.all(np.abs(found - wanted) <= _TOLERANCE * scale)
  return after if is_exact and np.all(np.isfinite(after)) else None


def _compose(
  t: Float[np.ndarray, 'n 4'], transform: Float[np.ndarray, 'n 3 3']
) -> Float[np.ndarray, 'n 4']:
  """Returns (r_c, r_s, t_x, t_y) of the learned transform times another."""
  norm = np.linalg.norm(t[:, :2], axis=1, keepdims=True)
  c, s, x, y = (t / norm).T
  rotation = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
  shift = np.stack([x, y], -1)[..., None]
  # The learned transform is Rot(r) Tr(-t); the product has the same form.
  column = rotation @ (transform[:, :2, 2:] - shift)
  rotation = rotation @ transform[:, :2, :2]
  shift = -np.swapaxes(rotation, 1, 2) @ column
  composed = [rotation[:, 0, 0], rotation[:, 1, 0], shift[:, 0, 0]]
  return norm * np.stack([*composed, shift[:, 1, 0]], -1)
