"""Chooses the styles from which projection starts."""

import functools

import jax
import numpy as np
from jaxtyping import Float

from sg3jax import model as model_lib
from sg3jax.editing import ws as ws_lib
from sg3jax.inversion import losses
from sg3jax.types import AnyArray

# Images generated at a time.
_BATCH = 16

# Truncation of the candidates: atypical ones are poor starts.
_PSI = 0.7


class Starts:
  """Finds the closest of many random images for each target.

  Optimisation only improves what it starts from. In particular, it hardly
  corrects a wrong pose.
  """

  def __init__(
    self,
    model: model_lib.Model,
    loss: losses.Loss,
    count: int,
    *,
    seed: int = 0,
    label: Float[AnyArray, ' classes'] | None = None,
  ):
    """Chooses the candidates.

    Args:
      model: The model.
      loss: The distance.
      count: Number of candidates besides the mean; 0 for none.
      seed: Random seed.
      label: Label of the candidates; random classes by default.
    """
    self._model, self._loss, self._count = model, loss, count
    self._sample = functools.partial(
      ws_lib.sample, model, seed=seed, label=label
    )

  def __call__(
    self, targets: Float[AnyArray, 'n h w c'], mean: Float[np.ndarray, ' d']
  ) -> tuple[
    Float[np.ndarray, 'n l d'],
    Float[np.ndarray, ' n'],
    Float[np.ndarray, ' n'],
  ]:
    """Returns the starts, the loss of the mean image, and that of the starts.

    Args:
      targets: Images in [-1, 1].
      mean: The mean style.
    """
    candidates = mean[None]
    if self._count:
      w = np.concatenate(list(self._sample(self._count)))[: self._count]
      candidates = np.concatenate([candidates, mean + _PSI * (w - mean)])
    distances = []
    for first in range(0, len(candidates), _BATCH):
      # Pad the last batch, so that all batches use one program.
      index = (first + np.arange(_BATCH)) % len(candidates)
      ws = np.repeat(candidates[index, None], self._model.num_ws, axis=1)
      images = self._model.synthesis(ws)
      distances.append(self._distances(targets, images))
    table = np.concatenate(distances, axis=1)[:, : len(candidates)]
    closest = np.argmin(table, axis=1)
    start = np.repeat(
      candidates[closest, None], self._model.num_ws, axis=1
    ).astype(np.float32)
    return start, table[:, 0], np.min(table, axis=1)

  @functools.cached_property
  def _distances(self):
    """Returns the jitted function from images to a table of distances."""

    def distances(targets, images):
      def of_target(target):
        return self._loss(images, jax.numpy.broadcast_to(target, images.shape))

      return jax.lax.map(of_target, targets)

    function = jax.jit(distances)
    return lambda *args: np.asarray(function(*args))
