"""Computes the mean and the spread of the values in a tick's steps.

A jitted step returns, for each name, the moments `[count, sum, sum of squares]`
of that step's values. Moments of steps add up, so a tick's mean and standard
deviation are those of all its values, not a mean of means. This holds for any
batch sizes, and for terms that only some of the steps evaluate.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from sg3jax.types import AnyArray, Array

# Statistics by name, as in a line of `stats.jsonl`.
Stats = dict[str, dict[str, float | int]]


def moments(x: Num[AnyArray, '...']) -> Float[Array, 'moments=3']:
  """Returns the moments of all values of `x`, for a jitted step to report.

  Args:
    x: Values of any shape and real dtype, such as a batch of losses. The
      moments of a sharded array are those of the global array.

  Returns:
    `[count, sum, sum of squares]`, float32 for any dtype of `x`.
  """
  x = jnp.asarray(x, jnp.float32)
  return jnp.stack([jnp.float32(x.size), jnp.sum(x), jnp.sum(jnp.square(x))])


def no_moments() -> Float[Array, 'moments=3']:
  """Returns the moments of an empty set of values."""
  return jnp.zeros(3)


class Accumulator:
  """Collects the moments of a tick without making the device wait.

  `add` only keeps references to arrays that may not be computed yet. The only
  transfer of a tick happens in `result`. Steps are summed on the host in
  float64, so a long tick loses no digits that a step had.
  """

  def __init__(self):
    self._steps: list[Mapping[str, Float[AnyArray, 'moments=3']]] = []

  def add(self, step: Mapping[str, Float[AnyArray, 'moments=3']]) -> None:
    """Adds the moments of one step: name -> `[count, sum, sum of squares]`.

    The names may differ from step to step.
    """
    self._steps.append(dict(step))

  def result(self) -> Stats:
    """Ends the tick: waits for its steps, then starts an empty tick.

    Returns:
      name -> `{'num', 'mean', 'std'}` in order of first appearance: the number
      of values, their mean and their population standard deviation. Names
      without a single value are left out.
    """
    steps, self._steps = jax.device_get(self._steps), []
    totals: dict[str, np.ndarray] = {}
    for step in steps:
      for name, value in step.items():
        total = totals.setdefault(name, np.zeros(3, np.float64))
        total += np.asarray(value, np.float64)
    return {k: _summary(total) for k, total in totals.items() if total[0] > 0}


def summarize(values: Mapping[str, float | int]) -> Stats:
  """Returns plain numbers in the form of `result`, with one value each.

  This records rates, counters and memory together with the losses.
  """
  return {
    name: {'num': 1, 'mean': float(value), 'std': 0.0}
    for name, value in values.items()
  }


def _summary(moments: np.ndarray) -> dict[str, float | int]:
  num, total, squares = moments
  with np.errstate(invalid='ignore'):
    mean = total / num
    # Rounding can make the variance of equal values slightly negative. A NaN
    # passes through `maximum`, as it should: a diverged run must not look
    # healthy.
    std = np.sqrt(np.maximum(squares / num - mean**2, 0.0))
  return {'num': int(num), 'mean': float(mean), 'std': float(std)}
