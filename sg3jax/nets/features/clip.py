"""The image tower of CLIP ViT-L/14 at 336 pixels, which CMMD compares."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp

from sg3jax.nets.features import base, vit
from sg3jax.types import AnyArray, Array, Variables

SIDE = 336

# The statistics of CLIP's training images.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)

MODULE = vit.VisionTransformer(
  width=1024,
  depth=24,
  heads=16,
  patch=14,
  grid=24,
  epsilon=1e-5,
  quick_gelu=True,
  patch_bias=False,
  norm_first=True,
  projection=768,
)


def apply(variables: Variables, images: AnyArray) -> dict[str, Array]:
  """Returns the outputs of `NETWORK` for images, uint8 [n, h, w, c]."""
  embedding = MODULE.apply(variables, vit.prepare(images, SIDE, _MEAN, _STD))
  assert not isinstance(embedding, tuple)
  length = jnp.linalg.norm(embedding, axis=-1, keepdims=True)
  return {'features': embedding / length, 'embedding': embedding}


@functools.cache
def shapes() -> Mapping[str, tuple[int, ...]]:
  """Returns the shape of each parameter by path."""
  return vit.shapes(MODULE)


NETWORK = base.register(
  base.FeatureNetwork(
    name='clip',
    title='CLIP ViT-L/14 at 336 pixels',
    dims={'features': 768, 'embedding': 768},
    apply=apply,
    protocol=(
      f'uint8 RGB (grey repeated, alpha dropped), resized to {SIDE} x {SIDE} '
      'by an antialiased cubic filter (a = -0.5) without rounding, normalised '
      "by CLIP's statistics; the projected embedding, of unit length"
    ),
    shapes=shapes,
    remedy=(
      'download model.safetensors or pytorch_model.bin of openai/clip-vit-'
      'large-patch14-336 from Hugging Face, or ViT-L-14-336px.pt of '
      'openai/CLIP, then run sg3jax weights import FILE'
    ),
  )
)
