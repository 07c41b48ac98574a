"""The feature maps of a generator, layer by layer."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Float

from sg3jax.nets import fourier, stylegan2
from sg3jax.nets import generator as generator_lib
from sg3jax.trees import flatten
from sg3jax.types import AnyArray, Array, Variables

_COLLECTION = 'intermediates'
# The layers of StyleGAN2; alias-free generators return their feature maps.
_LAYERS = (fourier.FourierInput, stylegan2.StyledConv)


@dataclasses.dataclass(frozen=True)
class LayerInfo:
  """A layer whose feature map can be read.

  Attributes:
    name: Its name, such as 'L3' or 'b8/conv1'; 'input' for Fourier features.
    channels: Number of channels, over all orientations.
    width: Samples per side of the image; the rest of the map is its margin.
  """

  name: str
  channels: int
  width: int


def layer_infos(spec: generator_lib.Spec) -> list[LayerInfo]:
  """Returns the layers whose maps `feature_maps` returns, in order.

  They are the Fourier features, if there are any, and all layers but ToRGB.
  """
  if isinstance(spec, stylegan2.StyleGAN2Spec):
    infos = []
    if spec.input == 'fourier':
      size = spec.resolutions[0]
      infos.append(LayerInfo('input', spec.channels(size), size))
    for size in spec.resolutions:
      convs = ('conv1',) if size == spec.resolutions[0] else ('conv0', 'conv1')
      infos += [
        LayerInfo(f'b{size}/{conv}', spec.channels(size), size)
        for conv in convs
      ]
    return infos
  first = spec.layers[0]
  return [
    LayerInfo('input', first.in_channels, round(first.in_sampling_rate)),
    *(
      LayerInfo(
        layer.name,
        layer.group * layer.out_channels,
        round(layer.out_sampling_rate),
      )
      for layer in spec.layers
      if not layer.is_torgb
    ),
  ]


def feature_maps(
  generator: generator_lib.Generator,
  variables: Variables,
  ws: Float[AnyArray, 'n l d'],
  transform: Float[AnyArray, '*n 3 3'] | None = None,
) -> dict[str, Float[Array, 'n h w c']]:
  """Returns the outputs of all layers, with margins, by name.

  Args:
    generator: The generator; each one is compiled once.
    variables: Its variables.
    ws: Styles.
    transform: See `Generator.synthesis`.

  Returns:
    A feature map for each of `layer_infos`, in order, float32. Those of
    different layers differ in size.
  """
  maps = _feature_maps(generator, variables, ws, transform)
  # Compiled functions return dictionaries in the order of their keys.
  return {info.name: maps[info.name] for info in layer_infos(generator.spec)}


@functools.partial(jax.jit, static_argnums=0)
def _feature_maps(
  generator: generator_lib.Generator,
  variables: Variables,
  ws: AnyArray,
  transform: AnyArray | None,
) -> dict[str, Array]:
  infos = layer_infos(generator.spec)
  if not isinstance(generator.spec, stylegan2.StyleGAN2Spec):
    names = tuple(info.name for info in infos)
    found: Any = generator.apply(
      variables, ws, transform, names=names, method='activations'
    )
    return found
  _, state = generator.apply(
    variables,
    ws,
    transform,
    method='synthesis',
    mutable=[_COLLECTION],
    capture_intermediates=_is_layer,
  )
  found = flatten(state[_COLLECTION]['synthesis'])
  return {
    info.name: found[f'{info.name}/__call__/0'].astype('float32')
    for info in infos
  }


def crop_margins(
  features: Float[AnyArray, 'n h w c'], info: LayerInfo
) -> Float[AnyArray, 'n h2 w2 c']:
  """Returns the part of a feature map that the image shows."""
  border = (features.shape[1] - info.width) // 2
  stop = border + info.width
  return features[:, border:stop, border:stop]


def _is_layer(module: nn.Module, method: Any) -> bool:
  return method == '__call__' and isinstance(module, _LAYERS)
