"""The alias-free synthesis network (paper section 3 and appendix)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import fourier, layers
from sg3jax.nets import spec as spec_lib
from sg3jax.ops import conv
from sg3jax.ops.filtered_lrelu import filtered_lrelu
from sg3jax.ops.modulated_conv import Modulation, modulate, scale_channels
from sg3jax.types import AnyArray, Array


class SynthesisLayer(nn.Module):
  """One layer: modulated convolution, then the filtered nonlinearity.

  ToRGB is the same without demodulation, filters and nonlinearity.

  Attributes:
    spec: The layer's geometry.
    dtype: Type of the feature maps; parameters are always float32.
    conv_clamp: Largest magnitude of the outputs, or None.
    magnitude_half_life: Images in which the average input magnitude forgets
      half of the past.
    filtered_lrelu_implementation: Which form of the nonlinearity to run; None
      takes the best of the platform.
  """

  spec: spec_lib.LayerSpec
  dtype: Any = jnp.float32
  conv_clamp: float | None = None
  magnitude_half_life: float = 20_000.0
  filtered_lrelu_implementation: str | None = None

  def setup(self):  # noqa: D102
    spec = self.spec
    kernel = (spec.conv_kernel, spec.conv_kernel)
    self.weight = self.param(
      'weight',
      nn.initializers.normal(1.0),
      (*kernel, spec.in_channels, spec.out_channels),
    )
    self.bias = self.param('bias', nn.initializers.zeros, (spec.out_channels,))
    self.affine = layers.Dense(spec.in_channels, bias_init=1.0)
    # The moving average of the input's mean square.
    self.magnitude = self.variable('moving_averages', 'magnitude', jnp.ones, ())

  def __call__(
    self,
    x: Float[Array, 'n h w i'],
    w: Float[Array, 'n d'],
    *,
    update_averages: bool = False,
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns features [n, out_size, out_size, out_channels], `dtype`.

    Args:
      x: Input features.
      w: Style.
      update_averages: Whether to update the average input magnitude, from the
        whole batch; 'moving_averages' must be mutable then.
    """
    x = x.astype(self.dtype)
    if update_averages:
      self._observe(x)
    modulation = self.modulate(w)
    return self.convolve(scale_channels(x, modulation.input_scale), modulation)

  def modulate(self, w: Float[Array, 'n d']) -> Modulation:
    """Returns the convolution that a style makes of the layer's."""
    styles = self.affine(w)
    if self.spec.is_torgb:  # Not demodulated: it needs the gain of the weights.
      styles = styles / self.spec.in_channels**0.5
    return modulate(
      self.weight,
      styles,
      demodulate=not self.spec.is_torgb,
      input_gain=jax.lax.rsqrt(jnp.asarray(self.magnitude.value)),
    )

  def convolve(
    self,
    x: Float[Array, 'n h w i'],
    modulation: Modulation,
    output_scale: Float[Array, 'n o'] | None = None,
  ) -> Float[Array, 'n h2 w2 o']:
    """Returns the features that `__call__` does, times `output_scale`.

    Args:
      x: Input features, times the modulation's `input_scale`.
      modulation: Of `modulate`.
      output_scale: Factors, or None for 1.
    """
    x = conv.conv2d(
      x.astype(self.dtype),
      modulation.kernel,
      padding=self.spec.conv_kernel - 1,
    )
    return filtered_lrelu(
      x,
      b=self.bias,
      **self.spec.nonlinearity(),
      clamp=self.conv_clamp,
      input_scale=modulation.output_scale,
      output_scale=output_scale,
      implementation=self.filtered_lrelu_implementation,
    )

  def _observe(self, x: Float[Array, 'n h w i']) -> None:
    """Lets the average input magnitude see a batch."""
    average = jnp.asarray(self.magnitude.value)
    current = jnp.mean(jnp.square(x.astype(jnp.float32)))
    beta = 0.5 ** (x.shape[0] / self.magnitude_half_life)
    self.magnitude.value = jax.lax.stop_gradient(
      current + beta * (average - current)
    )


class Synthesis(nn.Module):
  """Images from styles: Fourier features, N layers, ToRGB.

  Attributes:
    spec: The design.
    output_scale: Factor on ToRGB's output, so that the last layers work at
      the magnitudes of the others (paper section 3.1, config D).
    low_precision_dtype: Type of the layers of the highest resolutions, or
      None for float32 everywhere.
    num_low_precision: Octaves of resolution in that type.
    conv_clamp: Largest magnitude of a layer's outputs, or None.
    magnitude_half_life: See `SynthesisLayer`.
    filtered_lrelu_implementation: See `SynthesisLayer`.
    remat: Whether gradients compute the layers again instead of keeping what
      is inside of them.
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
    layer_class = SynthesisLayer
    if self.remat:
      layer_class = nn.remat(SynthesisLayer, methods=['convolve'])
    self.input = fourier.FourierInput(
      channels=int(spec.channels[0]),
      size=spec.input_size,
      sampling_rate=float(spec.sampling_rates[0]),
      bandwidth=spec.first_cutoff,
    )
    self.layers = [
      layer_class(
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
      ws: Styles, one each for the input, the layers and ToRGB.
      transform: Inverse of the transform the images shall undergo, canvas
        units (the image is 1 wide): [3, 3] or [n, 3, 3].
      noise_mode: Ignored: layers add no noise.
      update_averages: Whether to update the input magnitudes.

    Raises:
      ValueError: If `ws` or `transform` has the wrong shape.
    """
    del noise_mode
    ws = jnp.asarray(ws, jnp.float32)
    if ws.ndim != 3 or ws.shape[1] != self.spec.num_ws:
      raise ValueError(
        f'ws must have the shape [n, {self.spec.num_ws}, w_dim], has '
        f'{list(ws.shape)}'
      )
    if transform is not None and transform.shape not in (
      (3, 3),
      (ws.shape[0], 3, 3),
    ):
      raise ValueError(
        f'transform must have the shape [3, 3] or [{ws.shape[0]}, 3, 3], has '
        f'{list(transform.shape)}'
      )
    x = self.input(ws[:, 0], transform)
    if update_averages:
      for i, layer in enumerate(self.layers):
        x = layer(x, ws[:, i + 1], update_averages=True)
      return x.astype(jnp.float32) * self.output_scale
    # Each layer leaves its output as the next one wants it, scaled by the next
    # one's style: that costs kernels nothing. Averages are of the unscaled.
    modulations = [
      layer.modulate(ws[:, i + 1]) for i, layer in enumerate(self.layers)
    ]
    input_scale, *output_scales = [m.input_scale for m in modulations]
    x = scale_channels(x.astype(self.layers[0].dtype), input_scale)
    for layer, modulation, output_scale in zip(
      self.layers, modulations, [*output_scales, None], strict=True
    ):
      x = layer.convolve(x, modulation, output_scale)
    return x.astype(jnp.float32) * self.output_scale
