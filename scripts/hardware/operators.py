"""Times alternative forms of operators on a device.

Compilers treat these forms differently. Each row times two forms of the same
function; on GPUs, the package uses the second.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware import stages, timing
from sg3jax.ops import conv, filters, upfirdn
from sg3jax.types import Array

Shape = tuple[int, ...]


def make_tasks(*, is_tiny: bool) -> list[stages.Task]:
  """Returns the tasks: FIR filters, kernel gradients and channel counts."""
  n, size, channels = (2, 16, 8) if is_tiny else (16, 256, 128)
  images = (n, size, size, channels)
  tasks = []
  for down in (1, 2):
    depthwise, shifted = (
      functools.partial(_fir, form, down)
      for form in (upfirdn._depthwise, upfirdn._shifted_adds)
    )
    for name, wrap in (('forward', lambda f: f), ('gradient', _gradient)):
      tasks.append(
        _task(
          f'FIR filter, down {down}, {name}',
          ('depthwise', wrap(depthwise)),
          ('shifted sums', wrap(shifted)),
          images,
        )
      )
  n, size, i, o = (2, 12, 8, 5) if is_tiny else (8, 276, 256, 181)
  x, g = (n, size, size, i), (n, size + 2, size + 2, o)
  full = conv._Geometry(x, (3, 3, i, o), padding=2, stride=1, dilation=1)
  wide = conv._Geometry(x, (3, 3, i, -(-o // 8) * 8), 2, 1, 1)
  derived, exchanged = (
    functools.partial(form, full)
    for form in (conv.derived_kernel_gradient, conv._kernel_gradient_on_gpu)
  )
  what = f'kernel gradient, {i} to {o} channels'
  forms = ('as it is', derived), ("as the adjoint's", exchanged)
  tasks.append(_task(what, *forms, x, g))
  tasks.append(
    stages.Task(
      {'what': 'convolution, channels a multiple of 8'},
      functools.partial(
        _prepare,
        (str(o), full.convolve, (x, full.w_shape)),
        (str(wide.w_shape[-1]), wide.convolve, (x, wide.w_shape)),
      ),
    )
  )
  return tasks


def _fir(form: Callable[..., Array], down: int, x: Array) -> Array:
  """Filters and downsamples like a discriminator."""
  f = np.flip(np.asarray(filters.BINOMIAL, np.float32))
  rows, columns = ((2, 2), (0, 0)), ((0, 0), (2, 2))
  x = form(x, f=f[:, None], up=(1, 1), down=(down, 1), padding=rows)
  return form(x, f=f[None], up=(1, 1), down=(1, down), padding=columns)


def _gradient(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
  def run(x: Array) -> Array:
    y, pull = jax.vjp(f, x)
    return pull(jnp.ones_like(y))[0]

  return run


def _task(
  what: str,
  first: tuple[str, Callable[..., Array]],
  second: tuple[str, Callable[..., Array]],
  *shapes: Shape,
) -> stages.Task:
  return stages.Task(
    {'what': what},
    functools.partial(_prepare, (*first, shapes), (*second, shapes)),
  )


def _prepare(
  *forms: tuple[str, Callable[..., Array], Sequence[Shape]],
) -> stages.Measure:
  """Compiles two forms; returns a function that times both."""
  compiled = []
  for _, call, shapes in forms:
    structures = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes]
    compiled.append(jax.jit(call).lower(*structures).compile())

  def measure() -> Mapping[str, Any]:
    times = []
    for call, (_, _, shapes) in zip(compiled, forms, strict=True):
      arguments = tuple(
        jax.random.normal(jax.random.key(i), s, jnp.bfloat16)
        for i, s in enumerate(shapes)
      )
      times.append(timing.milliseconds(call, [arguments])[0])
    return {
      'first': forms[0][0],
      'ms': times[0],
      'second': forms[1][0],
      'ms then': times[1],
      'times faster': times[0] / times[1],
    }

  return measure
