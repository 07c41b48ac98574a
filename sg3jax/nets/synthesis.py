"""Alias-free synthesis networks, configs D to R (paper section 3, appendix)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import fourier, layers
from sg3jax.nets import spec as spec_lib
from sg3jax.ops import conv
from sg3jax.ops.filtered_lrelu import filtered_lrelu, platform
from sg3jax.ops.filtered_lrelu.plan import round_up
from sg3jax.ops.ideal_lowpass import ideal_filtered_lrelu
from sg3jax.ops.modulated_conv import (
  Modulation,
  modulate,
  pad_channels,
  scale_channels,
)
from sg3jax.ops.upfirdn import upfirdn
from sg3jax.types import AnyArray, Array, Shape

# Number of which the channels of feature maps on GPUs are a multiple.
_GPU_CHANNELS = 8


def stored_channels(channels: int) -> int:
  """Returns the number of channels with which a feature map is stored.

  On GPUs, channels are padded with zeros to a multiple of 8, which tensor cores
  require. With 181 channels a convolution copied its operands first and took a
  third longer than with 184 (docs/performance.md). The kernel of the
  nonlinearity would copy them too.
  """
  is_gpu = platform.target()[0] in ('cuda', 'rocm')
  return round_up(channels, _GPU_CHANNELS) if is_gpu else channels


class SynthesisLayer(nn.Module):
  """One layer: modulated convolution, then the filtered nonlinearity.

  ToRGB has no demodulation, filters or nonlinearity. In a p4-symmetric layer
  (appendix F.3) the channels are those of four orientations, one after the
  other; their kernels are rotated copies of one kernel.

  Attributes:
    spec: Geometry of the layer.
    dtype: Dtype of the feature maps; parameters are always float32.
    conv_clamp: Bound on the magnitude of the outputs, or None.
    magnitude_half_life: Half-life of the moving average of the input magnitude,
      in images.
    filtered_lrelu_implementation: Implementation of the nonlinearity; None for
      the default of the platform.
  """

  spec: spec_lib.LayerSpec
  dtype: Any = jnp.float32
  conv_clamp: float | None = None
  magnitude_half_life: float = 20_000.0
  filtered_lrelu_implementation: str | None = None

  def setup(self):  # noqa: D102
    spec = self.spec
    kernel = (spec.conv_kernel, spec.conv_kernel)
    if spec.group > 1 and not spec.is_torgb:
      kernel = (*kernel, spec.group)  # An axis for orientations of the input.
    self.weight = self.param(
      'weight',
      layers.normal(1.0),
      (*kernel, spec.in_channels, spec.out_channels),
    )
    self.bias = self.param('bias', layers.zeros, (spec.out_channels,))
    self.affine = layers.Dense(spec.in_channels, bias_init=1.0)
    # The moving average of the input's mean square.
    self.magnitude = self.variable(
      'moving_averages', 'magnitude', jnp.ones, (), jnp.float32
    )
    if spec.noise:
      self.noise_strength = self.param('noise_strength', layers.zeros, ())
      size = (spec.padded_size, spec.padded_size)
      self.noise_const = self.variable(
        'noise',
        'noise_const',
        lambda: jax.random.normal(self.make_rng('params'), size, jnp.float32),
      )

  def __call__(
    self,
    x: Float[Array, 'n h w i'],
    w: Float[Array, 'n d'],
    *,
    noise_mode: str = 'const',
    update_averages: bool = False,
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns features [n, out_size, out_size, o], in `dtype`.

    o is group * out_channels, rounded up by `stored_channels` except in ToRGB.

    Args:
      x: Input features, with i also rounded up by `stored_channels`.
      w: Style.
      noise_mode: See `stylegan2.Synthesis`.
      update_averages: Whether to update the average input magnitude from the
        whole batch, which requires that 'moving_averages' is mutable.
    """
    x = x.astype(self.dtype)
    if update_averages:
      self._observe(x[..., : self.spec.group * self.spec.in_channels])
    modulation = self.modulate(w)
    x = scale_channels(x, modulation.input_scale)
    x = self.convolve(x, modulation, noise_mode)
    return self.activate(x, modulation)

  def modulate(self, w: Float[Array, 'n d']) -> Modulation:
    """Returns the convolution of the layer, modulated by a style."""
    styles = self.affine(w)
    if self.spec.is_torgb:
      # Without demodulation, the scale of the weights matters: divide by
      # sqrt(fan-in).
      styles = styles / self.spec.in_channels**0.5
    weight = self.weight
    if self.spec.group > 1:
      styles = jnp.tile(styles, self.spec.group)
      expand = _mean_kernel if self.spec.is_torgb else _p4_kernel
      weight = expand(weight, self.spec.group)
    modulation = modulate(
      weight,
      styles,
      demodulate=not self.spec.is_torgb,
      input_gain=jax.lax.rsqrt(jnp.asarray(self.magnitude.value)),
    )
    inputs, outputs = weight.shape[-2:]
    return modulation.padded(
      stored_channels(inputs),
      outputs if self.spec.is_torgb else stored_channels(outputs),
    )

  def convolve(
    self,
    x: Float[Array, 'n h w i'],
    modulation: Modulation,
    noise_mode: str = 'const',
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns the input of `activate`, demodulated only with noise inputs.

    Args:
      x: Input features, times the `input_scale` of the modulation.
      modulation: The result of `modulate`.
      noise_mode: See `stylegan2.Synthesis`; with noise inputs, the features are
        demodulated before the noise is added.
    """
    spec = self.spec
    x = x.astype(self.dtype)
    border = spec.conv_kernel - 1
    if not spec.conv_before_up:
      x, border = upfirdn(x, **spec.upsampling()), 0
    x = conv.conv2d(x, modulation.kernel, padding=border)
    if spec.noise:
      x = scale_channels(x, modulation.output_scale)
      x = x + self._noise(x.shape, noise_mode).astype(x.dtype)
    return x

  def activate(
    self,
    x: Float[Array, 'n h w o'],
    modulation: Modulation,
    output_scale: Float[Array, 'n o'] | None = None,
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns the features of the layer, times `output_scale`.

    Args:
      x: The result of `convolve`.
      modulation: The result of `modulate`.
      output_scale: Factors, or None for 1.
    """
    spec = self.spec
    bias = jnp.tile(self.bias, 1 if spec.is_torgb else spec.group)
    bias = pad_channels(bias, x.shape[-1])
    input_scale = None if spec.noise else modulation.output_scale
    if spec.is_ideal:
      x = ideal_filtered_lrelu(
        scale_channels(x, input_scale),
        bias,
        **spec.ideal_nonlinearity(),
        clamp=self.conv_clamp,
      )
      return scale_channels(x, output_scale)
    return filtered_lrelu(
      x,
      b=bias,
      **spec.nonlinearity(),
      clamp=self.conv_clamp,
      input_scale=input_scale,
      output_scale=output_scale,
      implementation=self.filtered_lrelu_implementation,
    )

  def _noise(self, shape: Shape, mode: str) -> Array:
    const = jnp.asarray(self.noise_const.value)
    return layers.scaled_noise(self, mode, shape, self.noise_strength, const)

  def _observe(self, x: Float[Array, 'n h w i']) -> None:
    """Updates the average input magnitude from a batch."""
    average = jnp.asarray(self.magnitude.value)
    current = jnp.mean(jnp.square(x.astype(jnp.float32)))
    beta = 0.5 ** (x.shape[0] / self.magnitude_half_life)
    self.magnitude.value = jax.lax.stop_gradient(
      current + beta * (average - current)
    )


def _p4_kernel(
  weight: Float[Array, 'k k g i o'], group: int
) -> Float[Array, 'k k i2 o2']:
  """Returns the kernel of all orientations of the output.

  The kernel of each orientation counts the orientations of the input from its
  own, and is rotated with it.
  """
  turned = [
    jnp.rot90(jnp.roll(weight, g, axis=2), g, axes=(0, 1)) for g in range(group)
  ]
  kernel = jnp.concatenate(turned, axis=-1)
  return kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])


