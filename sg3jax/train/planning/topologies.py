"""Finds the devices of machines that are not there, to compile for.

The compilers for TPUs and NVIDIA GPUs are packages of their own, and need no
such device: `pip install 'sg3jax[compile]'`.
"""

import dataclasses
import importlib.util
import math
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from sg3jax.train.planning import machines
from sg3jax.types import DATA_AXIS

# XLA's description of an H100 SXM as a target to compile for.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {
    major: 9
    minor: 0
    feature_extension: ACCELERATED_FEATURES
  }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 minor: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# libtpu reads these variables when it is loaded, and needs them without a TPU.
_ENVIRONMENT = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # Several processes may compile.
  # With these two, libtpu does not search the network for a TPU machine.
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}

_INSTALL = "pip install 'sg3jax[compile]'"
_TPU_REMEDY = f"{_INSTALL}, or only the TPU compiler: pip install 'jax[tpu]'"
_GPU_REMEDY = (
  f"{_INSTALL}, or 'jax[cuda13]'; or, to compile only: jax-cuda13-plugin in "
  "the version of jax, 'nvidia-cuda-nvcc>=13.2,<14' and nvidia-nvvm"
)

_NAME = re.compile(r'(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?')
_FORMS = (
  'v5e:16x16 or v6e:8x8 (TPUs, two axes), v4:4x4x4, v5p:4x4x4 or tpu7x:2x2x1 '
  '(three), v5e:16x16*4 (four slices), h100:8 (GPUs of a host) or h100:4x8 '
  '(hosts x GPUs)'
)


@dataclasses.dataclass(frozen=True)
class Topology:
  """Machines to compile for.

  Attributes:
    name: The name that was asked for.
    machine: The kind of device.
    shape: Chips along each axis of a slice, or GPUs of a host.
    groups: Number of slices, or of hosts with GPUs.
  """

  name: str
  machine: machines.Machine
  shape: tuple[int, ...]
  groups: int

  @property
  def is_tpu(self) -> bool:
    """Whether the devices are TPUs."""
    return self.machine.torus > 0

  @property
  def group_size(self) -> int:
    """Number of devices of a slice, or of a host with GPUs."""
    return math.prod(self.shape) * self.machine.devices_per_chip

  @property
  def size(self) -> int:
    """Number of devices."""
    return self.group_size * self.groups


def parse(name: str) -> Topology:
  """Returns the topology with a name such as `v5e:16x16` or `h100:4x8`.

  Raises:
    ValueError: If there is no such topology. The message lists the forms.
  """
  match = _NAME.fullmatch(name)
  machine = machines.MACHINES.get(match[1]) if match else None
  if match is None or machine is None:
    raise ValueError(f'topology must be one of {_FORMS}, got {name!r}')
  shape = tuple(map(int, match[2].split('x')))
  groups = int(match[3] or 1)
  if not machine.torus and len(shape) == 2 and not match[3]:
    groups, shape = shape[0], shape[1:]
  if len(shape) != (machine.torus or 1) or not math.prod(shape) or not groups:
    raise ValueError(f'topology must be one of {_FORMS}, got {name!r}')
  return Topology(name, machine, shape, groups)


def missing_tpu() -> str | None:
  """Returns why nothing can be compiled for TPUs here, or None."""
  if importlib.util.find_spec('libtpu') is None:
    return f'the TPU compiler is not installed: {_TPU_REMEDY}'
  return None


def missing_gpu() -> str | None:
  """Returns why nothing can be compiled for an H100 here, or None."""
  if importlib.util.find_spec('jax_cuda13_plugin') is None:
    return f'the CUDA plugin of JAX is not installed: {_GPU_REMEDY}'
  if not any(
    (pathlib.Path(root) / 'cu13' / 'bin' / 'ptxas').exists()
    for root in _nvidia_folders()
  ):
    return f'the CUDA compiler is not installed: {_GPU_REMEDY}'
  return None


def mesh(topology: Topology) -> Mesh:
  """Returns a mesh over the absent devices, to compile for.

  Raises:
    ImportError: If the compiler is not installed. The message names what to
      install.
    ValueError: If there is no such slice.
  """
  missing = missing_tpu if topology.is_tpu else missing_gpu
  if reason := missing():
    raise ImportError(f'cannot compile for {topology.name}: {reason}')
  devices = sorted(
    _devices(topology),
    key=lambda d: (getattr(d, 'slice_index', 0), d.process_index, d.id),
  )
  if len(devices) != topology.size:
    raise ValueError(
      f'topology {topology.name} must have {topology.size} devices, got '
      f'{len(devices)} from the compiler: use another form or a newer compiler'
    )
  return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def prepare_environment() -> None:
  """Sets what libtpu reads when it is loaded, unless it is set."""
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def _devices(topology: Topology) -> Sequence[Any]:
  shape = 'x'.join(map(str, topology.shape))
  try:
    if not topology.is_tpu:
      return topologies.get_topology_desc(
        platform='cuda',
        topology_name='',
        topology=f'1x{topology.groups}x{shape}',
        target_config=_H100,
      ).devices
    prepare_environment()
    options: dict[str, Any] = {}
    if math.prod(topology.shape) == 1:
      options['chips_per_host_bounds'] = (1, 1, 1)
    if topology.groups > 1:
      options['num_slices'] = topology.groups
    if topology.machine.name == 'v4':  # One device a chip, as on real ones.
      options['chip_config_name'] = 'megacore'
    return topologies.get_topology_desc(
      platform='tpu',
      topology_name=f'{topology.machine.name}:{shape}',
      **options,
    ).devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition('\n')[0]
    raise ValueError(
      f'there is no topology {topology.name} ({reason}): use one such as '
      f'{_FORMS}'
    ) from error


def _nvidia_folders() -> list[str]:
  spec = importlib.util.find_spec('nvidia')
  if spec is None or spec.submodule_search_locations is None:
    return []
  return list(spec.submodule_search_locations)
