"""Describes the accelerators that a run can be planned for.

Rates are those of the vendors' data sheets. They bound what a device can do,
so that estimates made from them are optimistic.
"""

import dataclasses

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Machine:
  """One device as JAX counts them, and how devices are connected.

  Attributes:
    name: Name of the generation in `--topology`.
    kind: Device kind in JAX, or how it begins.
    memory: Bytes of device memory.
    flops: 16-bit matrix operations in a second.
    bandwidth: Bytes of device memory read or written in a second.
    clock: Cycles in a second, with which the compiler's cycles become seconds;
      0 if its compiler states no cycles.
    link: Bytes a device can send in a second to devices of its slice (TPU) or
      host (GPU), over all of its links.
    network: Bytes a device can send in a second to other slices or hosts. It
      depends on the cluster; these are common values.
    devices_per_chip: Number of devices, as JAX counts them, in a chip.
    torus: Number of axes of the network of a slice; 0 if every device reaches
      every other directly.
    wrap: Length from which on an axis of the torus is closed to a ring.
  """

  name: str
  kind: str
  memory: int
  flops: float
  bandwidth: float
  clock: float
  link: float
  network: float
  devices_per_chip: int = 1
  torus: int = 0
  wrap: int = 0


MACHINES = {
  machine.name: machine
  for machine in (
    Machine(
      'v4', 'TPU v4', 32 * _GIB, 275e12, 1228e9, 1.05e9, 300e9, 6.25e9,
      torus=3, wrap=4,
    ),
    Machine(
      'v5e', 'TPU v5 lite', 16 * _GIB, 197e12, 819e9, 1.5e9, 200e9, 3.125e9,
      torus=2, wrap=16,
    ),
    Machine(
      'v5p', 'TPU v5', 95 * _GIB, 459e12, 2765e9, 1.75e9, 600e9, 6.25e9,
      torus=3, wrap=4,
    ),
    Machine(
      'v6e', 'TPU v6 lite', 32 * _GIB, 918e12, 1640e9, 1.75e9, 400e9, 6.25e9,
      torus=2, wrap=16,
    ),
    Machine(
      'tpu7x', 'TPU7x', 96 * _GIB, 1153e12, 3690e9, 2.0e9, 300e9, 6.25e9,
      devices_per_chip=2, torus=3, wrap=4,
    ),
    Machine(
      'h100', 'NVIDIA H100', 84942979072, 989e12, 3352e9, 0.0, 450e9, 50e9
    ),
  )
}  # fmt: skip
