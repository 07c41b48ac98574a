"""Places arrays on devices: the mesh, and the sharding of states and batches.

Images are spread over the mesh's 'data' axis; everything else is replicated.
One program is traced for all devices, with global shapes. Statistics over the
batch are therefore global, and no number depends on the device count.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sg3jax.types import DATA_AXIS, Array, Tree


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
