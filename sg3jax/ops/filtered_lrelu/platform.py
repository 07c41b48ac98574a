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
  """Calls the function of the platform that the caller is compiled for.

  The choice is made when a program is lowered, not when it is traced, so one
  traced program can be compiled ahead of time for a platform that is absent.
  All three are traced and must return the same shapes and dtypes. Not
  differentiable at a bearable cost: keep it inside a custom VJP.
  """
  return lax.platform_dependent(
    *args, cpu=cpu, cuda=gpu, rocm=gpu, tpu=tpu, default=tpu
  )


def target() -> tuple[str, str]:
  """Returns the platform ('cpu', 'cuda', 'tpu', ...) and kind of the devices.

  Those of the context's mesh (`jax.set_mesh`), which ahead-of-time compilation
  sets for devices that are absent; else of the default device; or what
  `targeted` says.
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
  """Lets what is traced inside of it be for a platform, wherever it is.

  Args:
    platform: 'cpu', 'cuda', 'tpu', ...
    kind: The kind of the device, as JAX names it.
  """
  token = _TARGET.set((platform, kind))
  try:
    yield
  finally:
    _TARGET.reset(token)


def interpret() -> Any:
  """Returns how kernels are interpreted here: False, or see `interpreted`."""
  return _INTERPRET.get()


@contextlib.contextmanager
def interpreted(mode: Any = True) -> Iterator[None]:
  """Lets kernels named as `implementation` run on a CPU, slowly, for tests.

  Acts on what is traced inside of it: functions jitted before keep what they
  have, and the pullback of `jax.vjp` has to be called inside of it too.

  Args:
    mode: True, or the kernel's own parameters: `pltpu.InterpretParams`,
      `plgpu.InterpretParams`.
  """
  token = _INTERPRET.set(mode)
  try:
    yield
  finally:
    _INTERPRET.reset(token)
