"""The tables of designs against the numbers of the paper."""

import numpy as np
import pytest

from sg3jax.nets import abstract, factory, layer_tables
from sg3jax.nets import spec as spec_lib
from sg3jax.train import config as config_lib


def _networks(**model):
  config = config_lib.default_config()
  config.model.update(img_channels=3, label_dim=0, **model)
  options = config.model.to_dict()
  return factory.make_generator(options), factory.make_discriminator(options)


def test_attenuations_of_t_at_256():
  spec = spec_lib.stylegan3_t(256)
  found = [layer_tables.down_attenuation(layer) for layer in spec.layers]
  expected = [
    67.2, 59.0, 47.4, 59.0, 47.4, 59.0, 47.4, 59.0, 47.4, 31.1, 47.4, 31.1,
    26.2, 26.2,
  ]  # fmt: skip
  np.testing.assert_allclose(found[:-1], expected, atol=0.05)
  assert found[-1] is None  # ToRGB filters nothing.
  assert np.round(layer_tables.worst_attenuations(spec), 1).tolist() == [
    26.2,
    31.1,
  ]


def test_rows_of_t_hold_every_parameter_once():
  generator, _ = _networks()
  g = abstract.shapes(generator)
  rows = layer_tables.layer_rows(generator.spec, g['params']['synthesis'])
  names = [row['layer'] for row in rows]
  assert names == ['input', *(f'L{i}' for i in range(14)), 'ToRGB']
  assert 'radial' not in rows[0]  # No layer of T is.
  total = sum(row['parameters'] for row in rows)
  assert total == abstract.count(g['params']['synthesis'])
  # Paper Fig. 4c: L3 is the first at twice the rate, and upsamples by four.
  row = rows[4]
  assert (row['s'], row["s'"], row['up'], row['taps up']) == (32, 64, 4, 24)
  assert row['size'] == 52
  assert [r['layer'] for r in rows if r['critical']] == ['L12', 'L13']


def test_rows_of_stylegan2_are_blocks():
  generator, _ = _networks(generator='stylegan2', resolution=32)
  g = abstract.shapes(generator)
  rows = layer_tables.layer_rows(generator.spec, g['params']['synthesis'])
  assert [row['block'] for row in rows] == ['b4', 'b8', 'b16', 'b32']
  assert [row['convolutions'] for row in rows] == [1, 2, 2, 2]
  total = sum(row['parameters'] for row in rows)
  assert total == abstract.count(g['params']['synthesis'])
  assert layer_tables.worst_attenuations(generator.spec) == (None, None)


def test_shapes_refuse_batches_that_the_discriminator_cannot_group():
  _, discriminator = _networks(resolution=16)
  with pytest.raises(ValueError, match='5'):
    abstract.shapes(discriminator, 5)
