"""Shows versions, devices and their kernels, and tests the operator.

sg3jax doctor
"""

import platform
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from sg3jax import version
from sg3jax.cli import common, compilation_cache
from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import default_implementation, filtered_lrelu
from sg3jax.train import sharding

flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('devices')

_PACKAGES = (
  'sg3jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain',
  'numpy', 'libtpu', 'jax-cuda13-plugin', 'jax-cuda12-plugin', 'scikit-image',
  'tensorflow-datasets', 'ray',
)  # fmt: skip


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and checks the machine."""
  common.run(_doctor, argv)


def _doctor() -> None:
  print(f'python               {platform.python_version()}')
  versions = version.versions(_PACKAGES)
  for package in _PACKAGES:
    print(f'{package:20s} {versions.get(package, "-")}')
  mesh = sharding.make_mesh(common.DEVICES.value)
  device = mesh.devices.flat[0]
  print(f'devices              {mesh.size} x {device.device_kind}')
  print(f'platform             {device.platform}')
  print(f'processes            {jax.process_count()}')
  print(f'mesh                 {dict(mesh.shape)}')
  folder = compilation_cache.current_folder()
  print(f'compiled programs    {folder or "not kept"}')
  for name in ('cpu', 'gpu', 'tpu'):
    print(f'filtered_lrelu       {name}: {default_implementation(name)}')
  failures = [test for test in (_test_values, _test_gradients) if not test()]
  if failures:
    sys.exit('error: the self-test failed on this machine: please report it')
  print('self-test            passed')


_LAYER = spec_lib.stylegan3_t(64).layers[8]


def _operator(implementation: str | None):
  """Returns the nonlinearity of one layer of StyleGAN3-T."""
  options = _LAYER.nonlinearity() | {
    'clamp': 256.0,
    'implementation': implementation,
  }
  return lambda x, b: filtered_lrelu(x, b=b, **options)


def _inputs() -> tuple[np.ndarray, np.ndarray]:
  size = _LAYER.padded_size
  rng = np.random.RandomState(0)
  x = rng.randn(2, size, size, 16).astype(np.float32)
  return x, rng.randn(16).astype(np.float32)


def _test_values() -> bool:
  return _compare('values', lambda f: f)


def _test_gradients() -> bool:
  return _compare(
    'gradients',
    lambda f: jax.grad(lambda x, b: jnp.sum(jnp.square(f(x, b)))),
  )


def _compare(what: str, transform) -> bool:
  """Compares the default implementation with the reference.

  Prints the relative error, and returns whether it is small enough.
  """
  start = time.perf_counter()
  ours, reference = (
    np.asarray(jax.jit(transform(_operator(name)))(*_inputs()))
    for name in (None, 'reference')
  )
  error = float(np.abs(ours - reference).max() / np.abs(reference).max())
  seconds = time.perf_counter() - start
  print(
    f'self-test            {what}: relative error {error:.1e}, {seconds:.1f} s'
  )
  # The bound is for float32 sums of a few hundred products. It holds on TPUs
  # and GPUs too, where the operator multiplies in full float32 precision.
  return error < 1e-5
