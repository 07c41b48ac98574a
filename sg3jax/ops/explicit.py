"""The mesh's axes, and arrays on Explicit ones, whose types hold the sharding.

`jax.make_mesh` makes Explicit axes by default. Most operations infer the
sharding of their results; these functions are for the operations that do not.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sg3jax.types import AnyArray, Array


def axes(x: AnyArray) -> set[str]:
  """Returns the Explicit axes of the mesh in an array's type."""
  mesh = jax.typeof(x).sharding.mesh
  return {
    name
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Explicit
  }


def spec_of(x: AnyArray) -> P:
  """Returns the partition spec in an array's type."""
  return jax.typeof(x).sharding.spec


def open_axes() -> dict[str, int]:
  """Returns the sizes of the mesh's axes that the compiler still partitions."""
  mesh = jax.sharding.get_abstract_mesh()
  return {
    name: mesh.shape[name]
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind != AxisType.Manual and mesh.shape[name] > 1
  }


def reshard(x: AnyArray, like: AnyArray, *spec: Any) -> Array:
  """Returns x sharded by a partition spec over the mesh of another array."""
  return jax.sharding.reshard(
    x, NamedSharding(jax.typeof(like).sharding.mesh, P(*spec))
  )


def automatic(call: Callable[..., Array], *spec: Any) -> Callable[..., Array]:
  """Returns a function inside which the compiler chooses the sharding.

  Args:
    call: The function. It is called unchanged unless its first argument is on a
      mesh of Explicit axes.
    *spec: Partition spec of its result.
  """

  def sharded(x: AnyArray, *others: AnyArray) -> Array:
    names = axes(x)
    if not names:
      return call(x, *others)
    sharding = NamedSharding(jax.typeof(x).sharding.mesh, P(*spec))
    run: Any = jax.sharding.auto_axes(
      call, axes=tuple(names), out_sharding=sharding
    )
    return run(x, *others)

  return sharded
