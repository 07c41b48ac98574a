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
from sg3jax.types import DATA_AXIS, Array


def over_batch(run: Callable[..., Array]) -> Callable[..., Array]:
  """Returns `run`, (chain, *operands) -> result, sharded over the batch.

  The mesh is the one of the context (`jax.set_mesh`); its axis 'data' carries
  the batch. Without one, with one device, or inside of another `jax.shard_map`,
  `run` is called as it is. A batch that the devices cannot share evenly is
  computed whole by each of them.
  """

  def sharded(chain: Chain, *operands: Array) -> Array:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or DATA_AXIS not in mesh.axis_names:
      return run(chain, *operands)
    axes = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if axes[DATA_AXIS] == AxisType.Manual:
      return run(chain, *operands)
    is_even = operands[0].shape[0] % mesh.shape[DATA_AXIS] == 0
    spec = P(DATA_AXIS) if is_even else P()
    return jax.shard_map(
      lambda *parts: run(chain, *parts),
      in_specs=(spec,) * len(operands),
      out_specs=spec,
      check_vma=False,  # A kernel's result does not say what it varies over.
    )(*operands)

  return sharded
