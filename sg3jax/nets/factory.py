"""Makes networks from the `model` part of a configuration."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib
from sg3jax.nets import stylegan2

# Types of the feature maps in the four highest octaves of resolution. Other
# feature maps are float32.
PRECISIONS = {'fp32': None, 'bf16': jnp.bfloat16, 'fp16': jnp.float16}

# Bound on the magnitudes of feature maps that are stored in 16 bits. In float32
# they stay far below it.
CONV_CLAMP = 256.0


def make_generator(model: Mapping[str, Any]) -> generator_lib.Generator:
  """Returns the generator that a configuration's `model` part describes.

  Args:
    model: The fields of `train.config.default_config().model`, with
      `img_channels` and `label_dim` set. `output_scale` and `conv_clamp`, the
      bound on feature maps of any type, are optional.

  Raises:
    ValueError: If the design is impossible, or if the generator or the
      precision is unknown.
  """
  return generator_lib.Generator(
    make_spec(model),
    z_dim=model['z_dim'],
    w_dim=model['w_dim'],
    label_dim=model['label_dim'],
    mapping_layers=model['mapping_layers'],
    filtered_lrelu_implementation=model['filtered_lrelu_implementation'],
    remat=model.get('remat', False),
    output_scale=model.get('output_scale', 0.25),
    **_precision(model['precision'], model.get('conv_clamp')),
  )


def make_spec(model: Mapping[str, Any]) -> generator_lib.Spec:
  """Returns the design of the synthesis network.

  Args:
    model: See `make_generator`.

  Raises:
    ValueError: If the design is impossible or the generator is unknown.
  """
  designs = {
    'stylegan3': (spec_lib.SynthesisSpec, 'synthesis'),
    'stylegan2': (stylegan2.StyleGAN2Spec, 'stylegan2'),
  }
  name = model['generator']
  spec_lib.check_choice('model.generator', name, designs)
  design, fields = designs[name]
  return design(
    resolution=model['resolution'],
    img_channels=model['img_channels'],
    **model[fields],
  )


def make_discriminator(
  model: Mapping[str, Any],
) -> discriminator_lib.Discriminator:
  """Returns the discriminator that a configuration's `model` part describes.

  Args:
    model: See `make_generator`.

  Raises:
    ValueError: If the precision is unknown.
  """
  options = dict(model['discriminator'])
  clamp = options.pop('conv_clamp', None)
  return discriminator_lib.Discriminator(
    resolution=model['resolution'],
    img_channels=model['img_channels'],
    label_dim=model['label_dim'],
    remat=model.get('remat', False),
    **options,
    **_precision(model['precision'], clamp),
  )


def precision_of(generator: generator_lib.Generator) -> str:
  """Returns the key of `PRECISIONS` in which a generator computes."""
  names = {dtype: name for name, dtype in PRECISIONS.items()}
  return names[generator.low_precision_dtype]


def _precision(name: str, clamp: float | None) -> dict[str, Any]:
  spec_lib.check_choice('precision', name, PRECISIONS)
  dtype = PRECISIONS[name]
  return {
    'low_precision_dtype': dtype,
    'conv_clamp': CONV_CLAMP if clamp is None and dtype else clamp,
  }
