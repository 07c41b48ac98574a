"""Shields a run's numerics from JAX's global settings."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def standard_numerics() -> Iterator[None]:
  """Uses JAX's default numerics in this context, for this thread.

  A run needs float32 states, and Optax mixes types. JAX_ENABLE_X64,
  JAX_NUMPY_DTYPE_PROMOTION=strict and JAX_NUMPY_RANK_PROMOTION=raise would
  change or forbid that. Other settings stay as the user chose them.
  """
  with (
    jax.enable_x64(False),
    jax.numpy_dtype_promotion('standard'),
    jax.numpy_rank_promotion('allow'),
  ):
    yield
