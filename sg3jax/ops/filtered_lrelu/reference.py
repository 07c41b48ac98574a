"""The readable definition of `filtered_lrelu`, with depthwise convolutions.

It uses plain automatic differentiation. It is the specification against which
the other implementations are tested, and the baseline for their speed.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from sg3jax.ops.dtypes import widen
from sg3jax.ops.filtered_lrelu.plan import AxisPadding, Plan
from sg3jax.ops.filtered_lrelu.scaling import Scaling
from sg3jax.types import Array


def filtered_lrelu(
  plan: Plan,
  x: Array,
  s: Array | None = None,
  b: Array | None = None,
  o: Array | None = None,
) -> Array:
  """Returns o D act(U (s x + b)) for x [n, h, w, c], s and o [n, c], b [c].

  Computed in float32 or wider.
  """
  scaling = Scaling((s, None), b, result=o)
  (y,) = scaling.enter(x.astype(widen(x.dtype)))
  y = _resample(y, plan.fu, up=plan.up, padding=plan.padding)
  y = plan.activation.value(y)
  y = _resample(y, plan.fd, down=plan.down)
  return scaling.leave(y).astype(x.dtype)


def _resample(
  x: Array,
  taps: tuple | None,
  *,
  up: int = 1,
  down: int = 1,
  padding: tuple[AxisPadding, AxisPadding] = ((0, 0), (0, 0)),
) -> Array:
  """Inserts zeros, pads, filters with gain up^2, keeps every down-th sample."""
  f = np.ones(1) if taps is None else np.asarray(taps)
  if f.ndim == 2:
    return _convolve(x, f, (up, up), (down, down), padding)
  x = _convolve(x, f[None, :], (1, up), (1, down), ((0, 0), padding[1]))
  return _convolve(x, f[:, None], (up, 1), (down, 1), (padding[0], (0, 0)))


def _convolve(
  x: Array,
  f: np.ndarray,
  up: tuple[int, int],
  down: tuple[int, int],
  padding: tuple[AxisPadding, AxisPadding],
) -> Array:
  channels = x.shape[-1]
  # XLA's convolution is a correlation: flip the filter.
  kernel = jnp.asarray(np.flip(f) * up[0] * up[1], x.dtype)
  kernel = jnp.broadcast_to(kernel[..., None, None], (*f.shape, 1, channels))
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=down,
    # lhs_dilation does not insert zeros after the last sample.
    padding=[
      (low, high + factor - 1)
      for (low, high), factor in zip(padding, up, strict=True)
    ],
    lhs_dilation=up,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=channels,
    precision=lax.Precision.HIGHEST,
  )
