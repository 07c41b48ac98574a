"""Layers of StyleGAN3 for tests, checks and benchmarks of the operator.

`LAYERS` come from configs T and R at 256 x 256 pixels and cover each kind of
rate, filter and border that occurs there. Frequencies are in the units of
`ops.filters`. `distinct_layers` yields the layers of any design.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from sg3jax.nets.layer_spec import LayerSpec
from sg3jax.nets.spec import SynthesisSpec
from sg3jax.ops import filters
from sg3jax.ops.filtered_lrelu import make_plan
from sg3jax.ops.filtered_lrelu.plan import Plan

# The published bound of 16-bit feature maps.
CLAMP = 256.0


@dataclasses.dataclass(frozen=True)
class LayerShape:
  """The shape of one call of `filtered_lrelu` on square feature maps.

  Attributes:
    name: Design and name of the layer.
    size: Rows and columns of the input, including the convolution's border.
    channels: Number of channels.
    up: Upsampling factor; its filter has 6 * up taps. Factor 1 has no filter.
    down: Downsampling factor; its filter has 6 * down taps, likewise.
    padding: (low, high) along both axes.
    sampling_rate: Sampling rate between the filters.
    up_band: (cutoff, half_width) of the upsampling filter.
    down_band: (cutoff, half_width) of the downsampling filter.
    is_radial: Whether the downsampling filter is radial.
  """

  name: str
  size: int
  channels: int
  up: int
  down: int
  padding: tuple[int, int]
  sampling_rate: float
  up_band: tuple[float, float]
  down_band: tuple[float, float]
  is_radial: bool = False

  @property
  def up_filter(self) -> np.ndarray | None:
    """The upsampling filter, float64."""
    return self._design(self.up, self.up_band, False)

  @property
  def down_filter(self) -> np.ndarray | None:
    """The downsampling filter, float64."""
    return self._design(self.down, self.down_band, self.is_radial)

  def _design(
    self, factor: int, band: tuple[float, float], is_radial: bool
  ) -> np.ndarray | None:
    if factor == 1:
      return None
    design = filters.radial_lowpass if is_radial else filters.kaiser_lowpass
    cutoff, half_width = band
    return design(
      6 * factor,
      cutoff=cutoff,
      half_width=half_width,
      sampling_rate=self.sampling_rate,
    )

  def options(self) -> dict[str, Any]:
    """Returns the keyword arguments of `filtered_lrelu`, filters included."""
    return {
      'fu': self.up_filter,
      'fd': self.down_filter,
      'up': self.up,
      'down': self.down,
      'padding': self.padding,
      'gain': float(np.sqrt(2)),
      'slope': 0.2,
      'clamp': CLAMP,
    }


LAYERS = (
  LayerShape('t-L0', 38, 512, 2, 2, (9, 8), 32.0, (2.0, 6.0), (2.0, 6.0)),
  LayerShape(
    't-L3', 38, 512, 4, 2, (-6, -9), 64.0, (4.0, 4.0), (5.657, 10.343)
  ),
  LayerShape(
    't-L5', 54, 512, 4, 2, (-6, -9), 128.0, (8.0, 8.0), (11.314, 20.686)
  ),
  LayerShape(
    't-L6', 86, 512, 2, 2, (9, 8), 128.0, (11.314, 20.686), (16.0, 16.0)
  ),
  LayerShape(
    't-L8', 150, 256, 2, 2, (9, 8), 256.0, (22.627, 41.373), (32.0, 32.0)
  ),
  LayerShape(
    't-L10', 150, 128, 4, 2, (-6, -9), 512.0, (45.255, 18.745), (64.0, 64.0)
  ),
  LayerShape(
    't-L12', 278, 64, 2, 2, (9, 8), 512.0, (90.51, 37.49), (128.0, 29.586)
  ),
  LayerShape(
    't-L13', 278, 64, 2, 2, (-11, -12), 512.0, (128.0, 29.586), (128.0, 29.586)
  ),
  LayerShape(
    't-ToRGB', 256, 3, 1, 1, (0, 0), 256.0, (128.0, 1.0), (128.0, 1.0)
  ),
  LayerShape(
    'r-L0', 36, 1024, 2, 2, (11, 10), 32.0, (2.0, 6.0), (2.0, 6.0), True
  ),
  LayerShape(
    'r-L2', 36, 1024, 2, 2, (11, 10), 32.0, (2.828, 5.172), (4.0, 4.0), True
  ),
  LayerShape(
    'r-L3', 36, 1024, 4, 2, (-2, -5), 64.0, (4.0, 4.0), (5.657, 10.343), True
  ),
  LayerShape(
    'r-L9',
    148,
    724,
    2,
    2,
    (11, 10),
    256.0,
    (32.0, 32.0),
    (45.255, 18.745),
    True,
  ),
)


def layer_plan(layer: LayerSpec, dtype: Any = 'bfloat16') -> Plan:
  """Returns the plan of a layer's nonlinearity for feature maps of a dtype."""
  size = (layer.padded_size, layer.padded_size)
  options = layer.nonlinearity()
  return make_plan(size, jnp.dtype(dtype), **options, clamp=CLAMP)


def distinct_layers(
  spec: SynthesisSpec, dtype: Any = 'bfloat16'
) -> Iterator[tuple[LayerSpec, Plan]]:
  """Yields one layer of each geometry, with the plan of its nonlinearity.

  Layers that differ only in the taps of their filters count as equal. ToRGB is
  omitted, because it has no nonlinearity.

  Args:
    spec: The design.
    dtype: Dtype of the feature maps.
  """
  seen = set()
  for layer in spec.layers:
    if layer.is_torgb:
      continue
    plan = layer_plan(layer, dtype)
    kind = (
      layer.padded_size, layer.out_channels, layer.up_factor, layer.padding,
      len(plan.contract),
    )  # fmt: skip
    if kind not in seen:
      seen.add(kind)
      yield layer, plan
