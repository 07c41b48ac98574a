"""Runs a kernel on each device's part of a batch.

A compiler does not look into a kernel: under plain `jit` it would gather the
batch on every device, or refuse. The operator acts on each sample alone, so
each device runs the kernel on the samples that it has.
"""

from collections.abc import Callable

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from sg3jax.ops.filtered_lrelu.plan import Chain
from sg3jax.ops.filtered_lrelu.scaling import NONE, Scaling
from sg3jax.types import DATA_AXIS, Array


def open_axes() -> dict[str, int]:
  """Returns the sizes of the mesh's axes that the compiler still partitions."""
  mesh = jax.sharding.get_abstract_mesh()
  return {
    name: mesh.shape[name]
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind != AxisType.Manual and mesh.shape[name] > 1
  }


def obstacle() -> str | None:
  """Returns why a kernel cannot run on the context's mesh, or None."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = open_axes()
  if axes and DATA_AXIS not in mesh.axis_names:
    return (
      f'it shares the batch over an axis {DATA_AXIS!r}, and the axes of this '
      f'mesh are {", ".join(map(repr, mesh.axis_names))}'
    )
  types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  if any(types[name] == AxisType.Explicit for name in axes):
    return 'it needs a mesh of Auto axes (axis_types=)'
  return None


def over_batch(run: Callable[..., Array]) -> Callable[..., Array]:
  """Returns `run`, (chain, *operands, scaling=) -> result, sharded by samples.

  The mesh is the one of the context (`jax.set_mesh`); its axis 'data' carries
  the batch, and along other axes each device computes the same. `run` is called
  as it is where nothing is left to partition: without a mesh, on one device,
  and where `jax.shard_map` has taken all axes. A batch that the devices cannot
  share evenly (under `jax.vmap`, the part that is not mapped over, unless
  `spmd_axis_name` names the axis) is computed whole by each of them. Call it
  only if there is no `obstacle`.
  """

  def sharded(chain: Chain, *operands: Array, scaling: Scaling = NONE) -> Array:
    axes = open_axes()
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
      check_vma=False,  # Interpreted kernels do not say what they vary over.
    )(scaling, *operands)

  return sharded
