"""The per-layer arithmetic of alias-free synthesis networks, without arrays.

A `SynthesisSpec` is a design (paper section 3.2 and appendix, Eq. 35-36). Its
`layers` contain the resulting sampling rates, cutoffs, sizes, factors and
paddings. The comments below use the symbols of the paper:

  s    sampling rate, samples per side            f_c  cutoff, cycles per side
  f_t  stopband, cycles per side                  f_h  half-width of the
  s_N  sampling rate of the image                      transition band
  N    layers before ToRGB                        m    upsampling of the lrelu

The canvas is the unit square that the image shows, extended by a margin. A side
is that of the unit square.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from sg3jax.nets.layer_spec import FILTERS, LOBES, LayerSpec
from sg3jax.ops import filters

# Schedules of sampling rates and cutoffs over layers (math.md 2.5). 'critical'
# and 'lowered' double the rate with every second layer; the cutoff is at the
# Nyquist frequency or below it. 'flexible' is the schedule of T and R.
SAMPLINGS = ('flexible', 'lowered', 'critical')

_GROUP = 4  # Orientations of a p4-symmetric layer.
_TAIL = 8  # Samples of a Gaussian filter on each side.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesisSpec:
  """A design of an alias-free synthesis network (config T by default).

  Configs D to H of the paper's ladder, and its ablations, are other values of
  this class (docs/ladder.md).

  Attributes:
    resolution: Pixels per side of the image, s_N. Sampling rates are s_N
      divided by powers of two, so that every up- and downsampling factor is an
      integer; s_N need not be a power of two.
    img_channels: Image channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    channel_base: A layer has channel_base / (2 f_c) channels, at most
      channel_max.
    channel_max: See channel_base.
    num_layers: N, layers before ToRGB; if rates double with every second layer,
      two for each rate from that of the image down to 4.
    num_critical: Number of critically sampled layers at the end.
    sampling: Schedule of rates and cutoffs, one of `SAMPLINGS`.
    first_cutoff: f_c of the input, and of layer 0 if the sampling is flexible.
    first_stopband: f_t of layer 0; only for flexible sampling.
    last_stopband_rel: f_t of the last layer divided by its cutoff s_N / 2; only
      for flexible sampling.
    learned_transform: Whether a style rotates and translates the input (from H
      on).
    margin: Samples added around the canvas on each side.
    filter: Design of the low-pass filters, one of `FILTERS`.
    filter_size: n, taps of a Kaiser filter per unit of its factor.
    lrelu_upsampling: m, oversampling of the nonlinearity.
    conv_before_up: Whether upsampling is a part of the nonlinearity. If not, it
      precedes the convolution, and the nonlinearity is pointwise (D, E).
    conv_kernel: Side of the convolution kernels: 3 for T, 1 for R.
    radial_filters: Whether non-critical layers downsample with a jinc (R).
    noise: Whether layers add noise, as in StyleGAN2.
    p4: Whether layers are equivariant to rotations by 90 degrees (appendix
      F.3): features have four orientations, each with `channel_base`.

  Raises:
    ValueError: If the design is impossible; the message names the field.
  """

  resolution: int
  img_channels: int = 3
  channel_base: int = 32768
  channel_max: int = 512
  num_layers: int = 14
  num_critical: int = 2
  sampling: str = 'flexible'
  first_cutoff: float = 2.0
  first_stopband: float = 2.0**2.1
  last_stopband_rel: float = 2.0**0.3
  learned_transform: bool = True
  margin: int = 10
  filter: str = 'kaiser'
  filter_size: int = 6
  lrelu_upsampling: int = 2
  conv_before_up: bool = True
  conv_kernel: int = 3
  radial_filters: bool = False
  noise: bool = False
  p4: bool = False

  def __post_init__(self):
    for name, known in (('sampling', SAMPLINGS), ('filter', FILTERS)):
      check_choice(name, getattr(self, name), known)
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
        raise ValueError(f'{name} must be positive, got {value}')
    if self.resolution < 16:
      raise ValueError(f'resolution must be at least 16, got {self.resolution}')
    check_img_channels(self.img_channels)
    if self.conv_kernel % 2 != 1:
      raise ValueError(f'conv_kernel must be odd, got {self.conv_kernel}')
    if self.num_layers <= self.num_critical:
      raise ValueError(
        f'num_layers must exceed num_critical, got {self.num_layers} and '
        f'{self.num_critical}'
      )
    if self.first_cutoff > self.resolution / 2:
      raise ValueError(
        f'first_cutoff must be at most {self.resolution / 2}, the Nyquist '
        f'frequency of a {self.resolution}-pixel image, got {self.first_cutoff}'
      )
    if self.first_stopband < self.first_cutoff or self.last_stopband_rel < 1:
      raise ValueError(
        'stopbands must be at least their cutoffs, got first_cutoff '
        f'{self.first_cutoff}, first_stopband {self.first_stopband} and '
        f'last_stopband_rel {self.last_stopband_rel}'
      )
    self._check_combination()
    odd_part = self.resolution // (self.resolution & -self.resolution)
    if self.resolution / self.sampling_rates[0] > self.resolution / odd_part:
      raise ValueError(
        'resolution must be divisible by powers of two down to the rate '
        f'{self.sampling_rates[0]:g} of the first layer, got '
        f'{self.resolution}: use {_sizes_near(self.resolution)}'
      )

  def _check_combination(self) -> None:
    if self.sampling != 'flexible':
      needed = 2 * len(_doubled_rates(self.resolution))
      if self.num_layers != needed:
        raise ValueError(
          f'num_layers must be {needed} for the sampling {self.sampling!r} and '
          f'the resolution {self.resolution}, got {self.num_layers}'
        )
    if not self.conv_before_up and self.lrelu_upsampling != 1:
      raise ValueError(
        'lrelu_upsampling must be 1 without conv_before_up, which makes the '
        f'nonlinearity pointwise, got {self.lrelu_upsampling}'
      )
    if self.filter == 'ideal' and not self.conv_before_up:
      raise ValueError(
        "conv_before_up must be true for the filter 'ideal', got false"
      )
    if self.filter == 'binomial' and self.lrelu_upsampling != 1:
      raise ValueError(
        "lrelu_upsampling must be 1 for the filter 'binomial', which only "
        f'upsamples by 2, got {self.lrelu_upsampling}'
      )
    if self.radial_filters and self.filter != 'kaiser':
      raise ValueError(
        "filter must be 'kaiser' with radial_filters, got "
        f'{self.filter!r}, which is separable'
      )

  @property
  def num_ws(self) -> int:
    """Number of styles: for the Fourier input, the layers and ToRGB."""
    return self.num_layers + 2

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Rows, columns and channels of an image."""
    return (self.resolution, self.resolution, self.img_channels)

  @property
  def takes_transforms(self) -> bool:
    """Whether a transform of the input can move images: always true."""
    return True

  @functools.cached_property
  def cutoffs(self) -> np.ndarray:
    """f_c of layers 0..N, float64 [N + 1] (Eq. 35)."""
    if self.sampling != 'flexible':
      cutoffs = self.sampling_rates / 2
      if self.sampling == 'lowered':
        is_lowered = np.arange(self.num_layers + 1) < self._first_critical
        cutoffs = cutoffs - is_lowered * _transition(self.sampling_rates)
      return cutoffs
    return self._geometric(self.first_cutoff, self.resolution / 2)

  @functools.cached_property
  def stopbands(self) -> np.ndarray:
    """f_t of layers 0..N, float64 [N + 1] (Eq. 36)."""
    if self.sampling != 'flexible':
      return self.cutoffs + _transition(self.sampling_rates)
    last = self.resolution / 2 * self.last_stopband_rel
    return self._geometric(self.first_stopband, last)

  def _geometric(self, first: float, last: float) -> np.ndarray:
    layers = np.arange(self.num_layers + 1)
    exponents = np.minimum(layers / self._first_critical, 1)
    return first * (last / first) ** exponents

  @functools.cached_property
  def sampling_rates(self) -> np.ndarray:
    """The s of layers 0..N: the least s_N / 2^k of at least 2 f_t, or s_N."""
    if self.sampling != 'flexible':
      rates = np.repeat(_doubled_rates(self.resolution), 2)
      return np.append(rates, self.resolution).astype(float)
    wanted = np.minimum(2 * self.stopbands, self.resolution)
    # The tolerance accepts a rate that equals 2 f_t up to rounding.
    halvings = np.floor(np.log2(self.resolution / wanted) + 1e-9)
    return self.resolution / np.exp2(halvings)

  @functools.cached_property
  def half_widths(self) -> np.ndarray:
    """f_h of layers 0..N: max(f_t, s/2) - f_c."""
    return np.maximum(self.stopbands, self.sampling_rates / 2) - self.cutoffs

  @functools.cached_property
  def sizes(self) -> np.ndarray:
    """Samples per side of the outputs of layers 0..N.

    All have margins, except those of the last two layers.
    """
    sizes = self.sampling_rates.astype(int) + 2 * self.margin
    sizes[-2:] = self.resolution
    return sizes

  @functools.cached_property
  def channels(self) -> np.ndarray:
    """Output channels of layers 0..N; the last is that of the image."""
    channels = np.rint(self.channel_base / 2 / self.cutoffs).astype(int)
    channels = np.clip(channels, 1, self.channel_max)
    channels[-1] = self.img_channels
    return channels

  @property
  def _first_critical(self) -> int:
    return self.num_layers - self.num_critical

  @property
  def input_size(self) -> int:
    """Samples per side of the Fourier features."""
    return int(self.sizes[0])

  @functools.cached_property
  def layers(self) -> tuple[LayerSpec, ...]:
    """The specs of layers 0..N; the last is ToRGB."""
    return tuple(self._layer(i) for i in range(self.num_layers + 1))

  def _layer(self, i: int) -> LayerSpec:
    previous = max(i - 1, 0)
    is_torgb = i == self.num_layers
    is_critical = self.sampling == 'critical' or i >= self._first_critical
    in_rate, out_rate = self.sampling_rates[[previous, i]]
    in_size, out_size = (int(size) for size in self.sizes[[previous, i]])
    oversampling = 1 if is_torgb else self.lrelu_upsampling
    tmp_rate = max(in_rate, out_rate) * oversampling
    up, down = int(tmp_rate / in_rate), int(tmp_rate / out_rate)
    # The input has its own cutoff, which may differ from that of layer 0.
    in_cutoff = self.cutoffs[previous] if i else self.first_cutoff
    out_cutoff = self.cutoffs[i]
    up_taps = self._taps(up, tmp_rate / in_cutoff)
    down_taps = self._taps(down, tmp_rate / out_cutoff)
    conv_kernel = 1 if is_torgb else self.conv_kernel
    conv_before_up = self.conv_before_up or is_torgb
    border = conv_kernel - 1
    pad = _padding(
      in_size + (border if conv_before_up else 0),
      out_size + (0 if conv_before_up else border),
      up,
      down,
      up_taps,
      down_taps,
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
      in_cutoff=float(in_cutoff),
      out_cutoff=float(out_cutoff),
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
      filter=self.filter,
      conv_before_up=conv_before_up,
      noise=self.noise and not is_torgb,
      group=_GROUP if self.p4 else 1,
    )

  def _taps(self, factor: int, cutoff_period: float) -> int:
    """Returns the length of a filter, which is even to keep the centre.

    Args:
      factor: Resampling factor.
      cutoff_period: Period of the cutoff frequency, in samples.
    """
    if factor == 1 or self.filter == 'ideal':
      return 1
    if self.filter == 'binomial':
      return len(filters.BINOMIAL)
    if self.filter == 'lanczos':
      return 2 * math.ceil(LOBES * cutoff_period / 2)
    if self.filter == 'gaussian':
      return 2 * _TAIL * factor
    return self.filter_size * factor


