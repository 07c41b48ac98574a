"""Imports Mosaic GPU, if it is installed, and wraps some of its functions.

Rows are [64, columns] in registers, in the layout of operands of wgmma.
"""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from sg3jax.ops.filtered_lrelu.gpu.geometry import CHANNELS
from sg3jax.types import Array

# This module can be imported without Mosaic GPU.
pl: Any = None
plgpu: Any = None
with contextlib.suppress(ImportError):
  pl = importlib.import_module('jax.experimental.pallas')
  plgpu = importlib.import_module('jax.experimental.pallas.mosaic_gpu')


def multiply(
  is_interpreted: bool, pairs: Sequence[tuple[Array, Any]], size: int
) -> Array:
  """Returns the sum of a @ b^T: [64, size] float32, b in shared memory."""
  if is_interpreted:  # The interpreter has no wgmma from registers.
    return functools.reduce(
      jnp.add,
      [
        jnp.dot(
          a.astype(jnp.float32),
          b[...].T.astype(jnp.float32),
          precision='highest',
        )
        for a, b in pairs
      ],
    )

  def accumulate(sums):
    for a, b in pairs:
      plgpu.wgmma(sums, a, b.T)
    return sums[...]

  return pl.run_scoped(accumulate, plgpu.ACC((CHANNELS, size), jnp.float32))


def load_vector(vector: Any, image: Any, channel: Any) -> Array:
  """Returns the part [64] of factors [n, c] or a bias [c] for a block."""
  if len(vector.shape) == 2:
    vector = vector.at[image]
  layout = plgpu.Layout.WGMMA.reduce(1)
  vector = vector.at[pl.ds(channel, CHANNELS)]
  return plgpu.load(vector, layout=layout, optimized=False)


def along_rows(vector: Array, like: Array) -> Array:
  """Returns a vector [64] repeated along w, in the shape [64, w] of `like`."""
  return lax.broadcast_in_dim(vector, like.shape, (0,))


def bitcast(x: Array, dtype: Any) -> Array:
  """Returns the bits of x as another dtype of the same size."""
  return x if x.dtype == dtype else lax.bitcast_convert_type(x, dtype)


def add(a: Array | None, b: Array) -> Array:
  """Returns a + b, where None is zero."""
  return b if a is None else a + b


def zeros(width: int) -> Array:
  """Returns a row of zeros, float32."""
  row = jnp.zeros((CHANNELS, width), jnp.float32)
  return plgpu.layout_cast(row, plgpu.Layout.WGMMA)


def row_buffer(dtype: Any, *shape: int) -> Any:
  """Returns a buffer for rows [..., w, 64]."""
  return _buffer((*shape, CHANNELS), dtype, plgpu.SwizzleTransform(128))


def matrix_buffer(shape: tuple[int, ...], dtype: Any) -> Any:
  """Returns a buffer for a matrix whose columns are a multiple of 16."""
  swizzle = next(s for s in (128, 64, 32) if shape[1] % (s // 2) == 0)
  return _buffer(
    shape,
    dtype,
    plgpu.TilingTransform((8, swizzle // 2)),
    plgpu.SwizzleTransform(swizzle),
  )


def _buffer(shape: tuple[int, ...], dtype: Any, *transforms: Any) -> Any:
  # Only the interpreter computes in float32, and it ignores transforms.
  is_narrow = jnp.dtype(dtype).itemsize == 2
  return plgpu.SMEM(shape, dtype, transforms=transforms if is_narrow else ())


def call(
  body: Callable[..., None], out_type: Any, scratch: Any, **options: Any
) -> Callable[..., Array]:
  """Returns `plgpu.kernel` of a body, with the argument names of this JAX."""
  names = ('out_type', 'scratch_types')
  if names[0] not in inspect.signature(plgpu.kernel).parameters:
    names = ('out_shape', 'scratch_shapes')
  return plgpu.kernel(
    body, **dict(zip(names, (out_type, scratch), strict=True)), **options
  )
