"""Places arrays on devices: the mesh, and the sharding of states and batches.

Images are spread over the mesh's 'data' axis. States are replicated, or spread
over the same axis as `LAYOUTS` says. One program is traced for all devices,
with global shapes. Statistics over the batch are therefore global, and no
number depends on the device count.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sg3jax.types import DATA_AXIS, Array, Tree

# What is spread over the devices, by the value of `train.sharding`: patterns of
# paths in a `TrainState`. Everything else is replicated. With 'fsdp' (fully
# sharded data parallelism) each device stores its share of the networks and of
# Adam's moments; networks are gathered for the phase that uses them.
LAYOUTS: Mapping[str, Sequence[str]] = {
  'replicated': (),
  'fsdp': (
    r'(generator|discriminator|generator_ema)/params/.*',
    r'(generator|discriminator)_opt/.*',
  ),
}

# Arrays with fewer elements are replicated: their collectives would cost more
# than their memory.
_SMALLEST = 2**10


def find_devices() -> list[Any]:
  """Returns the devices that JAX sees.

  Raises:
    ValueError: If there is no device of the platform JAX is set to use.
  """
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as error:  # The latter has no text.
    platforms = getattr(jax.config, 'jax_platforms', None)
    told = (
      f'of the platform {platforms}, which JAX_PLATFORMS={platforms} asks for'
      if platforms
      else 'that it can use'
    )
    reason = str(error).partition('\n')[0] or 'no such hardware or plugin'
    raise ValueError(
      f'JAX finds no device {told} ({reason}): unset JAX_PLATFORMS, or set it '
      'to a platform of this machine, such as cpu; a GPU or TPU needs the '
      'package sg3jax[cuda] or sg3jax[tpu]'
    ) from error


def make_mesh(num_devices: int | None = None) -> Mesh:
  """Returns a mesh with one 'data' axis over devices, by default all of them.

  Raises:
    ValueError: If there are fewer devices than requested, or none of the
      platform JAX is set to use.
  """
  devices = find_devices()
  if num_devices is not None:
    if not 1 <= num_devices <= len(devices):
      raise ValueError(
        f'{num_devices} devices were requested, but JAX sees {len(devices)} '
        f'({devices[0].platform}): pass --devices of at most {len(devices)}'
      )
    if jax.process_count() > 1 and num_devices < len(devices):
      raise ValueError(
        f'--devices={num_devices} would leave hosts without a device: leave it '
        'out in a run on several hosts'
      )
    devices = devices[:num_devices]
  # Keep the order of the hosts, which is that of the rows they load.
  # `jax.make_mesh` might reorder devices by the wiring of a pod.
  devices = sorted(devices, key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of states, with a copy on every device."""
  return NamedSharding(mesh, P())


def check_layout(name: str) -> None:
  """Checks the value of `train.sharding`.

  Raises:
    ValueError: If it is not one of `LAYOUTS`.
  """
  if name not in LAYOUTS:
    raise ValueError(
      f'train.sharding must be one of {", ".join(LAYOUTS)}, got {name!r}'
    )


def state_shardings(state: Tree, mesh: Mesh, layout: str) -> Tree:
  """Returns where each array of a state is stored.

  Args:
    state: A `TrainState` of arrays or their shapes.
    mesh: The devices.
    layout: One of `LAYOUTS`.

  Returns:
    A tree of `NamedSharding` with the structure of the state.
  """
  return jax.tree.map_with_path(
    lambda path, x: NamedSharding(
      mesh, _spec(_name(path), x.shape, layout, mesh.size)
    ),
    state,
  )


def scatter_gradients(tree: Tree, part: str, layout: str) -> Tree:
  """Shards gradients as their parameters are stored.

  Args:
    tree: Gradients inside a jitted function.
    part: Path of the parameters in a `TrainState`, such as `generator/params`.
    layout: One of `LAYOUTS`.
  """
  if not LAYOUTS[layout]:
    return tree
  # First demand whole sums. Otherwise the partitioner would also spread the
  # products that yield them, by channels, and exchange feature maps for that.
  tree = gather(tree, layout)
  return jax.tree.map_with_path(
    lambda path, x: jax.lax.with_sharding_constraint(
      x, _spec(f'{part}/{_name(path)}', x.shape, layout, num_shards())
    ),
    tree,
  )