def _doubled_rates(resolution: int) -> list[int]:
  """Returns the rates from 4 to 7 up to the resolution, each twice the last."""
  rates = [resolution]
  while rates[-1] > 7 and rates[-1] % 2 == 0:
    rates.append(rates[-1] // 2)
  if rates[-1] > 7:
    raise ValueError(
      'resolution must be divisible by powers of two down to 4 to 7 for this '
      f'sampling, got {resolution}: use {_sizes_near(resolution)}'
    )
  return rates[::-1]


def _sizes_near(resolution: int) -> str:
  """Returns a phrase with the valid resolutions nearest to an invalid one."""
  sizes = [b << k for b in range(4, 8) for k in range(1, 12)]
  low, high = sorted(sorted(sizes, key=lambda x: abs(x - resolution))[:2])
  return f'b·2^k with 4 <= b <= 7, for example {low} or {high}'


def _transition(rate: np.ndarray) -> np.ndarray:
  """Returns f_h for schedules that double the rate: (sqrt(2) - 1) s / 2."""
  return (2**0.5 - 1) * rate / 2


def check_choice(name: str, value: object, known: Iterable[str]) -> None:
  """Raises ValueError unless a value is one of the known ones."""
  known = list(known)
  if value not in known:
    raise ValueError(f'{name} must be one of {", ".join(known)}, got {value!r}')


def check_img_channels(channels: int) -> None:
  """Raises ValueError unless images can have a number of channels."""
  if channels not in (1, 3, 4):
    raise ValueError(
      f'img_channels must be 1 (grey), 3 (RGB) or 4 (RGBA), got {channels}'
    )


def _padding(
  in_size: int, out_size: int, up: int, down: int, up_taps: int, down_taps: int
) -> tuple[int, int]:
  """Returns the padding (low, high) that centres the canvas (appendix C.3)."""
  total = (out_size - 1) * down + 1 - in_size * up + up_taps + down_taps - 2
  # The first of every `up` samples is that of the input: shifting by half the
  # difference keeps pixel centres symmetric about the centre of the canvas.
  low = math.floor((total + up) / 2)
  return low, total - low


def stylegan3_t(
  resolution: int,
  *,
  channel_base: int = 32768,
  channel_max: int = 512,
  **overrides: Any,
) -> SynthesisSpec:
  """Returns config T, translation equivariant (paper section 3.2).

  Args:
    resolution: Pixels per side of the image.
    channel_base: Capacity; the paper's 256-pixel ladder uses 16384.
    channel_max: Largest number of channels of a layer.
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
  **overrides: Any,
) -> SynthesisSpec:
  """Returns config R, translation and rotation equivariant (section 3.2).

  It has 1x1 convolutions, radially symmetric filters, and twice the channels of
  the arguments, which follow the convention of the paper and its tools.

  Args:
    resolution: Pixels per side of the image.
    channel_base: Half the capacity.
    channel_max: Half the largest number of channels of a layer.
    **overrides: Any other field of `SynthesisSpec`.
  """
  return SynthesisSpec(
    resolution=resolution,
    channel_base=2 * channel_base,
    channel_max=2 * channel_max,
    **{'conv_kernel': 1, 'radial_filters': True, **overrides},
  )
