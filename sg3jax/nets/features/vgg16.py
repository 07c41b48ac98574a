"""The convolutions of VGG-16, without its classifier."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Float

from sg3jax.nets.features import layers
from sg3jax.types import Array

# Channels of the convolutions before each of the five taps. A pool by 2 comes
# before each stage but the first.
STAGES = (
  (64, 64),
  (128, 128),
  (256, 256, 256),
  (512, 512, 512),
  (512, 512, 512),
)

# Channels of the taps.
TAPS = tuple(stage[-1] for stage in STAGES)

# With fewer pixels per side, a pool would have no output.
MIN_SIDE = 16


class Trunk(nn.Module):
  """Maps normalised images to the last activation of each stage.

  The names of the convolutions are torchvision's: their positions in a list of
  convolutions, activations and pools.

  Attributes:
    stages: Channels of the convolutions of each stage.
  """

  stages: Sequence[Sequence[int]] = STAGES

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w 3']) -> list[Array]:
    """Returns five feature maps; each is half as large as the one before."""
    taps = []
    position = 0
    for stage in self.stages:
      if taps:
        x = layers.max_pool(x, 2, 2)
        position += 1
      for features in stage:
        conv = layers.Conv(features, (3, 3), padding=1, name=str(position))
        x = nn.relu(conv(x))
        position += 2  # The convolution and its activation.
      taps.append(x)
    return taps
