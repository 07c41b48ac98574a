"""Derivatives of `filtered_lrelu` to any order, from three chains.

The operator y = D act(U x) has the derivative

  dy = D M(U x) U t            the tangent chain, linear in t
  dx = U^T M(U x) D^T g        the backward chain, linear in g

with M the diagonal mask of slopes. Each of the two is the transpose of the
other, and M is constant almost everywhere, so reverse mode needs no further
chains: the gradient of `backward` is `tangent`, that of `tangent` is
`backward`, and neither has a gradient through M. Only x is saved between the
passes. U x, at the middle rate, is computed again, because storing a mask of it
would take memory that limits the batch.

With factors and a bias, y = o D act(U (s x + b)). The chains then act on
s x + b, g is multiplied by o, and the gradients of s, b and o are sums over
pixels. The gradient of o is computed as the sum of g y / o, because y is stored
and D act(U (s x + b)) is not.
"""

from collections.abc import Callable
from typing import Any

import jax

from sg3jax.ops.filtered_lrelu import partition, scaling
from sg3jax.ops.filtered_lrelu.plan import Chain, Plan
from sg3jax.ops.filtered_lrelu.scaling import Scaling
from sg3jax.ops.modulated_conv import scale_channels
from sg3jax.types import AnyArray, Array


def differentiable(run: Callable[..., Array]) -> Callable[..., Array]:
  """Returns (plan, x, s, b, o) -> o D act(U (s x + b)), differentiable.

  It is differentiable in reverse mode, to any order, in x [n, h, w, c], the
  factors s and o, [n, c] or None, and the bias b, [c] or None. s, b and o are
  optional.

  Args:
    run: Function (chain, *operands, scaling=) -> result of the chain, in the
      dtype of the operands.
  """
  chains = _Chains(partition.over_parts(run))

  def call(
    plan: Plan,
    x: AnyArray,
    s: Array | None = None,
    b: Array | None = None,
    o: Array | None = None,
  ) -> Array:
    return chains.primal(plan, *partition.align(x, s, b, o))

  return call


class _Chains:
  """The three chains of a plan as functions, each with its derivatives.

  Attributes:
    primal: (plan, x, s, b, o) -> o D act(U (s x + b)).
    pull: (plan, x, s, b, g, o) -> the gradient in s x + b for a cotangent g.
    push: (plan, x, s, b, t) -> the tangent of the primal, without o, for a
      tangent t of s x + b.
  """

  def __init__(self, run: Callable[..., Array]):
    self.primal = _chain(
      'forward',
      lambda chain, x, s, b, o: run(
        chain, x, scaling=Scaling((s, None), b, result=o)
      ),
    )
    self.pull = _chain(
      'backward',
      lambda chain, x, s, b, g, o: run(chain, x, g, scaling=Scaling((s, o), b)),
    )
    self.push = _chain(
      'tangent',
      lambda chain, x, s, b, t: run(chain, x, t, scaling=Scaling((s, None), b)),
    )
    self.primal.defvjp(self._primal_forward, self._primal_backward)
    self.pull.defvjp(
      lambda plan, *operands: (self.pull(plan, *operands), operands),
      self._pull_backward,
    )
    self.push.defvjp(
      lambda plan, x, s, b, t: (self.push(plan, x, s, b, t), (x, s, b)),
      self._push_backward,
    )

  def _primal_forward(self, plan, x, s, b, o):
    y = self.primal(plan, x, s, b, o)
    return y, (x, s, b, o, None if o is None else y)

  def _primal_backward(self, plan, saved, g):
    x, s, b, o, y = saved
    d = self.pull(plan, x, s, b, g, o)  # With respect to s x + b.
    return (
      scale_channels(d, s),
      None if s is None else scaling.sum_pixels(d, x).astype(s.dtype),
      None if b is None else scaling.sum_pixels(d).sum(0).astype(b.dtype),
      None
      if o is None
      else scaling.divide(scaling.sum_pixels(g, y), o).astype(o.dtype),
    )

  # In the next two functions, None is the zero gradient of arguments of a mask.

  def _pull_backward(self, plan, saved, t):
    x, s, b, g, o = saved
    d = self.push(plan, x, s, b, t)  # With respect to o g.
    return (
      None,
      None,
      None,
      scale_channels(d, o),
      None if o is None else scaling.sum_pixels(d, g).astype(o.dtype),
    )

  def _push_backward(self, plan, saved, g):
    return None, None, None, self.pull(plan, *saved, g, None)


def _chain(direction: str, call: Callable[..., Array]) -> Any:
  """Returns (plan, *operands) -> one chain, which has no VJP rules yet."""

  def apply(plan: Plan, *operands: AnyArray | None) -> Array:
    chain: Chain = getattr(plan, direction)
    return call(chain, *operands)

  return jax.custom_vjp(apply, nondiff_argnums=(0,))
