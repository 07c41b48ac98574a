"""The alias-free synthesis network (paper section 3 and appendix)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from sg3jax.nets import fourier, layers
from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import filtered_lrelu
from sg3jax.ops.modulated_conv import modulated_conv
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

  @nn.compact
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
    spec = self.spec
    kernel = (spec.conv_kernel, spec.conv_kernel)
    weight = self.param(
      'weight',
      nn.initializers.normal(1.0),
      (*kernel, spec.in_channels, spec.out_channels),
    )
    bias = self.param('bias', nn.initializers.zeros, (spec.out_channels,))
    styles = layers.Dense(spec.in_channels, bias_init=1.0, name='affine')(w)
    if spec.is_torgb:  # Not demodulated, so it needs the learning-rate gain.
      styles = styles / spec.in_channels**0.5

    x = x.astype(self.dtype)
    x = modulated_conv(
      x,
      weight,
      styles,
      demodulate=not spec.is_torgb,
      padding=spec.conv_kernel - 1,
      input_gain=jax.lax.rsqrt(self._magnitude(x, update_averages)),
    )
    return filtered_lrelu(
      x,
      b=bias,
      **spec.nonlinearity(),
      clamp=self.conv_clamp,
      implementation=self.filtered_lrelu_implementation,
    )

  def _magnitude(
    self, x: Float[Array, 'n h w i'], update: bool
  ) -> Float[Array, '']:
    """Returns the moving average of the input's mean square."""
    average = self.variable('moving_averages', 'magnitude', jnp.ones, ())
    if update:
      current = jnp.mean(jnp.square(x.astype(jnp.float32)))
      beta = 0.5 ** (x.shape[0] / self.magnitude_half_life)
      average.value = jax.lax.stop_gradient(
        current + beta * (average.value - current)
      )
    return jnp.asarray(average.value)


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
  """

  spec: spec_lib.SynthesisSpec
  output_scale: float = 0.25
  low_precision_dtype: Any = None
  num_low_precision: int = 4
  conv_clamp: float | None = None
  magnitude_half_life: float = 20_000.0
  filtered_lrelu_implementation: str | None = None

  def setup(self):  # noqa: D102
    spec = self.spec
    self.input = fourier.FourierInput(
      channels=int(spec.channels[0]),
      size=spec.input_size,
      sampling_rate=float(spec.sampling_rates[0]),
      bandwidth=spec.first_cutoff,
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
    for i, layer in enumerate(self.layers):
      x = layer(x, ws[:, i + 1], update_averages=update_averages)
    return x.astype(jnp.float32) * self.output_scale
