"""Chooses code by the platform a program is compiled for."""

from collections.abc import Callable
from typing import TypeVar

from jax import lax

_T = TypeVar('_T')


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
