"""The real images of a report, in random order."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, UInt8

from sg3jax import text
from sg3jax.data import sources
from sg3jax.types import ImagesU8

_BATCH = 64  # Images that are read at a time.


class Reals:
  """Real images in a random order, which depends only on the seed.

  Attributes:
    source: The images in their own order.
  """

  def __init__(self, source: sources.ImageSource, seed: int):
    self.source = source
    self._order = np.random.RandomState(seed).permutation(len(source))

  def __len__(self) -> int:
    return len(self.source)

  def batches(self, count: int) -> Iterator[ImagesU8]:
    """Yields the first `count` images in batches, or all if there are fewer."""
    count = min(count, len(self))
    for start in range(0, count, _BATCH):
      stop = min(start + _BATCH, count)
      yield np.stack([self.image(place) for place in range(start, stop)])

  def image(self, place: int) -> UInt8[np.ndarray, 'h w c']:
    """Returns the image at a place of the random order."""
    return self.source[int(self._order[place])]['image']


def prepare(
  source: sources.ImageSource,
  seed: int,
  *,
  channels: int,
  label: Float[np.ndarray, ' classes'] | None = None,
) -> Reals:
  """Returns the real images to compare generated ones with.

  Args:
    source: The images.
    seed: Random seed of their order.
    channels: Number of channels of the generated images.
    label: The label of the generated images. If it is that of a class, only
      real images of the class are used.

  Raises:
    ValueError: If the number of channels is another one, or the class has no
      real images.
  """
  if source.channels != channels:
    raise ValueError(
      f'the real images must have {text.counted(channels, "channel")}, as '
      f'those of the models, got {source.channels} ({source.name}): convert '
      'them, or use other models'
    )
  labels = source.labels() if label is not None and source.label_dim else None
  if labels is None or not labels.has_classes:
    return Reals(source, seed)
  assert label is not None
  rows = np.flatnonzero(labels.values == int(label.argmax()))
  if not len(rows):
    raise ValueError(
      f'the real images must contain the class {int(label.argmax())}, got none '
      f'of it in {source.name}: choose another class'
    )
  return Reals(sources.Subset(source, rows), seed)
