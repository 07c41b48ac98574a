"""The nonlinearities of the published designs, for the compile checks."""

import functools

from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.activation import Activation

MAKERS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}


@functools.cache
def make_spec(design, resolution):
  return MAKERS[design](
    resolution, channel_base=(1 << 14) * (1 + (design == 'r'))
  )


def layer_plan(layer):
  size = layer.in_size + layer.conv_kernel - 1
  return plan_lib.make_plan(
    (size, size),
    layer.up_filter(),
    layer.down_filter(),
    up=layer.up_factor,
    down=layer.down_factor,
    padding=layer.padding,
    activation=Activation(2**0.5, 0.2, 256.0),
    tolerance=4e-7,
  )


def distinct_plans(design, resolution):
  """Returns (name, plan, channels) of each kind of layer once."""
  kinds = {}
  for layer in make_spec(design, resolution).layers:
    if not layer.is_torgb:
      key = (layer_plan(layer), layer.out_channels)
      kinds.setdefault(key, layer.name)
  return [(name, plan, c) for (plan, c), name in kinds.items()]
