"""Computes the gradients of a batch in successive micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sg3jax.train import sharding
from sg3jax.types import Array, Tree

# Maps (params, rows) to (mean loss over the rows, anything else).
LossFn = Callable[[Tree, Any], tuple[Array, Any]]


def gradients(
  loss_fn: LossFn,
  params: Tree,
  rows: Any,
  *,
  micro_batches: int = 1,
  group: int = 1,
) -> tuple[Tree, Any]:
  """Returns the gradients of the mean loss over a batch, and its other outputs.

  Only one micro-batch's intermediate results are in memory at a time. The
  gradients equal those of the whole batch, up to rounding, if the loss of a row
  depends only on the rows of its group. Random numbers must be in the rows too.

  Args:
    loss_fn: Returns the mean loss over rows, and a tree of other arrays.
    params: The parameters to differentiate with respect to.
    rows: A tree of arrays whose first axis is the batch.
    micro_batches: Number of micro-batches, a divisor of the batch.
    group: Number of rows that must stay together. Among n rows they are
      n / group apart, as in the discriminator's minibatch statistics.

  Returns:
    The gradients, and the stacked trees of all micro-batches.

  Raises:
    ValueError: If the micro-batches cannot consist of whole groups.
  """
  grad_fn = jax.grad(loss_fn, has_aux=True)
  if micro_batches == 1:
    grads, extra = grad_fn(params, rows)
    return grads, jax.tree.map(lambda x: x[None], extra)

  def add(total: Tree, rows: Any) -> tuple[Tree, Any]:
    grads, extra = grad_fn(params, sharding.constrain_batch(rows))
    return jax.tree.map(jnp.add, total, grads), extra

  total, extra = jax.lax.scan(
    add,
    jax.tree.map(jnp.zeros_like, params),
    jax.tree.map(lambda x: split(x, micro_batches, group), rows),
  )
  return jax.tree.map(lambda g: g / micro_batches, total), extra


def apply(
  fn: Callable[[Any], Array], rows: Any, *, micro_batches: int
) -> Array:
  """Applies `fn` to each micro-batch and stacks the results."""
  return jax.lax.map(
    lambda rows: fn(sharding.constrain_batch(rows)),
    jax.tree.map(lambda x: split(x, micro_batches, 1), rows),
  )


def split(x: Array, micro_batches: int, group: int) -> Array:
  """Returns [n, ...] as [micro_batches, n / micro_batches, ...].

  Rows that are n / group apart stay together, in their order.
  """
  n = x.shape[0]
  if n % (micro_batches * group):
    raise ValueError(
      f'{n} images cannot be shared by {micro_batches} micro-batches in groups '
      f'of {group}, which the minibatch statistics of the discriminator need: '
      'use fewer micro-batches, or a smaller mbstd_group'
    )
  x = x.reshape(group, micro_batches, -1, *x.shape[1:])
  return jnp.moveaxis(x, 1, 0).reshape(micro_batches, -1, *x.shape[3:])
