"""Dtypes that sums and scales are computed in."""

from typing import Any

import jax.numpy as jnp


def widen(*dtypes: Any) -> jnp.dtype:
  """Returns float64 if one of the float dtypes is that, else float32.

  Unlike `jnp.promote_types`, under any `jax_numpy_dtype_promotion`.
  """
  is_double = any(jnp.dtype(dtype) == jnp.float64 for dtype in dtypes)
  return jnp.dtype(jnp.float64 if is_double else jnp.float32)
