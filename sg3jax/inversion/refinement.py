"""The last phase of projection: a quasi-Newton method.

Styles act on an image very unequally, and the errors of one can be made up for
by others. Adam, which scales each number alone, then advances ever more slowly.
L-BFGS also learns how they act together, from the last steps. It needs a good
start, and a smooth function without noise, so it only finishes.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax import flatten_util

Params = dict[str, Any]

# Steps that the method remembers.
_MEMORY = 20


def minimize(
  function: Callable[[Params], tuple[Any, Params]], params: Params, steps: int
) -> Params:
  """Returns parameters for which a function is smaller, or equal.

  Args:
    function: Maps parameters to a value, at least 0, and its gradients.
    params: The start; a dictionary of float32 arrays.
    steps: Largest number of evaluations of the function, about.
  """
  x, unravel = flatten_util.ravel_pytree(params)
  first = float(function(params)[0])
  if not 0 < first < np.inf:
    return params

  def of_vector(x: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradients = function(unravel(jnp.asarray(x, jnp.float32)))
    slope, _ = flatten_util.ravel_pytree(gradients)
    # Tolerances of the method are absolute.
    return float(value) / first, np.asarray(slope, np.float64) / first

  result = scipy.optimize.minimize(
    of_vector,
    np.asarray(x, np.float64),
    jac=True,
    method='L-BFGS-B',
    options={
      'maxfun': steps,
      'maxiter': steps,
      'maxcor': _MEMORY,
      'ftol': 0.0,
      'gtol': 0.0,
    },
  )
  if not result.fun < 1:
    return params
  return unravel(jnp.asarray(result.x, jnp.float32))
