"""Batches that a CPU computes a few images at a time.

Operators that make signals larger than their operands are several times faster
if those fit in the cache of a core, and every block uses the same memory again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sg3jax.ops import explicit
from sg3jax.ops.dtypes import widen
from sg3jax.types import Array

# The signal of a block has at most this size, unless that of one image is
# larger. Current cores have a second-level cache of 1 or 2 MiB, and share more.
_MAX_BYTES = 2**22


def map_images(
  function: Callable[..., Array], image_bytes: int, *operands: Any
) -> Array:
  """Returns function(*operands), computed a block of images at a time.

  The whole batch is one block if the compiler partitions it over devices.

  Args:
    function: Function of the operands that acts on each image separately.
    image_bytes: Size of the largest signal of `function` for one image.
    *operands: Trees of arrays [n, ...].
  """
  count = _count(image_bytes, operands)
  if count == 1:
    return function(*operands)
  y = lax.map(lambda block: function(*block), _split(operands, count))
  return y.reshape(-1, *y.shape[2:])


def sum_images(
  function: Callable[..., Array], image_bytes: int, *operands: Any
) -> Array:
  """Returns function(*operands), a sum over images, as `map_images` does.

  Blocks are added up in float32 or wider.
  """
  count = _count(image_bytes, operands)
  if count == 1:
    return function(*operands)
  parts = _split(operands, count)
  like = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], parts))

  def add(total: Array, block: Any) -> tuple[Array, None]:
    return total + function(*block).astype(total.dtype), None

  zeros = jnp.zeros(like.shape, widen(like.dtype))
  return lax.scan(add, zeros, parts)[0].astype(like.dtype)


def _count(image_bytes: int, operands: Any) -> int:
  """Returns the number of blocks, equal in size, of a batch."""
  n = jax.tree.leaves(operands)[0].shape[0]
  # The size is a symbol in an exported program.
  if not isinstance(n, int) or n == 0 or explicit.open_axes():
    return 1
  most = max(_MAX_BYTES // max(image_bytes, 1), 1)
  return next(count for count in range(-(-n // most), n + 1) if not n % count)


def _split(operands: Any, count: int) -> Any:
  return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), operands)
