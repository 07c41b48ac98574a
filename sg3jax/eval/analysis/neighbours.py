"""The nearest real images of generated ones, which reveal memorisation."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from sg3jax.types import AnyArray, ImagesU8

# Side of the low-pass images whose pixels serve as features.
LOW_PASS = 16

_ROWS = 4096  # Rows of the matrix of distances that are computed at a time.


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """The nearest references of each query.

  Attributes:
    indices: Indices of the references, nearest first, [n, k].
    distances: Euclidean distances, [n, k].
  """

  indices: Int[np.ndarray, 'n k']
  distances: Float[np.ndarray, 'n k']


def find_nearest(
  queries: Float[AnyArray, 'n d'],
  references: Float[AnyArray, 'm d'],
  k: int,
  *,
  skip_same: bool = False,
) -> Neighbours:
  """Returns the k nearest references of each query.

  Args:
    queries: Features of the queries.
    references: Features to search in.
    k: Number of neighbours.
    skip_same: Whether query i is reference i, which does not count.

  Raises:
    ValueError: If there are fewer than k references to choose from.
  """
  available = len(references) - skip_same
  if not 1 <= k <= available:
    raise ValueError(
      f'k must be 1 to {available}, the number of references, got {k}'
    )
  # The distance is the difference of two large numbers: use float64.
  queries = np.asarray(queries, np.float64)
  parts = []
  for start in range(0, len(references), _ROWS):
    block = np.asarray(references[start : start + _ROWS], np.float64)
    squares = (
      np.square(queries).sum(1)[:, None]
      - 2 * queries @ block.T
      + np.square(block).sum(1)
    )
    if skip_same:
      same = np.arange(len(queries)) - start
      rows = np.flatnonzero((same >= 0) & (same < len(block)))
      squares[rows, same[rows]] = np.inf
    # Keep only the k nearest of each block. A stable sort takes the first of
    # equal references, whatever the blocks.
    order = np.argsort(squares, axis=1, kind='stable')[:, :k]
    parts.append((order + start, np.take_along_axis(squares, order, axis=1)))
  indices = np.concatenate([part[0] for part in parts], axis=1)
  squares = np.concatenate([part[1] for part in parts], axis=1)
  order = np.argsort(squares, axis=1, kind='stable')[:, :k]
  squares = np.take_along_axis(squares, order, axis=1)
  return Neighbours(
    np.take_along_axis(indices, order, axis=1),
    np.sqrt(np.maximum(squares, 0)),
  )


def novelty(
  generated: Float[AnyArray, ' n'], real: Float[AnyArray, ' m']
) -> float:
  """Returns how far generated images are from the reals, as a ratio.

  Args:
    generated: Distances of generated images to their nearest reals.
    real: Distances of reals to their nearest other reals.

  Returns:
    The ratio of the medians: 0 for copies, about 1 for images that are as
    different from the reals as these are from each other. NaN if half of the
    reals are duplicates.
  """
  median = np.median(np.asarray(real))
  return float(np.median(generated) / median) if median else float('nan')


def low_pass_pixels(images: ImagesU8) -> Float[np.ndarray, 'n d']:
  """Returns the pixels of images reduced by averaging, as features.

  They are a simple substitute for the features of a network: they compare
  composition and colour, not content.

  Args:
    images: uint8 [n, h, w, c] of any size.

  Returns:
    Float32 [n, 16 * 16 * c], in [0, 1].
  """
  size = (min(LOW_PASS, images.shape[2]), min(LOW_PASS, images.shape[1]))
  planes = np.moveaxis(images, 3, 1).reshape(-1, *images.shape[1:3])
  reduced = [
    np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX))
    for plane in planes
  ]
  return (np.stack(reduced).reshape(len(images), -1) / 255).astype(np.float32)
