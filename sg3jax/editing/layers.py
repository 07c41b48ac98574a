"""Finds the style that each layer of a generator takes."""

import numpy as np
from jaxtyping import Float, Int

from sg3jax import model as model_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import stylegan2
from sg3jax.trees import flatten


def style_of_layers(spec: generator_lib.Spec) -> dict[str, int]:
  """Returns the number of the style of each layer, by path.

  Paths are those of the synthesis network's parameters, such as `L0_36_512` or
  `b8/conv0`. The input of an alias-free network takes style 0.
  """
  if not isinstance(spec, stylegan2.StyleGAN2Spec):
    names = [layer.name for layer in spec.layers]
    return {'input': 0} | {name: i + 1 for i, name in enumerate(names)}
  styles = {}
  first = 0
  for size in spec.resolutions:
    layers = ('conv1',) if first == 0 else ('conv0', 'conv1')
    if spec.architecture == 'skip' or size == spec.resolution:
      layers = (*layers, 'torgb')
    for i, layer in enumerate(layers):
      styles[f'b{size}/{layer}'] = first + i
    first += 1 if first == 0 else 2
  return styles


def affine_weights(
  model: model_lib.Model, layers: tuple[int, int]
) -> Float[np.ndarray, 'd s']:
  """Returns the weights by which styles act on the layers of a range.

  Args:
    model: The model.
    layers: The first and the last style.

  Returns:
    The affine weights of these layers at run time, side by side, float64. The
    input of an alias-free network is left out, because it takes a transform
    instead of scales.
  """
  params = flatten(model.variables['params']['synthesis'])
  columns = [
    np.asarray(params[f'{name}/affine/weight'], np.float64)
    for name, style in style_of_layers(model.generator.spec).items()
    if layers[0] <= style <= layers[1] and name != 'input'
  ]
  if not columns:
    raise ValueError(
      'the range must contain a layer with scales, got only the input: choose '
      'a range such as 1-6'
    )
  return np.concatenate(columns, axis=1) / model.w_dim**0.5


def check_range(layers: Int[np.ndarray, '2'] | tuple, num_ws: int) -> None:
  """Raises ValueError unless the range of styles is that of a model."""
  first, last = (int(x) for x in layers)
  if not 0 <= first <= last < num_ws:
    raise ValueError(
      f'layer_range must be within 0-{num_ws - 1}, got {first}-{last}'
    )
