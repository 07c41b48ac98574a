"""The per-layer arithmetic of alias-free synthesis networks; no arrays here.

A `SynthesisSpec` states the design (paper section 3.2 and appendix, Eq. 35-36);
its `layers` are the sampling rates, cutoffs, sizes, factors and paddings that
follow. Symbols of the paper, used in the comments below:

  s    sampling rate, samples a canvas side       f_c  cutoff, cycles a side
  f_t  stopband, cycles a side                    f_h  half-width of the
  s_N  sampling rate of the image                      transition band
  N    layers before ToRGB                        m    upsampling of the lrelu

The canvas is the unit square that the image shows, extended by a margin.
"""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from sg3jax.ops import filters

Padding = tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSpec:
  """The geometry of one synthesis layer, a value that fixes its operator.

  Attributes:
    index: Position, 0 for the first; ToRGB comes last.
    in_channels: Channels of the input.
    out_channels: Channels of the output.
    in_size: Samples a side of the input, margins included.
    out_size: Samples a side of the output.
    in_sampling_rate: Sampling rate of the input, samples a canvas side.
    out_sampling_rate: Sampling rate of the output.
    tmp_sampling_rate: Rate at which the nonlinearity is evaluated (s').
    in_cutoff: Cutoff of the upsampling filter, cycles a canvas side.
    out_cutoff: Cutoff of the downsampling filter.
    in_half_width: Half-width of the upsampling filter's transition band.
    out_half_width: The same of the downsampling filter.
    up_factor: s' / in_sampling_rate.
    down_factor: s' / out_sampling_rate.
    up_taps: Taps of the upsampling filter, 1 for none.
    down_taps: Taps of the downsampling filter a side, 1 for none.
    radial_down_filter: Whether the downsampling filter is a jinc.
    padding: ((top, bottom), (left, right)) around the zero-inserted input, in
      samples of s'; negative amounts crop.
    conv_kernel: Side of the convolution kernel.
    is_critical: Whether the output is critically sampled, f_c = s/2.
    is_torgb: Whether this is ToRGB: no filters, nonlinearity, demodulation.
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

  @property
  def name(self) -> str:
    """The layer's name in parameter trees."""
    return f'L{self.index}'

  def up_filter(self) -> np.ndarray | None:
    """Returns the upsampling low-pass [t], float64, or None for factor 1."""
    if self.up_taps == 1:
      return None
    return filters.kaiser_lowpass(
      self.up_taps,
      cutoff=self.in_cutoff,
      half_width=self.in_half_width,
      sampling_rate=self.tmp_sampling_rate,
    )

  def down_filter(self) -> np.ndarray | None:
    """Returns the downsampling low-pass, [t] or radial [t, t], or None."""
    if self.down_taps == 1:
      return None
    design = (
      filters.radial_lowpass
      if self.radial_down_filter
      else filters.kaiser_lowpass
    )
    return design(
      self.down_taps,
      cutoff=self.out_cutoff,
      half_width=self.out_half_width,
      sampling_rate=self.tmp_sampling_rate,
    )

  @property
  def padded_size(self) -> int:
    """Rows and columns that the convolution puts out."""
    return self.in_size + self.conv_kernel - 1

  def nonlinearity(self) -> dict[str, Any]:
    """Returns the layer's arguments of `ops.filtered_lrelu`, but the clamp.

    ToRGB is linear: no filters, slope 1.
    """
    return {
      'fu': self.up_filter(),
      'fd': self.down_filter(),
      'up': self.up_factor,
      'down': self.down_factor,
      'padding': self.padding,
      'gain': 1.0 if self.is_torgb else 2**0.5,
      'slope': 1.0 if self.is_torgb else 0.2,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesisSpec:
  """A design of an alias-free synthesis network (config T by default).

  Attributes:
    resolution: Image size a side, s_N. Sampling rates are s_N over powers of
      two, so that every up- and downsampling factor is an integer; sizes that
      are no power of two work too.
    img_channels: Image channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    channel_base: Channels are channel_base / (2 f_c), ...
    channel_max: ... at most this many.
    num_layers: N, layers before ToRGB.
    num_critical: Critically sampled layers at the end.
    first_cutoff: f_c of layer 0.
    first_stopband: f_t of layer 0.
    last_stopband_rel: f_t of the last layer over its cutoff s_N / 2.
    margin: Samples added around the canvas on each side.
    filter_size: Taps of a low-pass filter per unit of its factor, n.
    lrelu_upsampling: m, oversampling of the nonlinearity.
    conv_kernel: Side of the convolution kernels: 3 for T, 1 for R.
    radial_filters: Whether non-critical layers downsample with a jinc (R).

  Raises:
    ValueError: If the design is impossible; the message names the field.
  """

  resolution: int
  img_channels: int = 3
  channel_base: int = 32768
  channel_max: int = 512
  num_layers: int = 14
  num_critical: int = 2
  first_cutoff: float = 2.0
  first_stopband: float = 2.0**2.1
  last_stopband_rel: float = 2.0**0.3
  margin: int = 10
  filter_size: int = 6
  lrelu_upsampling: int = 2
  conv_kernel: int = 3
  radial_filters: bool = False

  def __post_init__(self):
    positive = {
      'channel_base': self.channel_base,
      'channel_max': self.channel_max,
      'num_critical + 1': self.num_critical + 1,
      'first_cutoff': self.first_cutoff,
      'margin + 1': self.margin + 1,
      'filter_size': self.filter_size,
      'lrelu_upsampling': self.lrelu_upsampling,
    }
    for name, value in positive.items():
      if value <= 0:
        raise ValueError(f'{name} must be positive, is {value}')
    if self.resolution < 16:
      raise ValueError(f'resolution must be at least 16, is {self.resolution}')
    if self.img_channels not in (1, 3, 4):
      raise ValueError(
        f'img_channels must be 1 (grey), 3 (RGB) or 4 (RGBA), is '
        f'{self.img_channels}'
      )
    if self.conv_kernel % 2 != 1:
      raise ValueError(f'conv_kernel must be odd, is {self.conv_kernel}')
    if self.num_layers <= self.num_critical:
      raise ValueError(
        f'num_layers must exceed num_critical, are {self.num_layers} and '
        f'{self.num_critical}'
      )
    if self.first_cutoff > self.resolution / 2:
      raise ValueError(
        f'first_cutoff {self.first_cutoff} lies above the Nyquist rate '
        f'{self.resolution / 2} of a {self.resolution}-pixel image'
      )
    if self.first_stopband < self.first_cutoff or self.last_stopband_rel < 1:
      raise ValueError(
        'a stopband lies below its cutoff: first_cutoff '
        f'{self.first_cutoff}, first_stopband {self.first_stopband}, '
        f'last_stopband_rel {self.last_stopband_rel}'
      )
    odd_part = self.resolution // (self.resolution & -self.resolution)
    if self.resolution / self.sampling_rates[0] > self.resolution / odd_part:
      raise ValueError(
        f'resolution {self.resolution} cannot be halved down to the first '
        f"layer's rate {self.sampling_rates[0]:g}: use {odd_part}·2^k with a "
        'smaller odd factor'
      )

  @property
  def num_ws(self) -> int:
    """Styles the network takes: Fourier input, layers, ToRGB."""
    return self.num_layers + 2

  @property
  def takes_transforms(self) -> bool:
    """Whether images can be moved by a transform of the input: always."""
    return True

  @functools.cached_property
  def cutoffs(self) -> np.ndarray:
    """f_c of layers 0..N, float64 [N + 1] (Eq. 35)."""
    return self._geometric(self.first_cutoff, self.resolution / 2)

  @functools.cached_property
  def stopbands(self) -> np.ndarray:
    """f_t of layers 0..N, float64 [N + 1] (Eq. 36)."""
    last = self.resolution / 2 * self.last_stopband_rel
    return self._geometric(self.first_stopband, last)

  def _geometric(self, first: float, last: float) -> np.ndarray:
    layers = np.arange(self.num_layers + 1)
    exponents = np.minimum(layers / (self.num_layers - self.num_critical), 1)
    return first * (last / first) ** exponents

  @functools.cached_property
  def sampling_rates(self) -> np.ndarray:
    """S of layers 0..N: the least s_N / 2^k that holds 2 f_t, or s_N."""
    wanted = np.minimum(2 * self.stopbands, self.resolution)
    halvings = np.floor(np.log2(self.resolution / wanted))
    return self.resolution / np.exp2(halvings)

  @functools.cached_property
  def half_widths(self) -> np.ndarray:
    """f_h of layers 0..N: max(f_t, s/2) - f_c."""
    return np.maximum(self.stopbands, self.sampling_rates / 2) - self.cutoffs

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    """Samples a side of the outputs of layers 0..N; the last two uncropped."""
    sizes = self.sampling_rates.astype(int) + 2 * self.margin
    sizes[-2:] = self.resolution
    return sizes

  @functools.cached_property
  def channels(self) -> np.ndarray:
    """Output channels of layers 0..N; the last is the image's."""
    channels = np.rint(self.channel_base / 2 / self.cutoffs).astype(int)
    channels = np.clip(channels, 1, self.channel_max)
    channels[-1] = self.img_channels
    return channels

  @property
  def input_size(self) -> int:
    """Samples a side of the Fourier features."""
    return int(self.sizes[0])

  @functools.cached_property
  def layers(self) -> tuple[LayerSpec, ...]:
    """The specs of layers 0..N; the last is ToRGB."""
    return tuple(self._layer(i) for i in range(self.num_layers + 1))

  def _layer(self, i: int) -> LayerSpec:
    previous = max(i - 1, 0)
    is_torgb = i == self.num_layers
    is_critical = i >= self.num_layers - self.num_critical
    in_rate, out_rate = self.sampling_rates[[previous, i]]
    in_size, out_size = (int(size) for size in self.sizes[[previous, i]])
    oversampling = 1 if is_torgb else self.lrelu_upsampling
    tmp_rate = max(in_rate, out_rate) * oversampling
    up, down = int(tmp_rate / in_rate), int(tmp_rate / out_rate)
    filtered = not is_torgb
    up_taps = self.filter_size * up if up > 1 and filtered else 1
    down_taps = self.filter_size * down if down > 1 and filtered else 1
    conv_kernel = 1 if is_torgb else self.conv_kernel
    pad = _padding(
      in_size + conv_kernel - 1, out_size, up, down, up_taps, down_taps
    )
    return LayerSpec(
      index=i,
      in_channels=int(self.channels[previous]),
      out_channels=int(self.channels[i]),
      in_size=in_size,
      out_size=out_size,
      in_sampling_rate=float(in_rate),
      out_sampling_rate=float(out_rate),
      tmp_sampling_rate=float(tmp_rate),
      in_cutoff=float(self.cutoffs[previous]),
      out_cutoff=float(self.cutoffs[i]),
      in_half_width=float(self.half_widths[previous]),
      out_half_width=float(self.half_widths[i]),
      up_factor=up,
      down_factor=down,
      up_taps=up_taps,
      down_taps=down_taps,
      radial_down_filter=self.radial_filters and not is_critical,
      padding=(pad, pad),
      conv_kernel=conv_kernel,
      is_critical=is_critical,
      is_torgb=is_torgb,
    )


def _padding(
  in_size: int, out_size: int, up: int, down: int, up_taps: int, down_taps: int
) -> tuple[int, int]:
  """Returns (low, high) so that the canvas stays centred (appendix C.3)."""
  total = (out_size - 1) * down + 1 - in_size * up + up_taps + down_taps - 2
  # The first of `up` inserted samples is the input's: shifting by half the
  # difference keeps pixel centres symmetric about the canvas centre.
  low = math.floor((total + up) / 2)
  return low, total - low


def stylegan3_t(
  resolution: int,
  *,
  channel_base: int = 32768,
  channel_max: int = 512,
  **overrides,
) -> SynthesisSpec:
  """Returns config T, translation equivariant (paper section 3.2).

  Args:
    resolution: Image size a side.
    channel_base: Capacity; the paper's 256-pixel ladder uses 16384.
    channel_max: Most channels of a layer.
    **overrides: Any other field of `SynthesisSpec`.
  """
  return SynthesisSpec(
    resolution=resolution,
    channel_base=channel_base,
    channel_max=channel_max,
    **overrides,
  )


def stylegan3_r(
  resolution: int,
  *,
  channel_base: int = 32768,
  channel_max: int = 512,
  **overrides,
) -> SynthesisSpec:
  """Returns config R, translation and rotation equivariant (section 3.2).

  1x1 convolutions, radially symmetric filters, and twice the channels that the
  arguments name, as the paper and its tools count them.

  Args:
    resolution: Image size a side.
    channel_base: Half the capacity.
    channel_max: Half the most channels of a layer.
    **overrides: Any other field of `SynthesisSpec`.
  """
  return SynthesisSpec(
    resolution=resolution,
    channel_base=2 * channel_base,
    channel_max=2 * channel_max,
    **{'conv_kernel': 1, 'radial_filters': True, **overrides},
  )
