"""Derivatives of `filtered_lrelu` to any order, from three chains.

The operator y = D act(U x) has the derivative

  dy = D M(U x) U t            the tangent chain, linear in t
  dx = U^T M(U x) D^T g        the backward chain, linear in g

with M the diagonal mask of slopes. Each of the two is the other's transpose,
and M is constant almost everywhere, so reverse mode closes over them: the
gradient of `backward` is `tangent`, that of `tangent` is `backward`, and
neither has one through M. Only x is kept between the passes; U x, at the middle
rate, is computed again, as storing a mask of it would take memory that limits
the batch.
"""

from collections.abc import Callable
from typing import Any, cast

import jax

from sg3jax.ops.filtered_lrelu.plan import Chain, Plan
from sg3jax.types import AnyArray, Array


def differentiable(
  run: Callable[..., Array],
) -> Callable[[Plan, AnyArray], Array]:
  """Returns (plan, x) -> D act(U x) with reverse-mode derivatives of any order.

  Args:
    run: (chain, *operands) -> the chain's result, of the operands' dtype.
  """

  def chain_of(direction: str) -> Any:
    def call(plan: Plan, *operands: AnyArray) -> Array:
      chain: Chain = getattr(plan, direction)
      return run(chain, *operands)

    return jax.custom_vjp(call, nondiff_argnums=(0,))

  primal = chain_of('forward')
  pull = chain_of('backward')
  push = chain_of('tangent')

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
