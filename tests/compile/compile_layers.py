"""The nonlinearities of the published designs, for the compile checks."""

import functools

import layer_shapes

from sg3jax.nets import spec as spec_lib

MAKERS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}


@functools.cache
def make_spec(design, resolution):
  return MAKERS[design](
    resolution, channel_base=(1 << 14) * (1 + (design == 'r'))
  )


def distinct_plans(design, resolution):
  """Returns (name, plan, channels) of layers that differ beyond their taps."""
  layers = layer_shapes.distinct_layers(make_spec(design, resolution))
  return [(layer.name, plan, layer.out_channels) for layer, plan in layers]
