"""The vision transformer, in the forms of DINOv2 and of CLIP.

An image is cut into patches, each of which becomes a token; a class token
precedes them. Blocks of self-attention and of two dense layers, each normalised
at its entrance, are added to the tokens. The class token is the result.
"""

import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from sg3jax.nets.features import layers
from sg3jax.types import AnyArray, Array

_EXACT = lax.Precision.HIGHEST

_zeros = nn.initializers.zeros_init()
_ones = nn.initializers.ones_init()


class LayerNorm(nn.Module):
  """Normalises each token.

  Attributes:
    epsilon: Added to the variance.
  """

  epsilon: float

  @nn.compact
  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    """Returns tokens of mean `bias` and deviation `weight`."""
    size = x.shape[-1]
    weight = self.param('weight', _ones, size, jnp.float32)
    bias = self.param('bias', _zeros, size, jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    unit = centred * lax.rsqrt(variance + np.float32(self.epsilon))
    return unit * _token(weight) + _token(bias)


class _Linear(nn.Module):
  """A dense layer over tokens, with the parameters `weight` (IO) and `bias`."""

  features: int
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'n t i']) -> Float[Array, 'n t o']:
    """Maps each token."""
    shape = (x.shape[-1], self.features)
    weight = self.param('weight', _zeros, shape, jnp.float32)
    y = jnp.matmul(x, weight, precision=_EXACT)
    if self.use_bias:
      y += _token(self.param('bias', _zeros, self.features, jnp.float32))
    return y


def _token(vector: AnyArray) -> Float[Array, '1 1 d']:
  return jnp.asarray(vector).reshape(1, 1, -1)


