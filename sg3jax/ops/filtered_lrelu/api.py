"""The public `filtered_lrelu`: checks its arguments and builds a `Plan`."""

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

# Singular values of a 2-D filter below these, relative to the first, have no
# effect at the precision of the computation.
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

  This is the alias-free nonlinearity of StyleGAN3 (Sec. 3.2, App. D.1): add the
  bias; insert up - 1 zeros after each sample along both axes; pad or crop;
  convolve with fu, gain up^2; apply the leaky ReLU; multiply by the gain; clip;
  convolve with fd; keep each down-th sample. Convolutions flip the filters and
  keep only fully overlapping positions, so along an axis
  out = ceil((in * up + low + high - taps_u - taps_d + 2) / down).

  It is differentiable in x, b and the scales, to any order in reverse mode. The
  filters are constants.

  Args:
    x: Feature maps, float32, bfloat16, float16 or float64.
    fu: Upsampling filter: None (unit impulse), [t] (applied along both axes) or
      [t, t'] (rows, columns). It must be concrete: a NumPy array, or a JAX
      array outside of any transformation. A 2-D filter is split into separable
      filters whose sum equals it to within 4e-7 of its first singular value
      (1e-15 for float64).
    fd: Downsampling filter, of the same types.
    b: Bias, or None.
    up: Upsampling factor, at least 1.
    down: Downsampling factor, at least 1.
    padding: Samples at the upsampled rate: one integer, (low, high) for both
      axes, or ((top, bottom), (left, right)). Negative padding crops.
    gain: Factor on the output of the leaky ReLU.
    slope: Slope of the leaky ReLU for negative inputs.
    clamp: Bound on the magnitude after the gain, at least 0; None for none.
    input_scale: Factors on x, applied before the bias: the demodulation of a
      modulated convolution; None for 1.
    output_scale: Factors on the result: the styles of the next convolution;
      None for 1. The gradient of a factor that is exactly zero is set to zero.
    implementation: One of `implementations()`. 'pallas' selects the kernel of
      the platform if it supports the call, else 'banded'; any other name
      selects exactly that implementation. None selects
      `default_implementation` for the devices of the context's mesh
      (`jax.set_mesh`) or, without a mesh, for the default device; the choice is
      logged once per shape. Arrays on a mesh of Explicit axes need that mesh in
      the context; the result is sharded like x along samples and channels.

  Returns:
    The result, in the dtype of x.

  Raises:
    TypeError: If x has another dtype, a filter is traced, or a rate or the
      padding does not consist of integers.
    ValueError: If a shape or a value is out of its range, the output is empty,
      or the implementation is unknown.
    NotImplementedError: If the named implementation does not support the call.
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
  """Returns the plan of `filtered_lrelu` for maps of a shape [h, w] and dtype.

  The other arguments, and the errors, are those of `filtered_lrelu`.
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
  """Raises an error if shapes do not match or the dtype is not supported."""
  if x.ndim != 4 or not x.size:
    raise ValueError(
      'filtered_lrelu: x must be a non-empty array [n, h, w, c], got shape '
      f'{x.shape}.'
    )
  if jnp.dtype(x.dtype).name not in _DTYPES:
    raise TypeError(
      f'filtered_lrelu: x must be one of {", ".join(_DTYPES)}, got {x.dtype}.'
    )
  if b is not None and b.shape != x.shape[-1:]:
    raise ValueError(
      f'filtered_lrelu: b must have the shape [{x.shape[-1]}] for x {x.shape}, '
      f'got {b.shape}.'
    )
  for name, factors in scales.items():
    if factors is not None and factors.shape != (x.shape[0], x.shape[-1]):
      raise ValueError(
        f'filtered_lrelu: {name} must have the shape [{x.shape[0]}, '
        f'{x.shape[-1]}] for x {x.shape}, got {factors.shape}.'
      )


def _scale_factors(factors: AnyArray | None, dtype: Any) -> Array | None:
  """Returns the factors in float32, or in float64 if `dtype` is float64."""
  if factors is None:
    return None
  return jnp.asarray(factors, widen(dtype))


def _filter(name: str, f: Any) -> np.ndarray | None:
  if f is None:
    return None
  if isinstance(f, Tracer):
    raise TypeError(
      f'filtered_lrelu: {name} must be a concrete array, got a traced one. '
      'Design it in NumPy outside of the jitted function, or close over it.'
    )
  f = np.asarray(f, np.float64)
  if f.ndim not in (1, 2) or not f.size or not np.isfinite(f).all():
    raise ValueError(
      f'filtered_lrelu: {name} must be a finite, non-empty filter with 1 or 2 '
      f'axes, got shape {f.shape}.'
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
