"""Perceptual path length: how evenly images change with the latent.

Karras et al. 2019 (arXiv 1812.04948), section 4.1: two images, of latents that
differ by a small step along a path between two random ones, are compared by a
perceptual distance. Its mean, over the squared step, is the path length.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sg3jax.eval import image_generator as image_generator_lib
from sg3jax.types import AnyArray, Array, Images, Variables

_MOST_PIXELS = 256  # Larger images are reduced to this size.
_PERCENTILES = 1, 99  # Distances beyond these are left out of the mean.


@dataclasses.dataclass(frozen=True)
class Distance:
  """A distance between images, and the weights that it needs.

  Attributes:
    apply: Maps the weights and two batches of images in [-1, 1] to their
      squared distances [n]. It is traced.
    variables: The weights, on the devices. They are an argument, because as
      constants they would be compiled into the program.
  """

  apply: Callable[[Variables, Array, Array], Array]
  variables: Variables = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A rule that chooses paths.

  Attributes:
    space: 'z' (paths on the sphere of latents) or 'w' (straight paths).
    sampling: 'full' (anywhere on the path) or 'end' (at its beginning).
    crop: Whether only the centre of images counts, where faces are.
    epsilon: The step, as a fraction of the path.
  """

  space: str
  sampling: str
  crop: bool
  epsilon: float = 1e-4


def measure(
  images: image_generator_lib.ImageGenerator,
  variables: Variables,
  pairs: Iterator[tuple[AnyArray, AnyArray, AnyArray, AnyArray | None]],
  distance: Distance,
  protocol: Protocol,
) -> Float[np.ndarray, ' n']:
  """Returns the scaled distance of each pair.

  Args:
    images: Generates the images.
    variables: The generator's variables.
    pairs: Batches of at most `images.batch_size` pairs: latents z0 and z1
      [n, z], positions on the path [n], which count only for the sampling
      'full', and labels [n, classes] or None.
    distance: Compares images that are cropped and reduced to 256 pixels.
    protocol: The rule that chooses paths.
  """
  compare = _comparison(distance.apply, protocol.crop, images.mesh)
  found = []
  for z0, z1, t, c in pairs:
    n = len(z0)
    # Pad, so that one program serves all batches.
    rows = np.minimum(np.arange(images.batch_size), n - 1)
    ends = _steps(
      images,
      variables,
      np.asarray(z0)[rows],
      np.asarray(z1)[rows],
      np.asarray(t)[rows],
      None if c is None else np.asarray(c)[rows],
      protocol,
    )
    a, b = (images.synthesize_batch(variables, ws) for ws in ends)
    found.append(np.asarray(compare(distance.variables, a, b))[:n])
  return np.concatenate(found).astype(np.float64) / protocol.epsilon**2


@functools.lru_cache(maxsize=8)  # Later snapshots need no compilation.
def _comparison(
  apply: Callable[[Variables, Array, Array], Array],
  crop: bool,
  mesh: jax.sharding.Mesh,
) -> Callable[[Variables, Images, Images], Array]:
  """Returns the compiled distance of prepared images."""

  def compare(variables: Variables, a: Array, b: Array) -> Array:
    return apply(variables, prepare(a, crop), prepare(b, crop))

  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.jit(compare, out_shardings=whole)


def value(distances: Float[np.ndarray, ' n']) -> float:
  """Returns the mean of the distances within the percentiles 1 to 99."""
  low = np.percentile(distances, _PERCENTILES[0], method='lower')
  high = np.percentile(distances, _PERCENTILES[1], method='higher')
  inside = (distances >= low) & (distances <= high)
  return float(distances[inside].mean())


def slerp(
  a: Float[AnyArray, 'n z'],
  b: Float[AnyArray, 'n z'],
  t: Float[AnyArray, 'n 1'],
) -> Float[np.ndarray, 'n z']:
  """Returns unit vectors on the great circle from a (t = 0) to b (t = 1).

  The weights of the unit vectors of a and b, at an angle o, are sin((1 - t) o)
  and sin(t o), over sin o.
  """
  a, b = (
    np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
    for x in (a, b)
  )
  angle = np.arccos(np.clip((a * b).sum(1, keepdims=True), -1, 1))
  result = np.sin((1 - t) * angle) * a + np.sin(t * angle) * b
  return result / np.linalg.norm(result, axis=1, keepdims=True)


def prepare(x: Images, crop: bool) -> Array:
  """Crops images to their centre and reduces them to 256 pixels, if larger.

  The crop keeps the rows from 3/8 to 7/8 and the columns from 2/8 to 6/8.
  """
  x = jnp.asarray(x)
  if crop:
    unit = x.shape[1] // 8
    x = x[:, 3 * unit : 7 * unit, 2 * unit : 6 * unit]
  factor = x.shape[1] // _MOST_PIXELS
  if factor > 1:
    n, h, w, c = x.shape
    x = x.reshape(n, h // factor, factor, w // factor, factor, c).mean((2, 4))
  return x


def _steps(
  images: image_generator_lib.ImageGenerator,
  variables: Variables,
  z0: Float[np.ndarray, 'n z'],
  z1: Float[np.ndarray, 'n z'],
  t: Float[np.ndarray, ' n'],
  c: Float[np.ndarray, 'n classes'] | None,
  protocol: Protocol,
) -> tuple[Float[np.ndarray, 'n l d'], Float[np.ndarray, 'n l d']]:
  """Returns the styles of both ends of a step on each path."""
  t = t.astype(np.float64)[:, None] * (protocol.sampling == 'full')
  after = t + protocol.epsilon
  if protocol.space == 'z':
    scale = math.sqrt(z0.shape[1])  # The mapping normalizes latents anyway.
    start, end = (
      images.styles(variables, (scale * slerp(z0, z1, x)).astype(np.float32), c)
      for x in (t, after)
    )
    return start, end
  w0, w1 = (
    images.styles(variables, z.astype(np.float32), c).astype(np.float64)
    for z in (z0, z1)
  )
  start, end = (
    (w0 + (w1 - w0) * x[:, :, None]).astype(np.float32) for x in (t, after)
  )
  return start, end
