"""Dtypes in which sums and scales are computed."""

from typing import Any

import jax.numpy as jnp


def widen(*dtypes: Any) -> jnp.dtype:
  """Returns float64 if one of the float dtypes is float64, else float32.

  Unlike `jnp.promote_types`, it works under any `jax_numpy_dtype_promotion`.
  """
  is_double = any(jnp.dtype(dtype) == jnp.float64 for dtype in dtypes)
  return jnp.dtype(jnp.float64 if is_double else jnp.float32)