def _mean_kernel(
  weight: Float[Array, 'k k i o'], group: int
) -> Float[Array, 'k k i2 o']:
  """Returns the kernel that acts on the mean of all orientations."""
  return jnp.tile(weight / group, (1, 1, group, 1))


class Synthesis(nn.Module):
  """Maps styles to images: Fourier features, N layers, ToRGB.

  Attributes:
    spec: The design.
    output_scale: Factor on the output of ToRGB, with which the last layers have
      the same magnitudes as the others (paper section 3.1, config D).
    low_precision_dtype: Dtype of the layers with the highest resolutions, or
      None for float32 everywhere.
    num_low_precision: Octaves of resolution in that dtype.
    conv_clamp: Bound on the magnitude of the outputs of layers, or None.
    magnitude_half_life: See `SynthesisLayer`.
    filtered_lrelu_implementation: See `SynthesisLayer`.
    remat: Whether gradients compute the nonlinearities again, which halves the
      memory. On GPUs and TPUs they always do, because it costs little.
  """

  spec: spec_lib.SynthesisSpec
  output_scale: float = 0.25
  low_precision_dtype: Any = None
  num_low_precision: int = 4
  conv_clamp: float | None = None
  magnitude_half_life: float = 20_000.0
  filtered_lrelu_implementation: str | None = None
  remat: bool = False

  def setup(self):  # noqa: D102
    spec = self.spec
    self.input = fourier.FourierInput(
      channels=int(spec.channels[0]),
      size=spec.input_size,
      sampling_rate=float(spec.sampling_rates[0]),
      bandwidth=spec.first_cutoff,
      learned_transform=spec.learned_transform,
    )
    self.layers = [
      SynthesisLayer(
        layer,
        dtype=self._dtype(layer),
        conv_clamp=self.conv_clamp,
        magnitude_half_life=self.magnitude_half_life,
        filtered_lrelu_implementation=self.filtered_lrelu_implementation,
        name=layer.name,
      )
      for layer in spec.layers
    ]

  def _dtype(self, layer: spec_lib.LayerSpec) -> Any:
    threshold = self.spec.resolution / 2**self.num_low_precision
    if self.low_precision_dtype and layer.out_sampling_rate > threshold:
      return self.low_precision_dtype
    return jnp.float32

  def __call__(
    self,
    ws: Float[AnyArray, 'n l d'],
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    *,
    noise_mode: str = 'const',
    update_averages: bool = False,
  ) -> Float[Array, 'n h w c']:
    """Returns images [n, resolution, resolution, img_channels], float32.

    Args:
      ws: Styles, one for the input, one for each layer and one for ToRGB.
      transform: Inverse of the transform of the images, in canvas units (the
        image has width 1): [3, 3] or [n, 3, 3].
      noise_mode: For layers that add noise, see `stylegan2.Synthesis`.
      update_averages: Whether to update the input magnitudes.

    Raises:
      ValueError: If `ws` or `transform` has the wrong shape, or the noise mode
        is unknown.
    """
    layers.check_noise_mode(noise_mode)
    ws = jnp.asarray(ws, jnp.float32)
    layers.check_styles(ws, self.spec.num_ws)
    if transform is not None and transform.shape not in (
      (3, 3),
      (ws.shape[0], 3, 3),
    ):
      raise ValueError(
        f'transform must have the shape [3, 3] or [{ws.shape[0]}, 3, 3], got '
        f'{list(transform.shape)}'
      )
    x = self.input(ws[:, 0], transform)
    x = jnp.tile(x, self.spec.layers[0].group)  # Equal in all orientations.
    x = pad_channels(x, stored_channels(x.shape[-1]))
    if update_averages:
      for i, layer in enumerate(self.layers):
        x = layer(x, ws[:, i + 1], noise_mode=noise_mode, update_averages=True)
      return x.astype(jnp.float32) * self.output_scale
    # Each layer scales its output by the style of the next one, which costs
    # kernels nothing. Averages are of unscaled features, so this path is only
    # for calls that do not update them.
    modulations = [
      layer.modulate(ws[:, i + 1]) for i, layer in enumerate(self.layers)
    ]
    input_scale, *output_scales = [m.input_scale for m in modulations]
    x = scale_channels(x.astype(self.layers[0].dtype), input_scale)
    x = self.layers[0].convolve(x, modulations[0], noise_mode)
    through = Synthesis._through
    if self.remat or platform.target()[0] != 'cpu':
      # Save only the outputs of the convolutions.
      through = nn.remat(through, static_argnums=(1, 5))
    for i, output_scale in enumerate(output_scales):
      x = through(self, i, x, modulations[i : i + 2], output_scale, noise_mode)
    x = self.layers[-1].activate(x, modulations[-1])
    return x.astype(jnp.float32) * self.output_scale

  def activations(
    self,
    ws: Float[AnyArray, 'n l d'],
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    *,
    names: Sequence[str] = (),
    noise_mode: str = 'const',
  ) -> dict[str, Float[Array, 'n _h _w _c']]:
    """Returns the features of some layers, with their margins, float32.

    Args:
      ws: See `__call__`.
      transform: See `__call__`.
      names: Names of layers, and `input` for the Fourier features.
      noise_mode: See `__call__`.
    """
    ws = jnp.asarray(ws, jnp.float32)
    x = self.input(ws[:, 0], transform)
    found = {'input': x}
    x = jnp.tile(x, self.spec.layers[0].group)  # Equal in all orientations.
    x = pad_channels(x, stored_channels(x.shape[-1]))
    for i, layer in enumerate(self.layers):
      x = layer(x, ws[:, i + 1], noise_mode=noise_mode)
      # Without the channels of zeros that only some platforms store.
      channels = layer.spec.out_channels * layer.spec.group
      found[layer.spec.name] = x[..., :channels].astype(jnp.float32)
    return {name: found[name] for name in names}

  def _through(
    self,
    i: int,
    x: Float[Array, 'n h w c'],
    modulations: Sequence[Modulation],
    output_scale: Float[Array, 'n c'],
    noise_mode: str,
  ) -> Float[Array, 'n h2 w2 o']:
    """Maps the output of one layer's convolution to that of the next layer."""
    before, after = modulations
    x = self.layers[i].activate(x, before, output_scale)
    return self.layers[i + 1].convolve(x, after, noise_mode)
