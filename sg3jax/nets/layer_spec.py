"""The geometry of one alias-free synthesis layer, and its filters.

`nets.spec` explains the symbols of the paper.
"""

import dataclasses
from typing import Any

import numpy as np

from sg3jax.ops import filters

Padding = tuple[tuple[int, int], tuple[int, int]]

# Designs of low-pass filters; 'ideal' is a brick wall in the Fourier domain.
FILTERS = ('kaiser', 'binomial', 'lanczos', 'gaussian', 'ideal')

LOBES = 2  # Lobes of the Lanczos filter on each side.


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSpec:
  """The geometry of one synthesis layer, which determines its operator.

  Attributes:
    index: Position, 0 for the first layer; ToRGB is the last.
    in_channels: Channels of the input.
    out_channels: Channels of the output.
    in_size: Samples per side of the input, margins included.
    out_size: Samples per side of the output.
    in_sampling_rate: Sampling rate of the input, samples per side of the
      canvas.
    out_sampling_rate: Sampling rate of the output.
    tmp_sampling_rate: Rate at which the nonlinearity is evaluated (s').
    in_cutoff: Cutoff of the upsampling filter, cycles per side of the canvas.
    out_cutoff: Cutoff of the downsampling filter.
    in_half_width: Half-width of the transition band of the upsampling filter.
    out_half_width: Half-width of the transition band of the downsampling
      filter.
    up_factor: Upsampling factor, s' / in_sampling_rate.
    down_factor: Downsampling factor, s' / out_sampling_rate.
    up_taps: Taps of the upsampling filter, 1 for none.
    down_taps: Taps of the downsampling filter per side, 1 for none.
    radial_down_filter: Whether the downsampling filter is a jinc.
    padding: ((top, bottom), (left, right)) around the zero-inserted input, in
      samples of s'; negative padding crops.
    conv_kernel: Side of the convolution kernel.
    is_critical: Whether the output is critically sampled, f_c = s/2.
    is_torgb: Whether this is ToRGB, which has no filters, nonlinearity or
      demodulation.
    filter: Design of the low-pass filters, one of `FILTERS`.
    conv_before_up: Whether the convolution runs at the rate of the input, and
      upsampling is a part of the nonlinearity.
    noise: Whether noise is added to the output of the convolution.
    group: Number of orientations of the features, 1 or 4; channels are counted
      per orientation.
  """

  index: int
  in_channels: int
  out_channels: int
  in_size: int
  out_size: int
  in_sampling_rate: float
  out_sampling_rate: float
  tmp_sampling_rate: float
  in_cutoff: float
  out_cutoff: float
  in_half_width: float
  out_half_width: float
  up_factor: int
  down_factor: int
  up_taps: int
  down_taps: int
  radial_down_filter: bool
  padding: Padding
  conv_kernel: int
  is_critical: bool
  is_torgb: bool
  filter: str
  conv_before_up: bool
  noise: bool
  group: int

  @property
  def name(self) -> str:
    """The layer's name in parameter trees."""
    return f'L{self.index}'

  def up_filter(self) -> np.ndarray | None:
    """Returns the upsampling filter [t], float64, or None for factor 1."""
    return self._lowpass(self.up_taps, self.in_cutoff, self.in_half_width)

  def down_filter(self) -> np.ndarray | None:
    """Returns the downsampling filter, [t] or radial [t, t], or None."""
    return self._lowpass(
      self.down_taps,
      self.out_cutoff,
      self.out_half_width,
      radial=self.radial_down_filter,
    )

  def _lowpass(
    self, taps: int, cutoff: float, half_width: float, *, radial: bool = False
  ) -> np.ndarray | None:
    if taps == 1:
      return None
    if self.filter == 'binomial':
      return filters.BINOMIAL
    rates = {'cutoff': cutoff, 'sampling_rate': self.tmp_sampling_rate}
    if self.filter == 'lanczos':
      return filters.lanczos_lowpass(taps, lobes=LOBES, **rates)
    if self.filter == 'gaussian':
      return filters.gaussian_lowpass(taps, **rates)
    design = filters.radial_lowpass if radial else filters.kaiser_lowpass
    return design(taps, half_width=half_width, **rates)

  @property
  def padded_size(self) -> int:
    """Rows and columns of the output of the convolution."""
    if not self.conv_before_up:
      return self.out_size
    return self.in_size + self.conv_kernel - 1

  def upsampling(self) -> dict[str, Any]:
    """Returns arguments of `ops.upfirdn`, if it precedes the convolution.

    The result has a border as wide as the convolution removes.
    """
    f = self.up_filter()
    return {
      'f': np.ones(1) if f is None else f,
      'up': self.up_factor,
      'padding': self.padding,
      'gain': self.up_factor**2,
    }

  @property
  def is_ideal(self) -> bool:
    """Whether `ideal_nonlinearity` replaces `nonlinearity`."""
    return self.filter == 'ideal' and not self.is_torgb

  def ideal_nonlinearity(self) -> dict[str, Any]:
    """Returns arguments of `ops.ideal_filtered_lrelu`, except the clamp."""
    return {
      'up': self.up_factor,
      'down': self.down_factor,
      'up_cutoff': self.in_cutoff / self.tmp_sampling_rate,
      'down_cutoff': self.out_cutoff / self.tmp_sampling_rate,
      'size': self.out_size,
      'gain': 2**0.5,
      'slope': 0.2,
    }

  def nonlinearity(self) -> dict[str, Any]:
    """Returns arguments of `ops.filtered_lrelu`, except the clamp.

    ToRGB is linear: no filters, slope 1. If upsampling precedes the
    convolution, the nonlinearity is pointwise.
    """
    filtering: dict[str, Any] = {'fu': None, 'fd': None}
    if self.conv_before_up:
      filtering = {
        'fu': self.up_filter(),
        'fd': self.down_filter(),
        'up': self.up_factor,
        'down': self.down_factor,
        'padding': self.padding,
      }
    return filtering | {
      'gain': 1.0 if self.is_torgb else 2**0.5,
      'slope': 1.0 if self.is_torgb else 0.2,
    }
