"""A data set that is there at once."""

import numpy as np

from sg3jax.data import labels as labels_lib


class Noise:
  """Random images in memory, with one-hot or other labels if asked for."""

  name = 'noise'

  def __init__(
    self, count=20, resolution=16, channels=3, label_dim=0, *, one_hot=True
  ):
    rng = np.random.RandomState(0)
    self.resolution, self.channels = resolution, channels
    self.label_dim = label_dim
    shape = (count, resolution, resolution, channels)
    self._images = rng.randint(0, 256, shape).astype(np.uint8)
    labels = rng.randn(count, label_dim).astype(np.float32)
    if label_dim and one_hot:
      labels = rng.randint(label_dim, size=count)
    self._labels = labels_lib.Labels(labels, label_dim)

  def __len__(self):
    return len(self._images)

  def __getitem__(self, index):
    return {'image': self._images[index], 'label': self._labels[index]}

  def labels(self):
    return self._labels
