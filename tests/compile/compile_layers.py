"""The nonlinearities of the published designs, for the compile checks."""

import functools

import jax.numpy as jnp

from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import make_plan

MAKERS = {'t': spec_lib.stylegan3_t, 'r': spec_lib.stylegan3_r}


@functools.cache
def make_spec(design, resolution):
  return MAKERS[design](
    resolution, channel_base=(1 << 14) * (1 + (design == 'r'))
  )


def layer_plan(layer):
  shape = (layer.padded_size, layer.padded_size)
  return make_plan(shape, jnp.bfloat16, **layer.nonlinearity(), clamp=256.0)


def distinct_plans(design, resolution):
  """Returns (name, plan, channels) of layers that differ beyond their taps."""
  kinds = {}
  for layer in make_spec(design, resolution).layers:
    if not layer.is_torgb:
      plan = layer_plan(layer)
      kind = (
        layer.padded_size,
        layer.out_channels,
        layer.up_factor,
        layer.padding,
        len(plan.contract),
      )
      kinds.setdefault(kind, (layer.name, plan, layer.out_channels))
  return list(kinds.values())
