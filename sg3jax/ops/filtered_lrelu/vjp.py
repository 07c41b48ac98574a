"""Derivatives of `filtered_lrelu` to any order, from three kernels.

The operator y = D act(U x) has the derivative

  dy = D M(U x) U t            the tangent kernel, linear in t
  dx = U^T M(U x) D^T g        the backward kernel, linear in g

with M the diagonal mask of slopes. Each of the two is the other's transpose,
and M is constant almost everywhere, so reverse mode closes over them: the
gradient of `backward` is `tangent`, that of `tangent` is `backward`, and
neither has one through M. Only x is kept between the passes; recomputing U x
costs less than storing even one byte of mask per upsampled sample.
"""

import functools
from collections.abc import Callable
from typing import cast

import jax

from sg3jax.ops.filtered_lrelu.plan import Plan
from sg3jax.types import AnyArray, Array


def differentiable(
  *,
  forward: Callable[[Plan, AnyArray], Array],
  backward: Callable[[Plan, AnyArray, AnyArray], Array],
  tangent: Callable[[Plan, AnyArray, AnyArray], Array],
) -> Callable[[Plan, AnyArray], Array]:
  """Returns `forward` with reverse-mode derivatives of every order.

  Args:
    forward: (plan, x) -> y = D act(U x).
    backward: (plan, x, g) -> U^T M D^T g, of the shape and dtype of x.
    tangent: (plan, x, t) -> D M U t, of the shape and dtype of y.
  """

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def primal(plan: Plan, x: AnyArray) -> Array:
    return forward(plan, x)

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def pull(plan: Plan, x: AnyArray, g: AnyArray) -> Array:
    return backward(plan, x, g)

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
  def push(plan: Plan, x: AnyArray, t: AnyArray) -> Array:
    return tangent(plan, x, t)

  # None is the zero gradient of the source of a mask.
  primal.defvjp(
    lambda plan, x: (primal(plan, x), x),
    lambda plan, x, g: (pull(plan, x, g),),
  )
  pull.defvjp(
    lambda plan, x, g: (pull(plan, x, g), x),
    lambda plan, x, t: (None, push(plan, x, t)),
  )
  push.defvjp(
    lambda plan, x, t: (push(plan, x, t), x),
    lambda plan, x, g: (None, pull(plan, x, g)),
  )
  return cast(Callable[[Plan, AnyArray], Array], primal)
