"""Numbers must not depend on how many devices compute them."""

import jax
import numpy as np
import pytest
import tiny

from sg3jax.train import config as config_lib
from sg3jax.train import sharding
from sg3jax.train.step import build
from sg3jax.train.step import trainer as trainer_lib


def _run(config, num_devices, num_steps=3):
  """Returns the state and the last step's moments."""
  mesh = sharding.make_mesh(num_devices)
  trainer = build.make_trainer(config)
  rng = np.random.RandomState(0)
  with jax.set_mesh(mesh):
    state = trainer_lib.jit_init(trainer, mesh)(jax.random.key(0))
    step = trainer_lib.jit_step(trainer, mesh)
    for _ in range(num_steps):
      images = rng.randint(0, 256, (8, 16, 16, 3)).astype(np.uint8)
      batch = sharding.shard_batch({'image': images}, mesh)
      state, moments = step(state, batch, jax.random.key(1))
  return jax.device_get((state, moments))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('design', 'num_devices'),
  [
    # Both designs and both numbers of devices; two and four devices divide the
    # same axes, so the other pairs repeat these.
    ('t', 4),
    ('r', 2),
    pytest.param('t', 2, marks=pytest.mark.exhaustive),
    pytest.param('r', 4, marks=pytest.mark.exhaustive),
  ],
)
def test_same_numbers_on_several_devices_as_on_one(design, num_devices):
  config = tiny.tiny_config(design)
  if design == 'r':
    config.train.augment.update(mode='fixed', p=0.5, pipeline='bgcfnc')
  config_lib.resolve(config, img_channels=3, label_dim=0)
  state, moments = _run(config, 1)
  other_state, other_moments = _run(config, num_devices)
  for name, value in moments.items():
    np.testing.assert_allclose(
      other_moments[name], value, rtol=1e-5, atol=1e-5, err_msg=name
    )
  for path, value in jax.tree.leaves_with_path(
    (state.generator, state.discriminator, state.generator_ema)
  ):
    other = (
      other_state.generator,
      other_state.discriminator,
      other_state.generator_ema,
    )
    for key in path:
      other = other[getattr(key, 'idx', getattr(key, 'key', None))]
    np.testing.assert_allclose(
      other, value, rtol=1e-5, atol=1e-5, err_msg=jax.tree_util.keystr(path)
    )


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match=r'train\.batch=8 .* fewer --devices'):
    sharding.check_batch(10, sharding.make_mesh(4))


def test_too_many_devices_are_refused():
  with pytest.raises(ValueError, match=r'9 devices .* sees 4'):
    sharding.make_mesh(9)
