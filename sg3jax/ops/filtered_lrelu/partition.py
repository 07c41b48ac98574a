"""Runs a chain on each device's part of a batch.

A compiler cannot partition a kernel: under plain `jit` it would gather the
batch on every device, or fail. The operator acts on each sample separately, so
each device runs the kernel on its own samples.

On a mesh of Auto axes, the batch is sharded over the axis 'data' by convention.
On a mesh of Explicit axes, the types of the arrays hold their sharding, and
every implementation runs on the parts that each device has.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from sg3jax.ops import explicit
from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.types import DATA_AXIS, AnyArray, Array


def obstacle() -> str | None:
  """Returns why a kernel cannot run on the context's mesh, or None."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = explicit.open_axes()
  if axes and DATA_AXIS not in mesh.axis_names:
    return (
      f'the mesh must have an axis {DATA_AXIS!r}, got axes '
      f'{", ".join(map(repr, mesh.axis_names))}'
    )
  return None


def over_batch(run: Callable[..., Array]) -> Callable[..., Array]:
  """Returns `run`, (chain, *operands, scaling=) -> result, sharded by samples.

  The mesh is that of the context (`jax.set_mesh`). The batch is sharded over
  its axis 'data'; along other axes all devices compute the same. `run` is
  called unchanged if nothing is left to partition: without a mesh, on one
  device, or if `jax.shard_map` has taken all axes. A batch that cannot be
  divided evenly (under `jax.vmap`, the part that is not mapped over, unless
  `spmd_axis_name` names the axis) is computed whole by every device. Call it
  only if there is no `obstacle`.
  """

  def sharded(
    chain: Chain, *operands: AnyArray, scaling: Scaling = NONE
  ) -> Array:
    axes = explicit.open_axes()
    if not axes:
      return run(chain, *operands, scaling=scaling)
    is_even = operands[0].shape[0] % axes.get(DATA_AXIS, 1) == 0
    spec = P(DATA_AXIS) if is_even and DATA_AXIS in axes else P()
    of_scaling = jax.tree.map(lambda _: spec, scaling)
    if scaling.bias is not None:
      of_scaling = of_scaling._replace(bias=P())
    return jax.shard_map(
      lambda scaling, *parts: run(chain, *parts, scaling=scaling),
      in_specs=(of_scaling, *(spec,) * len(operands)),
      out_specs=spec,
      axis_names=set(axes),
      check_vma=False,  # Interpreted kernels do not say over what they vary.
    )(scaling, *operands)

  return sharded


def align(
  x: AnyArray, s: Array | None, b: Array | None, o: Array | None
) -> tuple[AnyArray, Array | None, Array | None, Array | None]:
  """Returns operands sharded only by samples and channels, like x.

  They are returned unchanged unless x is on a mesh of Explicit axes.

  Args:
    x: Feature maps [n, h, w, c].
    s: Factors [n, c], or None.
    b: Bias [c], or None.
    o: Factors [n, c], or None.
  """
  if not explicit.axes(x):
    return x, s, b, o
  n, _, _, c = explicit.spec_of(x)

  def put(value: Any, *spec: Any) -> Any:
    return None if value is None else explicit.reshard(value, x, *spec)

  return put(x, n, None, None, c), put(s, n, c), put(b, c), put(o, n, c)


def over_parts(run: Callable[..., Array]) -> Callable[..., Array]:
  """Returns `run`, (chain, *operands, scaling=) -> result, for Explicit axes.

  On a mesh of Explicit axes, each device runs it on its own samples and
  channels. Operands must be sharded as by `align`; the result is sharded the
  same way. Elsewhere `run` is called unchanged.
  """

  def sharded(
    chain: Chain, *operands: AnyArray, scaling: Scaling = NONE
  ) -> Array:
    axes = explicit.axes(operands[0])
    if not axes:
      return run(chain, *operands, scaling=scaling)
    sharding = jax.typeof(operands[0]).sharding
    return jax.shard_map(
      lambda scaling, *parts: run(chain, *parts, scaling=scaling),
      mesh=sharding.mesh,
      out_specs=sharding.spec,
      axis_names=axes,
      check_vma=False,
    )(scaling, *operands)

  return sharded
