"""The convolutions of AlexNet (its one-column form), without its classifier."""

import flax.linen as nn
from jaxtyping import Float

from sg3jax.nets.features import layers
from sg3jax.types import Array

# Channels of the taps: every convolution is one.
TAPS = (64, 192, 384, 256, 256)

# With fewer pixels per side, a pool would have no output.
MIN_SIDE = 31


class Trunk(nn.Module):
  """Maps normalised images to the activation of each convolution.

  The names of the convolutions are torchvision's: their positions in a list of
  convolutions, activations and pools.
  """

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w 3']) -> list[Array]:
    """Returns five feature maps."""
    convs = (
      layers.Conv(TAPS[0], (11, 11), 4, 2, name='0'),
      layers.Conv(TAPS[1], (5, 5), 1, 2, name='3'),
      layers.Conv(TAPS[2], (3, 3), 1, 1, name='6'),
      layers.Conv(TAPS[3], (3, 3), 1, 1, name='8'),
      layers.Conv(TAPS[4], (3, 3), 1, 1, name='10'),
    )
    taps = []
    for conv in convs:
      if len(taps) in (1, 2):
        x = layers.max_pool(x, 3, 2)
      x = nn.relu(conv(x))
      taps.append(x)
    return taps
