"""DINOv2, in whose features FD-DINOv2 compares distributions.

Published values of FD-DINOv2 are of ViT-L/14. ViT-B/14 is a third of its size;
its values are not comparable to those.
"""

import functools
from collections.abc import Mapping

from sg3jax.nets.features import base, vit
from sg3jax.types import AnyArray, Array, Variables

SIDE = 224

# The statistics of ImageNet.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def module(width: int, depth: int, heads: int) -> vit.VisionTransformer:
  """Returns a DINOv2 with patches of 14 pixels, trained on 518 pixels."""
  return vit.VisionTransformer(
    width, depth, heads, patch=14, grid=37, epsilon=1e-6, layer_scale=True
  )


def _apply(
  network: vit.VisionTransformer, variables: Variables, images: AnyArray
) -> dict[str, Array]:
  features = network.apply(variables, vit.prepare(images, SIDE, _MEAN, _STD))
  assert not isinstance(features, tuple)
  return {'features': features}


def _shapes(
  width: int, depth: int, heads: int
) -> Mapping[str, tuple[int, ...]]:
  return vit.shapes(module(width, depth, heads))


def _register(
  name: str, size: str, width: int, depth: int, heads: int
) -> base.FeatureNetwork:
  return base.register(
    base.FeatureNetwork(
      name=name,
      title=f'DINOv2 ViT-{size.upper()}/14',
      dims={'features': width},
      apply=functools.partial(_apply, module(width, depth, heads)),
      protocol=(
        f'uint8 RGB (grey repeated, alpha dropped), resized to {SIDE} x {SIDE} '
        'by an antialiased cubic filter (a = -0.5) without rounding, '
        'normalised by the statistics of ImageNet; the class token'
      ),
      shapes=functools.cache(functools.partial(_shapes, width, depth, heads)),
      remedy=(
        f'download dinov2_vit{size}14_pretrain.pth (linked from the page of '
        'facebookresearch/dinov2 on GitHub), then run sg3jax weights import '
        'FILE'
      ),
    )
  )


DINOV2 = _register('dinov2', 'l', 1024, 24, 16)
DINOV2_B = _register('dinov2_b', 'b', 768, 12, 12)
