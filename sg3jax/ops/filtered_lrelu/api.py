"""The public `filtered_lrelu`: its arguments, and how they make a plan."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from sg3jax.ops.dtypes import widen
from sg3jax.ops.filtered_lrelu import dispatch
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.plan import AxisPadding, Plan
from sg3jax.types import AnyArray, Array

Number: TypeAlias = float | int
Padding: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]]

_SQRT_2 = math.sqrt(2)
_DTYPES = ('float32', 'bfloat16', 'float16', 'float64')

# Singular values of a 2-D filter below these, relative to the first, do not
# show at the precision of the computation.
_RANK_TOLERANCE = 4e-7
_RANK_TOLERANCE_F64 = 1e-15


def filtered_lrelu(
  x: Float[AnyArray, 'n h w c'],
  fu: AnyArray | None = None,
  fd: AnyArray | None = None,
  b: Float[AnyArray, ' c'] | None = None,
  *,
  up: int = 1,
  down: int = 1,
  padding: Padding = 0,
  gain: Number = _SQRT_2,
  slope: Number = 0.2,
  clamp: Number | None = None,
  input_scale: Float[AnyArray, 'n c'] | None = None,
  output_scale: Float[AnyArray, 'n c'] | None = None,
  implementation: str | None = None,
) -> Float[Array, 'n h2 w2 c']:
  """Applies a leaky ReLU between an upsampling and a downsampling filter.

  The alias-free nonlinearity of StyleGAN3 (Sec. 3.2, App. D.1): add the bias;
  put up - 1 zeros after each sample along both axes; pad or crop; convolve with
  fu, gain up^2; apply the leaky ReLU; multiply by the gain; clip; convolve with
  fd; keep each down-th sample. Convolutions are true ones (filters flipped) and
  keep only fully overlapping positions, so along an axis
  out = ceil((in * up + low + high - taps_u - taps_d + 2) / down).

  Differentiable in x, b and the scales to any order by reverse mode; constant
  in filters.

  Args:
    x: Feature maps, float32, bfloat16, float16 or float64.
    fu: Upsampling filter: None (unit impulse), [t] (applied along both axes) or
      [t, t'] (rows, columns). Concrete: NumPy, or a JAX array outside of any
      transformation. A 2-D filter is split into separable ones whose sum equals
      it to 4e-7 of its first singular value (exactly for float64).
    fd: Downsampling filter, likewise.
    b: Bias, or None.
    up: Upsampling factor, at least 1.
    down: Downsampling factor, at least 1.
    padding: Samples at the upsampled rate; one number, (low, high) for both
      axes, or ((top, bottom), (left, right)). Negative ones crop.
    gain: Factor on the output of the leaky ReLU.
    slope: Its slope for negative inputs.
    clamp: Bound on the magnitude after the gain, not negative; None for none.
    input_scale: Factors on x, before the bias: the demodulation of a modulated
      convolution; None for 1.
    output_scale: Factors on the result: the styles of the next convolution;
      None for 1. The gradient of one that is exactly zero is taken as zero.
    implementation: A name of `implementations()`: 'pallas' is the kernel of the
      platform where it can serve the call, else 'banded'; any other name means
      exactly that one. None: `default_implementation` of the devices of the
      context's mesh (`jax.set_mesh`) or, without one, of the default device;
      the log says once per shape what that is. Arrays on a mesh of Explicit
      axes need that mesh in the context; the result is sharded as x is along
      samples and channels.

  Returns:
    The result, in the dtype of x.

  Raises:
    TypeError: x has another dtype, a filter is traced, or a rate or the padding
      is not made of integers.
    ValueError: A shape or a value is out of its range, no output is left, or
      the implementation's name is unknown.
    NotImplementedError: The named implementation cannot serve this call.
  """
  _check_operands(x, b, input_scale=input_scale, output_scale=output_scale)
  call = dispatch.implementation_of(implementation)
  plan = make_plan(
    x.shape[1:3],
    x.dtype,
    fu,
    fd,
    up=up,
    down=down,
    padding=padding,
    gain=gain,
    slope=slope,
    clamp=clamp,
  )
  return call(
    plan,
    jnp.asarray(x),
    _scale_factors(input_scale, x.dtype),
    None if b is None else jnp.asarray(b),
    _scale_factors(output_scale, x.dtype),
  )


def make_plan(
  shape: Sequence[int],
  dtype: Any,
  fu: AnyArray | None = None,
  fd: AnyArray | None = None,
  *,
  up: int = 1,
  down: int = 1,
  padding: Padding = 0,
  gain: Number = _SQRT_2,
  slope: Number = 0.2,
  clamp: Number | None = None,
) -> Plan:
  """Returns what `filtered_lrelu` does with maps [h, w] = shape of a dtype.

  Arguments and errors as there.
  """
  return plan_lib.make_plan(
    shape,
    _filter('fu', fu),
    _filter('fd', fd),
    up=_factor('up', up),
    down=_factor('down', down),
    padding=_padding(padding),
    activation=Activation(
      gain=_number('gain', gain),
      slope=_number('slope', slope),
      clamp=None if clamp is None else _number('clamp', clamp, low=0.0),
    ),
    tolerance=_RANK_TOLERANCE_F64 if dtype == jnp.float64 else _RANK_TOLERANCE,
  )


def _check_operands(
  x: AnyArray, b: AnyArray | None, **scales: AnyArray | None
) -> None:
  """Raises an error unless shapes fit together and the dtype is served."""
  if x.ndim != 4 or not x.size:
    raise ValueError(
      f'filtered_lrelu expects x [n, h, w, c], not empty, got shape {x.shape}.'
    )
  if jnp.dtype(x.dtype).name not in _DTYPES:
    raise TypeError(
      f'filtered_lrelu takes {", ".join(_DTYPES)}; x is {x.dtype}.'
    )
  if b is not None and b.shape != x.shape[-1:]:
    raise ValueError(
      f'filtered_lrelu expects a bias [{x.shape[-1]}] for x {x.shape}, '
      f'got {b.shape}.'
    )
  for name, factors in scales.items():
    if factors is not None and factors.shape != (x.shape[0], x.shape[-1]):
      raise ValueError(
        f'filtered_lrelu expects {name} [{x.shape[0]}, {x.shape[-1]}] for x '
        f'{x.shape}, got {factors.shape}.'
      )


def _scale_factors(factors: AnyArray | None, dtype: Any) -> Array | None:
  """Returns them in float32, or in float64 for x of that dtype."""
  if factors is None:
    return None
  return jnp.asarray(factors, widen(dtype))


def _filter(name: str, f: Any) -> np.ndarray | None:
  if f is None:
    return None
  if isinstance(f, Tracer):
    raise TypeError(
      f'filtered_lrelu needs a concrete filter, but {name} is traced. Design '
      'it in NumPy outside of the jitted function, or close over it.'
    )
  f = np.asarray(f, np.float64)
  if f.ndim not in (1, 2) or not f.size or not np.isfinite(f).all():
    raise ValueError(
      f'filtered_lrelu expects {name} to be a finite, non-empty filter with '
      f'1 or 2 axes, got shape {f.shape}.'
    )
  return f


def _factor(name: str, value: int) -> int:
  if not isinstance(value, int | np.integer) or isinstance(value, bool):
    raise TypeError(f'filtered_lrelu: {name} must be an int, got {value!r}.')
  if value < 1:
    raise ValueError(f'filtered_lrelu: {name} must be at least 1, got {value}.')
  return int(value)


def _number(name: str, value: Number, low: float = -math.inf) -> float:
  value = float(value)
  if not math.isfinite(value) or value < low:
    raise ValueError(
      f'filtered_lrelu: {name} must be finite'
      f'{f" and at least {low:g}" if math.isfinite(low) else ""}, got {value}.'
    )
  return value


def _padding(padding: Padding) -> tuple[AxisPadding, AxisPadding]:
  """Returns ((top, bottom), (left, right))."""
  try:
    array = np.asarray(padding)
  except ValueError:  # Ragged.
    array = None
  if array is None or array.shape not in ((), (2,), (2, 2)):
    raise ValueError(
      'filtered_lrelu: padding must be an int, (low, high) or '
      f'((top, bottom), (left, right)), got {padding!r}.'
    )
  if not np.issubdtype(array.dtype, np.integer):
    raise TypeError(
      f'filtered_lrelu: padding must be integers, got {padding!r}.'
    )
  (top, bottom), (left, right) = np.broadcast_to(array, (2, 2)).tolist()
  return (top, bottom), (left, right)
