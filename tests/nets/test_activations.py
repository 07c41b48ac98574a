"""Feature maps of layers: their names, sizes and margins."""

import jax
import numpy as np
import pytest

from sg3jax.nets import abstract, activations, stylegan2
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib

_SPECS = {
  'alias-free': spec_lib.SynthesisSpec(
    resolution=16,
    num_layers=2,
    num_critical=1,
    channel_base=64,
    channel_max=8,
  ),
  'StyleGAN2': stylegan2.StyleGAN2Spec(
    resolution=8, channel_base=32, channel_max=4
  ),
  'StyleGAN2 with Fourier features': stylegan2.StyleGAN2Spec(
    resolution=8, channel_base=32, channel_max=4, input='fourier'
  ),
}


@pytest.mark.parametrize('spec', _SPECS.values(), ids=_SPECS)
def test_maps_are_as_their_layers_say(spec):
  generator = generator_lib.Generator(spec, z_dim=4, w_dim=4)
  rng = np.random.RandomState(0)
  variables = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(x.dtype),
    abstract.shapes(generator),
  )
  ws = rng.standard_normal((2, spec.num_ws, 4)).astype(np.float32)
  shapes = jax.eval_shape(
    lambda v, w: activations.feature_maps(generator, v, w), variables, ws
  )
  infos = activations.layer_infos(spec)
  assert set(shapes) == {info.name for info in infos}
  for info in infos:
    n, height, width, channels = shapes[info.name].shape
    assert (n, channels) == (2, info.channels)
    assert height == width >= info.width
    # Margins are equal on both sides.
    assert (height - info.width) % 2 == 0
    cropped = activations.crop_margins(np.zeros((1, height, width, 1)), info)
    assert cropped.shape == (1, info.width, info.width, 1)
  assert infos[-1].width == spec.resolution
