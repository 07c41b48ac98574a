"""Lets operators take arrays of Explicit axes, whose types say their sharding.

`jax.make_mesh` makes such axes by default. Most operations know how to shard
their results; these are for those that do not.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sg3jax.types import AnyArray, Array


def axes(x: AnyArray) -> set[str]:
  """Returns the Explicit axes of the mesh that an array's type names."""
  mesh = jax.typeof(x).sharding.mesh
  return {
    name
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    if kind == AxisType.Explicit
  }


def spec_of(x: AnyArray) -> P:
  """Returns how an array's type says that its axes are sharded."""
  return jax.typeof(x).sharding.spec


def reshard(x: AnyArray, like: AnyArray, *spec: Any) -> Array:
  """Returns x sharded so over the mesh of another array."""
  return jax.sharding.reshard(
    x, NamedSharding(jax.typeof(like).sharding.mesh, P(*spec))
  )


def automatic(call: Callable[..., Array], *spec: Any) -> Callable[..., Array]:
  """Returns a function of arrays in which the compiler does the sharding.

  Args:
    call: The function; it is called as it is unless its first argument has a
      mesh of Explicit axes.
    *spec: How its result is sharded, by axis.
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