def gather(tree: Tree, layout: str) -> Tree:
  """Replicates arrays inside a jitted function, if a layout spreads any."""
  if not LAYOUTS[layout]:
    return tree
  return jax.lax.with_sharding_constraint(tree, P())


def replicate(tree: Tree, mesh: Mesh) -> Tree:
  """Returns arrays with a copy on every device; all processes must call it."""
  if all(x.is_fully_replicated for x in jax.tree.leaves(tree)):
    return tree
  return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def fetch(tree: Tree) -> Tree:
  """Returns arrays in host memory, whole on every process.

  All processes must call it. Devices hold a copy of one array at a time.
  """

  def whole(x: Any) -> Any:
    if not (x.is_fully_addressable or x.is_fully_replicated):
      x = replicate(x, x.sharding.mesh)
    return jax.device_get(x)

  return jax.tree.map(whole, tree)


def _name(path: Sequence[Any]) -> str:
  return jax.tree_util.keystr(tuple(path), simple=True, separator='/')


def _spec(path: str, shape: Sequence[int], layout: str, shards: int) -> P:
  """Returns how an array is stored: spread along its longest axis that fits."""
  fitting = [axis for axis, n in enumerate(shape) if n % shards == 0]
  is_spread = any(re.fullmatch(rule, path) for rule in LAYOUTS[layout])
  if not (is_spread and fitting and math.prod(shape) >= _SMALLEST):
    return P()
  longest = max(fitting, key=lambda axis: shape[axis])
  return P(*(DATA_AXIS if i == longest else None for i in range(len(shape))))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of batches, spread along their first axis."""
  return NamedSharding(mesh, P(DATA_AXIS))


def check_batch(
  batch: int,
  mesh: Mesh,
  *,
  micro_batches: int = 1,
  pl_batch_shrink: int = 1,
) -> None:
  """Checks that a batch can be spread over a mesh.

  Args:
    batch: Number of images per step.
    mesh: The devices.
    micro_batches: Number of parts in which it is computed.
    pl_batch_shrink: Ratio of the batch to the batch of path lengths.

  Raises:
    ValueError: If the batch, a micro-batch or the batch of path lengths is not
      a multiple of the device count.
  """
  if batch % mesh.size:
    below = max(batch // mesh.size, 1) * mesh.size
    raise ValueError(
      f'a batch of {batch} cannot be spread over {mesh.size} devices: use '
      f'train.batch={below} or another multiple of {mesh.size}, or '
      f'fewer --devices'
    )
  if batch % (micro_batches * mesh.size):
    raise ValueError(
      f'a batch of {batch} cannot be computed in {micro_batches} micro-batches '
      f'on {mesh.size} devices: train.micro_batches must divide '
      f'{batch // mesh.size}'
    )
  shrunk = batch // pl_batch_shrink
  if not shrunk or shrunk % mesh.size:
    raise ValueError(
      f'the batch of path lengths, {batch} // {pl_batch_shrink}, cannot be '
      f'spread over {mesh.size} devices: use '
      'train.pl_batch_shrink=1 or a larger batch'
    )


def shard_batch(
  batch: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, Array]:
  """Returns global arrays made from the rows that this host has loaded."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows)
    for name, rows in batch.items()
  }


def num_shards() -> int:
  """Returns the number of shards of a batch inside a jitted function."""
  return jax.sharding.get_abstract_mesh().shape.get(DATA_AXIS, 1)


def constrain_batch(tree: Tree) -> Tree:
  """Shards arrays created inside a jitted function like a batch."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or DATA_AXIS not in mesh.axis_names:
    return tree
  return jax.lax.with_sharding_constraint(tree, P(DATA_AXIS))
