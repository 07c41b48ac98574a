"""The generator: mapping and synthesis, with truncation and labels."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from sg3jax.nets import mapping as mapping_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.nets import stylegan2
from sg3jax.nets import synthesis as synthesis_lib
from sg3jax.types import AnyArray, Array

# Designs of synthesis networks. All have `resolution`, `img_channels`,
# `image_shape`, `num_layers`, `num_ws` and `takes_transforms`.
Spec = spec_lib.SynthesisSpec | stylegan2.StyleGAN2Spec

# Decay of w_avg per batch.
_W_AVG_BETA = 0.998


class Generator(nn.Module):
  """Maps latents and labels to images (paper section 3; math.md 2.2, 2.4).

  The collections are 'params'; 'moving_averages' (w_avg and the input
  magnitudes); 'buffers' (the Fourier frequencies and phases, sampled once); and
  'noise' (the constant noise of StyleGAN2, sampled once).

  Attributes:
    spec: Design of the synthesis network, alias-free or of StyleGAN2.
    z_dim: Features of z.
    w_dim: Features of w.
    label_dim: Features of a label, 0 for an unconditional generator.
    mapping_layers: Layers of the mapping network.
    output_scale: See `synthesis.Synthesis`.
    low_precision_dtype: See `synthesis.Synthesis`.
    conv_clamp: See `synthesis.Synthesis`.
    magnitude_half_life: See `synthesis.SynthesisLayer`; only alias-free.
    filtered_lrelu_implementation: See `synthesis.SynthesisLayer`; only
      alias-free.
    remat: See `synthesis.Synthesis`.
  """

  spec: Spec
  z_dim: int = 512
  w_dim: int = 512
  label_dim: int = 0
  mapping_layers: int = 2
  output_scale: float = 0.25
  low_precision_dtype: Any = None
  conv_clamp: float | None = None
  magnitude_half_life: float = 20_000.0
  filtered_lrelu_implementation: str | None = None
  remat: bool = False

  def setup(self):  # noqa: D102
    self.mapping_network = mapping_lib.Mapping(
      z_dim=self.z_dim,
      label_dim=self.label_dim,
      w_dim=self.w_dim,
      num_layers=self.mapping_layers,
      name='mapping',
    )
    options = {
      'low_precision_dtype': self.low_precision_dtype,
      'conv_clamp': self.conv_clamp,
      'remat': self.remat,
    }
    if isinstance(self.spec, stylegan2.StyleGAN2Spec):
      self.synthesis_network = stylegan2.Synthesis(
        self.spec, **options, name='synthesis'
      )
    else:
      self.synthesis_network = synthesis_lib.Synthesis(
        self.spec,
        output_scale=self.output_scale,
        **options,
        magnitude_half_life=self.magnitude_half_life,
        filtered_lrelu_implementation=self.filtered_lrelu_implementation,
        name='synthesis',
      )
    self.w_avg = self.variable(
      'moving_averages', 'w_avg', jnp.zeros, (self.w_dim,), jnp.float32
    )

  def __call__(
    self,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None = None,
    *,
    truncation_psi: float | Float[AnyArray, ''] = 1.0,
    truncation_cutoff: int | Int[AnyArray, ''] | None = None,
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    noise_mode: str = 'const',
    update_averages: bool = False,
  ) -> Float[Array, 'n h w c']:
    """Returns images [n, h, w, img_channels], float32, nominally [-1, 1].

    Args:
      z: Latents, N(0, 1).
      c: Labels; None for an unconditional generator.
      truncation_psi: See `mapping`.
      truncation_cutoff: See `mapping`.
      transform: See `synthesis`.
      noise_mode: See `synthesis`.
      update_averages: Whether to update w_avg and the input magnitudes.
    """
    ws = self.mapping(
      z,
      c,
      truncation_psi=truncation_psi,
      truncation_cutoff=truncation_cutoff,
      update_averages=update_averages,
    )
    return self.synthesis(
      ws,
      transform=transform,
      noise_mode=noise_mode,
      update_averages=update_averages,
    )

  def mapping(
    self,
    z: Float[AnyArray, 'n z'],
    c: Float[AnyArray, 'n classes'] | None = None,
    *,
    truncation_psi: float | Float[AnyArray, ''] = 1.0,
    truncation_cutoff: int | Int[AnyArray, ''] | None = None,
    truncation_center: Float[AnyArray, '*n d'] | None = None,
    update_averages: bool = False,
  ) -> Float[Array, 'n l d']:
    """Returns styles [n, num_ws, w_dim], float32.

    Args:
      z: Latents, N(0, 1).
      c: Labels; None for an unconditional generator.
      truncation_psi: Factor on the distance from the center; 1 for no
        truncation.
      truncation_cutoff: Number of styles to truncate, beginning with the first;
        None for all.
      truncation_center: Style, or one style for each latent, towards which
        styles are truncated, such as the mean of a class; None for w_avg.
      update_averages: Whether to update w_avg from the whole batch.
    """
    w = self.mapping_network(z, c)
    if update_averages:
      mean = jnp.mean(w, axis=0)
      self.w_avg.value = jax.lax.stop_gradient(
        mean + _W_AVG_BETA * (self.w_avg.value - mean)
      )
    ws = jnp.repeat(w[:, None], self.spec.num_ws, axis=1)
    if isinstance(truncation_psi, float | int) and truncation_psi == 1:
      return ws
    center = (
      self.w_avg.value if truncation_center is None else truncation_center
    )
    center = jnp.reshape(center, (-1, 1, self.w_dim))
    truncated = center + truncation_psi * (ws - center)
    is_truncated = jnp.arange(self.spec.num_ws) < (
      self.spec.num_ws if truncation_cutoff is None else truncation_cutoff
    )
    return jnp.where(is_truncated[None, :, None], truncated, ws)

  def synthesis(
    self,
    ws: Float[AnyArray, 'n l d'],
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    *,
    noise_mode: str = 'const',
    update_averages: bool = False,
  ) -> Float[Array, 'n h w c']:
    """Returns images [n, h, w, img_channels], float32, nominally [-1, 1].

    Args:
      ws: Styles [n, num_ws, w_dim].
      transform: Inverse of the transform of the images, in units of the image's
        width: [3, 3] or [n, 3, 3]. It must be None if the input of the network
        is a learned constant.
      noise_mode: Noise inputs: 'const' for the stored noise, 'random' for new
        noise (from the rng 'noise'), 'none' for no noise.
      update_averages: Whether to update the input magnitudes.
    """
    return self.synthesis_network(
      ws, transform, noise_mode=noise_mode, update_averages=update_averages
    )

  def activations(
    self,
    ws: Float[AnyArray, 'n l d'],
    transform: Float[AnyArray, '*n 3 3'] | None = None,
    *,
    names: tuple[str, ...],
    noise_mode: str = 'const',
  ) -> dict[str, Float[Array, 'n _h _w _c']]:
    """Returns the features of some layers of an alias-free generator, float32.

    Args:
      ws: Styles [n, num_ws, w_dim].
      transform: See `synthesis`.
      names: Names of layers, such as `L5`, and `input`; see `LayerSpec.name`.
      noise_mode: See `synthesis`.

    Raises:
      ValueError: If the generator is StyleGAN2's.
    """
    if not isinstance(self.synthesis_network, synthesis_lib.Synthesis):
      raise ValueError(
        'feature maps can be had only of an alias-free generator, got one of '
        'StyleGAN2'
      )
    return self.synthesis_network.activations(
      ws, transform, names=names, noise_mode=noise_mode
    )