class _Block(nn.Module):
  """One block; the attributes are those of `VisionTransformer`."""

  heads: int
  epsilon: float
  quick_gelu: bool
  layer_scale: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'n t d']) -> Float[Array, 'n t d']:
    """Adds attention, then two dense layers, to the tokens."""
    width = x.shape[-1]
    attended = self._attention(LayerNorm(self.epsilon, name='norm1')(x))
    x += self._scaled('scale1', attended)
    y = LayerNorm(self.epsilon, name='norm2')(x)
    y = _Linear(4 * width, name='fc1')(y)
    if self.quick_gelu:
      y *= jax.nn.sigmoid(np.float32(1.702) * y)
    else:
      y = jax.nn.gelu(y, approximate=False)
    return x + self._scaled('scale2', _Linear(width, name='fc2')(y))

  def _attention(self, x: Array) -> Array:
    n, tokens, width = x.shape
    query, key, value = (
      _Linear(width, name=name)(x).reshape(n, tokens, self.heads, -1)
      for name in ('query', 'key', 'value')
    )
    query /= np.sqrt(width // self.heads, dtype=np.float32)
    scores = jnp.einsum('nthd,nshd->nhts', query, key, precision=_EXACT)
    weights = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.einsum('nhts,nshd->nthd', weights, value, precision=_EXACT)
    return _Linear(width, name='out')(mixed.reshape(n, tokens, width))

  def _scaled(self, name: str, x: Array) -> Array:
    if not self.layer_scale:
      return x
    return x * _token(self.param(name, _ones, x.shape[-1], jnp.float32))


class VisionTransformer(nn.Module):
  """Maps prepared images to the normalised class token.

  Attributes:
    width: Size of a token.
    depth: Number of blocks.
    heads: Number of heads, which divides `width`.
    patch: Pixels per side of a patch.
    grid: Patches per side that positions are stored for.
    epsilon: Added to variances.
    quick_gelu: Whether the nonlinearity is x sigmoid(1.702 x), not GELU.
    layer_scale: Whether channels of what blocks add are scaled.
    patch_bias: Whether the patches' convolution has a bias.
    norm_first: Whether tokens are normalised before the first block.
    projection: Size of the result after a last matrix; 0 for no matrix.
  """

  width: int
  depth: int
  heads: int
  patch: int
  grid: int
  epsilon: float
  quick_gelu: bool = False
  layer_scale: bool = False
  patch_bias: bool = True
  norm_first: bool = False
  projection: int = 0

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w 3']) -> Float[Array, 'n d']:
    """Returns features of images whose sides are multiples of the patch."""
    n, height, width, _ = x.shape
    patches = layers.Conv(
      self.width,
      (self.patch, self.patch),
      self.patch,
      'VALID',
      use_bias=self.patch_bias,
      name='patches',
    )(x).reshape(n, -1, self.width)
    first = self.param('class_token', _zeros, self.width, jnp.float32)
    # Made of the patches, it is sharded as they are.
    first = jnp.zeros_like(patches[:, :1]) + _token(first)
    x = jnp.concatenate([first, patches], axis=1)
    x += self._positions(height // self.patch, width // self.patch)
    if self.norm_first:
      x = LayerNorm(self.epsilon, name='norm_first')(x)
    for i in range(self.depth):
      x = _Block(
        self.heads,
        self.epsilon,
        self.quick_gelu,
        self.layer_scale,
        name=f'block{i}',
      )(x)
    x = LayerNorm(self.epsilon, name='norm')(x[:, :1])
    if self.projection:
      x = _Linear(self.projection, use_bias=False, name='projection')(x)
    return x[:, 0]

  def _positions(self, rows: int, columns: int) -> Float[Array, '1 t d']:
    """Returns what is added to the tokens of a grid of patches."""
    count = self.grid**2 + 1
    stored = jnp.asarray(
      self.param('positions', _zeros, (count, self.width), jnp.float32)
    )
    if (rows, columns) == (self.grid, self.grid):
      return stored[None]
    grid = stored[1:].reshape(1, self.grid, self.grid, self.width)
    grid = layers.resize(
      grid, _bicubic(self.grid, rows), _bicubic(self.grid, columns)
    )
    rest = grid.reshape(1, -1, self.width)
    return jnp.concatenate([stored[None, :1], rest], axis=1)


@functools.lru_cache(maxsize=16)
def _bicubic(old: int, new: int) -> np.ndarray:
  """Returns DINOv2's interpolation of positions as a matrix [new, old].

  It is cubic convolution with a = -0.75, without antialiasing, and edges are
  repeated. The scale is (new + 0.1) / old, which DINOv2 chose to avoid rounding
  errors, and which moves the positions a little.
  """
  centre = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
  matrix = np.zeros((new, old))
  for tap in range(-1, 3):
    index = np.floor(centre).astype(int) + tap
    weight = _cubic(np.abs(centre - index))
    np.add.at(matrix, (np.arange(new), index.clip(0, old - 1)), weight)
  return matrix


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
  """Returns the kernel of cubic convolution at distances below 2."""
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * (x**3 - 5 * x**2 + 8 * x - 4)
  return np.where(x <= 1, near, far)


def prepare(
  images: AnyArray, side: int, mean: Sequence[float], std: Sequence[float]
) -> Float[Array, 'n side side 3']:
  """Resizes images with an antialiased cubic filter, and normalises them.

  The filter is that of Pillow (a = -0.5), without rounding to 8 bits.

  Args:
    images: [n, h, w, c] in [0, 255], with 1, 3 or 4 channels.
    side: Pixels per side of the result. Images that are not square are
      stretched.
    mean: Mean of each channel in [0, 1].
    std: Standard deviation of each channel.
  """
  x = layers.as_rgb(images)
  x = jax.image.resize(
    x, (x.shape[0], side, side, 3), 'cubic', antialias=True, precision=_EXACT
  )
  shape = (1, 1, 1, 3)
  offset = np.array(mean, np.float32).reshape(shape)
  scale = np.array(std, np.float32).reshape(shape)
  return (x / 255 - offset) / scale


def shapes(module: VisionTransformer) -> Mapping[str, tuple[int, ...]]:
  """Returns the shape of each parameter by path.

  All blocks are alike, so that tracing one of them suffices.
  """
  side = module.grid * module.patch
  found = layers.shapes(module.clone(depth=1), side, side, 3)
  result = {}
  for path, shape in found.items():
    for i in range(module.depth if '/block0/' in path else 1):
      result[path.replace('/block0/', f'/block{i}/')] = shape
  return result
