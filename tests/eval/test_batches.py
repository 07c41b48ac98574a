"""Batches that fit the memory of a device."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from sg3jax.eval import batches, image_generator
from sg3jax.nets import factory, layer_tables
from sg3jax.train import config as config_lib

_GIB = 2**30


def _make_generator(
  resolution, design='t', channel_base=32768, channel_max=512
):
  config = config_lib.default_config()
  model = config.model
  model.resolution = resolution
  if design == '2':
    model.generator = 'stylegan2'
  if design == 'r':
    model.synthesis.conv_kernel = 1
    model.synthesis.radial_filters = True
  for fields in (model.synthesis, model.stylegan2):
    fields.channel_base, fields.channel_max = channel_base, channel_max
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return factory.make_generator(model.to_dict())


def test_unknown_memory_takes_the_default():
  generator = _make_generator(256)
  for default in (8, 16):
    assert batches.fitting_batch(generator, None, default=default) == default


@pytest.mark.parametrize(
  ('resolution', 'gib', 'batch'),
  [
    # The largest layer is L10. Of T at 1024 it takes 532^2 81 + (534^2 +
    # 2136^2 + 1044^2) 81 values, 1.93 GiB, an image; of T at 256 0.47 GiB. Two
    # of them for each image are to fit into 0.8 of the memory.
    (1024, 1, 1),
    (1024, 16, 2),
    (1024, 80, 16),
    (256, 16, 8),
    (256, 80, 64),
    (256, 1000, 64),
  ],
)
def test_more_memory_takes_larger_batches(resolution, gib, batch):
  generator = _make_generator(resolution)
  found = batches.fitting_batch(generator, gib * _GIB, default=8)
  assert found == batch


def test_multiples_are_kept_whatever_the_memory():
  generator = _make_generator(1024)
  for gib, batch in ((1, 4), (80, 16)):
    found = batches.fitting_batch(generator, gib * _GIB, default=16, multiple=4)
    assert found == batch


@pytest.mark.slow
@pytest.mark.parametrize(
  ('design', 'resolution'), [('t', 32), ('r', 32), ('2', 64)]
)
def test_the_estimate_holds_what_the_compiler_takes(design, resolution):
  generator = _make_generator(
    resolution, design, channel_base=1024, channel_max=64
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  z = jax.ShapeDtypeStruct((1, generator.z_dim), np.float32)
  variables = jax.eval_shape(generator.init, key, z)

  def temporary(n):
    ws = jax.ShapeDtypeStruct((n, generator.spec.num_ws, 512), np.float32)
    program = jax.jit(
      lambda variables, ws: generator.apply(variables, ws, method='synthesis')
    )
    analysis = program.lower(variables, ws).compile().memory_analysis()
    return analysis.temp_size_in_bytes

  image = (temporary(6) - temporary(2)) / 4
  largest = 4 * layer_tables.largest_layer(generator.spec)
  # `_COPIES` at most; and not so few that the count would be of other layers.
  assert largest / 2 < image < batches._COPIES * largest


def _mesh(size):
  devices = np.array(jax.devices()[:size])
  return Mesh(devices, ('data',), axis_types=(AxisType.Auto,))


def test_image_generators_spread_the_batch_over_the_devices():
  generator = _make_generator(1024)
  for memory, batch in ((None, 16), (1 * _GIB, 4), (80 * _GIB, 16)):
    images = image_generator.ImageGenerator(generator, _mesh(2), memory=memory)
    assert images.batch_size == 2 * batch
  images = image_generator.ImageGenerator(generator, _mesh(2), batch_size=8)
  assert images.batch_size == 8
  with pytest.raises(
    ValueError, match='must be a multiple of 8, 4 for each device, got 12'
  ):
    image_generator.ImageGenerator(generator, _mesh(2), batch_size=12)
