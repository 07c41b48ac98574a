"""Chooses code by the platform that a program is compiled for."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax import lax

_T = TypeVar('_T')

_TARGET: contextvars.ContextVar[tuple[str, str] | None] = (
  contextvars.ContextVar('target', default=None)
)
_INTERPRET: contextvars.ContextVar[Any] = contextvars.ContextVar(
  'interpret', default=False
)


def by_platform(
  *args,
  cpu: Callable[..., _T],
  gpu: Callable[..., _T],
  tpu: Callable[..., _T],
) -> _T:
  """Calls the function for the platform that the caller is compiled for.

  The choice is made when a program is lowered, not when it is traced, so one
  traced program can be compiled ahead of time for an absent platform. All three
  functions are traced and must return the same shapes and dtypes. Deriving this
  call is expensive: keep it inside a custom VJP.
  """
  return lax.platform_dependent(
    *args, cpu=cpu, cuda=gpu, rocm=gpu, tpu=tpu, default=tpu
  )


def target() -> tuple[str, str]:
  """Returns the platform ('cpu', 'cuda', 'tpu', ...) and kind of the devices.

  They are those set by `targeted`, else those of the context's mesh
  (`jax.set_mesh`), which ahead-of-time compilation sets for absent devices,
  else those of the default device.
  """
  if stated := _TARGET.get():
    return stated
  mesh = jax.sharding.get_abstract_mesh()
  device = None if mesh.empty else mesh.abstract_device
  if device is None or device.platform is None:
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    device = default or jax.devices()[0]
  if isinstance(device, str):  # A platform's name.
    device = jax.devices(device)[0]
  platform = str(device.platform)
  return 'cuda' if platform == 'gpu' else platform, device.device_kind


@contextlib.contextmanager
def targeted(platform: str, kind: str = '') -> Iterator[None]:
  """Sets the platform for which code inside of the context is traced.

  Args:
    platform: 'cpu', 'cuda', 'tpu', ...
    kind: Device kind in JAX.
  """
  token = _TARGET.set((platform, kind))
  try:
    yield
  finally:
    _TARGET.reset(token)


def interpret() -> Any:
  """Returns the mode set by `interpreted`, or False."""
  return _INTERPRET.get()


@contextlib.contextmanager
def interpreted(mode: Any = True) -> Iterator[None]:
  """Interprets kernels that are requested by name, slowly, on a CPU, for tests.

  It affects functions that are traced inside of the context. Functions that
  were jitted before are unchanged, and the pullback of `jax.vjp` must be called
  inside of the context too.

  Args:
    mode: True, or parameters for the kernel: `pltpu.InterpretParams`,
      `plgpu.InterpretParams`.
  """
  token = _INTERPRET.set(mode)
  try:
    yield
  finally:
    _INTERPRET.reset(token)
