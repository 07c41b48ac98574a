"""Directions in the space of styles: how to find, name and apply them.

A direction is a unit vector in w, a range of styles that it moves, and the
standard deviation of random styles along it, which is the unit of strengths.

- `sefa` finds the directions that change the layers' scales most: the
  eigenvectors of the sum of A Aᵀ over the layers' affine weights A.
- `pca` finds the directions in which random styles vary most: the eigenvectors
  of their covariance.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax import model as model_lib
from sg3jax.editing import layers as layers_lib
from sg3jax.editing import ws as ws_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.types import AnyArray, Array

METHODS = ('sefa', 'pca')


@dataclasses.dataclass(frozen=True)
class Direction:
  """A direction in the space of styles.

  Attributes:
    name: Its name.
    vector: Unit vector [w_dim], float32.
    std: Standard deviation of random styles along it; a strength of 1 moves
      styles by that much.
    layers: The first and the last style that it moves.
  """

  name: str
  vector: Float[np.ndarray, ' d']
  std: float
  layers: tuple[int, int]


# Directions with their strengths.
Edits = Sequence[tuple[Direction, float]]


def apply(ws: Float[AnyArray, 'n l d'], edits: Edits) -> Float[Array, 'n l d']:
  """Returns styles moved along directions.

  Args:
    ws: Styles.
    edits: Directions with strengths, in standard deviations.

  Raises:
    ValueError: If a direction is for styles of another design.
  """
  ws = jnp.asarray(ws)
  for direction, strength in edits:
    layers_lib.check_range(direction.layers, ws.shape[1])
    if len(direction.vector) != ws.shape[2]:
      raise ValueError(
        f'the direction {direction.name} must have {ws.shape[2]} features, got '
        f'{len(direction.vector)}: find directions of this model'
      )
    first, last = direction.layers
    step = strength * direction.std * direction.vector
    ws = ws.at[:, first : last + 1].add(jnp.asarray(step, ws.dtype))
  return ws


def find(
  model: model_lib.Model,
  method: str = 'sefa',
  *,
  count: int = 10,
  layers: tuple[int, int] | None = None,
  num_samples: int = 100_000,
  seed: int = 0,
) -> list[Direction]:
  """Finds the first directions of a model, named `sefa0`, `sefa1`, ...

  The sign of a vector is such that its largest component is positive.

  Args:
    model: The model.
    method: 'sefa' or 'pca'; see the module.
    count: Number of directions.
    layers: The first and the last style that the directions move; all but the
      input's by default.
    num_samples: Number of random styles for the covariance, rounded up to
      thousands.
    seed: Random seed of these styles.

  Raises:
    ValueError: If an argument is out of range.
  """
  spec_lib.check_choice('method', method, METHODS)
  if not 1 <= count <= model.w_dim:
    raise ValueError(f'count must be within 1..{model.w_dim}, got {count}')
  if layers is None:
    has_input = 'input' in layers_lib.style_of_layers(model.generator.spec)
    layers = (int(has_input), model.num_ws - 1)
  layers_lib.check_range(layers, model.num_ws)
  covariance = style_covariance(
    ws_lib.sample(model, num_samples, seed=seed), model.w_dim
  )
  matrix = covariance
  if method == 'sefa':
    affine = layers_lib.affine_weights(model, layers)
    matrix = affine @ affine.T
  vectors = np.linalg.eigh(matrix)[1].T[::-1][:count]
  result = []
  for i, vector in enumerate(vectors):
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    std = np.sqrt(max(vector @ covariance @ vector, 0))
    result.append(
      Direction(f'{method}{i}', vector.astype(np.float32), float(std), layers)
    )
  return result


def style_covariance(
  batches: Iterable[Float[np.ndarray, '_n d']], w_dim: int
) -> Float[np.ndarray, 'd d']:
  """Returns the covariance of styles that arrive in batches, in float64.

  It merges the mean and the scatter matrix of each batch with those of the
  batches before, which is accurate even if the mean is large.

  Args:
    batches: Styles.
    w_dim: Number of features.

  Raises:
    ValueError: If there are fewer than two styles.
  """
  number, mean = 0, np.zeros(w_dim)
  scatter = np.zeros((w_dim, w_dim))
  for batch in batches:
    x = np.asarray(batch, np.float64)
    n, center = len(x), x.mean(0)
    x = x - center
    offset = center - mean
    total = number + n
    scatter += x.T @ x + np.outer(offset, offset) * (number * n / total)
    mean, number = mean + offset * (n / total), total
  if number < 2:
    raise ValueError(f'there must be at least 2 styles, got {number}')
  return scatter / (number - 1)


def rename(
  directions: Sequence[Direction], names: Iterable[str]
) -> list[Direction]:
  """Names directions by number, from texts such as `smile=3`.

  Raises:
    ValueError: If a text is malformed, a number out of range, or a name taken.
  """
  result = list(directions)
  for text in names:
    name, _, number = text.partition('=')
    is_number = number.isascii() and number.isdecimal()
    if not name or ':' in name or not is_number or int(number) >= len(result):
      raise ValueError(
        'a name must be NAME=NUMBER, with a number within '
        f'0..{len(result) - 1} and no colon, got {text!r}'
      )
    result[int(number)] = dataclasses.replace(result[int(number)], name=name)
  taken = [direction.name for direction in result]
  for name in taken:
    if taken.count(name) > 1:
      raise ValueError(
        f'the names of directions must differ, got several of {name!r}: choose '
        'another name'
      )
  return result


def parse_edits(
  texts: Iterable[str], directions: Sequence[Direction]
) -> list[tuple[Direction, float]]:
  """Returns the directions and strengths of texts such as `smile:2.5`.

  Raises:
    ValueError: If a text is malformed or there is no such direction.
  """
  known = {direction.name: direction for direction in directions}
  edits = []
  for text in texts:
    name, _, number = text.rpartition(':')
    try:
      strength = float(number)
    except ValueError:
      strength = np.nan
    if not name or not abs(strength) <= model_lib.MAX_PSI:
      raise ValueError(
        'a direction must be NAME:STRENGTH, with a strength within '
        f'+-{model_lib.MAX_PSI}, got {text!r}'
      )
    if name not in known:
      raise ValueError(
        f'there is no direction {name!r}: choose from {", ".join(known)}'
      )
    edits.append((known[name], strength))
  return edits
