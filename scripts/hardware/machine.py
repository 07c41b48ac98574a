"""Describes the machine and measures the two rates that bound every kernel."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from hardware import stages, timing
from sg3jax import version

_PACKAGES = ('jax', 'jaxlib', 'jax-cuda13-plugin', 'libtpu', 'flax', 'numpy')


def versions() -> dict[str, Any]:
  """Returns the device, its driver, and the versions of Python and packages."""
  device = jax.devices()[0]
  facts = {
    'platform': device.platform,
    'device': device.device_kind,
    'devices': jax.device_count(),
    'driver': _driver(),
    'cores': os.cpu_count(),
    'python': platform.python_version(),
  }
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    facts['usable GiB'] = round(stats['bytes_limit'] / 2**30, 1)
  return facts | version.versions(_PACKAGES)


def _driver() -> str | None:
  query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
  try:
    return subprocess.run(
      query, capture_output=True, text=True, check=True, timeout=20
    ).stdout.split()[0]
  except (OSError, subprocess.SubprocessError, IndexError):
    return None


def make_tasks(*, is_tiny: bool) -> Sequence[stages.Task]:
  """Returns the tasks: versions, copy bandwidth, rate of 16-bit products.

  Raises:
    RuntimeError: If there is neither a GPU nor a TPU, unless `is_tiny`.
  """
  if jax.default_backend() == 'cpu' and not is_tiny:
    raise RuntimeError(
      'JAX must see a GPU or a TPU, got a CPU: --tiny tests the script on it'
    )
  return [
    stages.Task({'what': 'machine'}, lambda: versions),
    stages.Task({'what': 'copy'}, lambda: lambda: copy(is_tiny=is_tiny)),
    stages.Task({'what': 'product'}, lambda: lambda: product(is_tiny=is_tiny)),
  ]


def copy(*, is_tiny: bool) -> Mapping[str, float]:
  """Returns the rate of adding 1 to an array, in GB/s read and written."""
  x = jnp.ones((1 << (20 if is_tiny else 28),), jnp.float32)
  ms, _ = timing.milliseconds(jax.jit(lambda x: x + 1), [(x,)])
  return {'GB/s': 2e-6 * x.nbytes / ms}


def product(*, is_tiny: bool) -> Mapping[str, float]:
  """Returns the TFLOP/s of a product of random square bfloat16 matrices."""
  size = 256 if is_tiny else 8192
  a, b = (
    jax.random.normal(jax.random.key(i), (size, size), jnp.bfloat16)
    for i in range(2)
  )
  ms, _ = timing.milliseconds(jax.jit(jnp.dot), [(a, b)])
  return {'TFLOP/s': 2e-9 * size**3 / ms}
