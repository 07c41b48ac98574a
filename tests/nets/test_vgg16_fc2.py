"""VGG-16's second fully connected layer against NumPy in float64."""

import jax
import jax.numpy as jnp
import named_weights
import numpy as np
import pytest
from PIL import Image

from sg3jax.interop import feature_names
from sg3jax.interop.torch_pickle.records import CheckpointError, NumpyArray
from sg3jax.nets.features import base, layers, vgg16_fc2
from sg3jax.trees import flatten, unflatten

# Published configuration D: the convolutions between pools.
_CONVOLUTIONS = {
  0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512,
  21: 512, 24: 512, 26: 512, 28: 512,
}  # fmt: skip
_POOLS = (4, 9, 16, 23, 30)  # Their positions in torchvision's list.


def _published_shapes(divisor=1, width=4096, spots=49, classes=1000):
  """Returns the shapes of torchvision's state dictionary by name."""
  shapes, channels = {}, 3
  for position, published in _CONVOLUTIONS.items():
    size = published // divisor
    shapes[f'features.{position}.weight'] = (size, channels, 3, 3)
    shapes[f'features.{position}.bias'] = (size,)
    channels = size
  inputs = channels * spots
  for position, size in ((0, width), (3, width), (6, classes)):
    shapes[f'classifier.{position}.weight'] = (size, inputs)
    shapes[f'classifier.{position}.bias'] = (size,)
    inputs = size
  return shapes


def _sample(name, shape):
  v = named_weights.sample(f'vgg16/{name}', shape)
  v *= np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
  return v.astype(np.float32)


def _numpy(tensors, x):
  """Returns the activation for images [n, 3, h, w] in float64."""
  position = 0
  while position <= _POOLS[-1]:
    if position in _POOLS:
      n, c, h, w = x.shape
      x = x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
      position += 1
    else:
      kernel = tensors[f'features.{position}.weight'].astype(np.float64)
      padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
      windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
      x = np.einsum('nchwij,ocij->nohw', windows, kernel, optimize=True)
      x += tensors[f'features.{position}.bias'][None, :, None, None]
      x = np.maximum(x, 0)
      position += 2
  x = x.reshape(len(x), -1)
  for name in ('classifier.0', 'classifier.3'):
    weight = tensors[f'{name}.weight'].astype(np.float64)
    x = np.maximum(x @ weight.T + tensors[f'{name}.bias'], 0)
  return x


def test_activations():
  """Rounding in 15 layers stays below 1e-5; a wrong order of inputs is 1."""
  divisor, width, side = 16, 24, 64
  shapes = _published_shapes(divisor, width, spots=(side // 32) ** 2)
  tensors = {name: _sample(name, shape) for name, shape in shapes.items()}
  images = np.random.RandomState(0).rand(2, side, side, 3).astype(np.float32)
  stages = ((4, 4), (8, 8), (16, 16, 16), (32, 32, 32), (32, 32, 32))
  module = vgg16_fc2.Vgg16(stages, width)
  variables = named_weights.variables(
    {k: v for k, v in tensors.items() if not k.startswith('classifier.6')}
  )
  assert layers.shapes(module, side, side, 3) == {
    path: array.shape for path, array in flatten(variables).items()
  }
  found = np.asarray(jax.jit(module.apply)(variables, images))
  expected = _numpy(tensors, images.transpose(0, 3, 1, 2).astype(np.float64))
  assert found.shape == (2, width)
  assert (expected > 0).mean() > 0.2
  assert np.abs(found - expected).max() < 1e-5 * expected.max()


@pytest.mark.parametrize('size', [(96, 96), (224, 224), (300, 256)])
def test_preparation(size):
  """The filter is Pillow's BILINEAR, which rounds to 1/255 twice."""
  image = np.random.RandomState(1).randint(0, 256, (*size, 3), np.uint8)
  found = np.asarray(vgg16_fc2.prepare(image[None]))[0]
  resized = Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR)
  mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
  expected = (np.asarray(resized) / 255 - mean) / std
  rounding = (0.0 if size == (224, 224) else 1.1) / 255 / min(std)
  np.testing.assert_allclose(found, expected, rtol=0, atol=rounding + 1e-5)


def test_grey_and_alpha():
  image = np.random.RandomState(2).randint(0, 256, (1, 32, 32, 1), np.uint8)
  grey = vgg16_fc2.prepare(image)
  rgba = np.concatenate([np.repeat(image, 3, 3), image // 2], 3)
  np.testing.assert_array_equal(grey, vgg16_fc2.prepare(rgba))


def test_the_published_file_is_recognised():
  """Zeros without memory stand for the 138 million numbers."""
  shapes = _published_shapes()
  assert sum(np.prod(shape) for shape in shapes.values()) == 138_357_544
  arrays = {
    name: NumpyArray(np.broadcast_to(np.float32(0), shape))
    for name, shape in shapes.items()
  }
  name, found = feature_names.match(arrays)
  assert name == 'vgg16_fc2'
  network = base.find(name)
  assert network.shapes is not None
  assert network.dims == {'features': 4096}
  assert {path: a.shape for path, a in found.items()} == network.shapes()
  assert len(found) == 30

  del arrays['classifier.3.bias']
  with pytest.raises(
    CheckpointError, match='not those of vgg16_fc2: params/cl'
  ):
    feature_names.match(arrays)


def test_shapes_of_outputs():
  network = base.find('vgg16_fc2')
  images = jax.ShapeDtypeStruct((5, 32, 32, 1), jnp.uint8)
  weights = {
    path: jax.ShapeDtypeStruct(shape, jnp.float32)
    for path, shape in vgg16_fc2.shapes().items()
  }
  traced = jax.eval_shape(network.apply, unflatten(weights), images)
  assert traced['features'].shape == (5, 4096)
