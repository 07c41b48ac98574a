"""The adaptive probability, alone and in runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import config as config_lib
from sg3jax.train import health, statistics
from sg3jax.train.step import ada, build
from sg3jax.train.step import augment as augment_lib
from sg3jax.train.step.state import TrainState

_OPS = augment_lib.get_ops('bgc')


def _simulate(signs, *, batch, target, speed_kimg, interval, p=0.0):
  """The controller in plain Python: p after each of the steps."""
  seen, history = [], []
  for step, values in enumerate(signs, 1):
    seen.extend(values)
    if step % interval == 0:
      r_t = sum(seen) / len(seen)
      direction = (r_t > target) - (r_t < target)
      p += direction * batch * interval / (speed_kimg * 1000)
      p = min(max(p, 0.0), 1.0)
      seen = []
    history.append(p)
  return history


@pytest.mark.parametrize(
  ('target', 'speed_kimg', 'interval'),
  [(0.6, 500.0, 4), (0.6, 0.5, 4), (0.5, 0.5, 1), (0.5, 0.3, 3)],
)
def test_equals_a_plain_simulation(target, speed_kimg, interval):
  rng = np.random.RandomState(0)
  batch, count = 8, 120
  # At first D is sure of the real images, then less and less.
  sure = np.linspace(1, 0.3, count)[:, None] > rng.uniform(size=(count, batch))
  signs = np.where(sure, 1, -1)
  augmentation = ada.Augmentation(
    ops=_OPS, target=target, speed_kimg=speed_kimg, interval=interval
  )
  adapt = jax.jit(augmentation.adapt, static_argnums=3)
  state, history = augmentation.init(), []
  for step, values in enumerate(signs, 1):
    state = adapt(state, statistics.moments(values), step, batch)
    history.append(float(augmentation.probability(state)))
  expected = _simulate(
    signs.tolist(),
    batch=batch,
    target=target,
    speed_kimg=speed_kimg,
    interval=interval,
  )
  # Sums of up to 120 float32 steps.
  np.testing.assert_allclose(history, expected, atol=1e-5)
  if speed_kimg < 1:  # It went up, and down again.
    assert max(expected) - expected[-1] > 0.2


@pytest.mark.parametrize(('sign', 'bound'), [(1, 1.0), (-1, 0.0)])
def test_p_stays_in_the_unit_interval(sign, bound):
  augmentation = ada.Augmentation(ops=_OPS, speed_kimg=0.03, interval=1)
  state = augmentation.init()
  assert state is not None
  state = state._replace(p=jnp.float32(0.5))
  for step in jnp.arange(1, 6):
    moments = statistics.moments(np.full(8, sign))
    state = augmentation.adapt(state, moments, step, 8)
  assert state.p == bound


def test_pipelines_are_joined_by_commas():
  both = augment_lib.get_ops('blit,color')
  assert both == augment_lib.get_ops('blit') + augment_lib.get_ops('color')
  assert augment_lib.get_ops('bg,geom,blit') == augment_lib.get_ops('bg')
  with pytest.raises(ValueError, match=r"no augmentation pipeline 'geo': use"):
    augment_lib.get_ops('blit,geo')


def test_scores_that_are_no_numbers_do_not_move_p():
  augmentation = ada.Augmentation(ops=_OPS, speed_kimg=1.0, interval=2)
  state = augmentation.init()
  assert state is not None
  state = state._replace(p=jnp.float32(0.5))
  sick, well = (
    statistics.moments(np.asarray(x, np.float32)) for x in ([1, np.nan], [1, 1])
  )
  step = jax.jit(augmentation.adapt, static_argnums=3)
  history = []
  for i, signs in enumerate([sick, sick, sick, well], 1):
    state = step(state, signs, i, 8)
    history.append(float(state.p))
  # Both of one interval are left out; of the next one the second counts.
  np.testing.assert_allclose(history, [0.5, 0.5, 0.5, 0.516], rtol=1e-6)


def test_a_fixed_p_has_no_state():
  augmentation = ada.Augmentation(ops=_OPS, fixed_p=0.3)
  assert augmentation.init() is None
  assert (
    augmentation.adapt(None, statistics.moments(np.ones(8)), jnp.array(4), 8)
    is None
  )
  assert augmentation.probability(None) == 0.3


# --- Configurations. ---


def _config(mode='ada', **augment):
  config = tiny.tiny_config()
  config.train.augment.mode = mode
  config.train.augment.update(augment)
  return config


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('mode', 'noaug', r"mode must be one of none, fixed, ada, got 'noaug'"),
    ('pipeline', 'bcg', r"no augmentation pipeline 'bcg': use one of blit"),
    ('p', 1.5, r'augment\.p must be between 0 and 1, got 1\.5'),
    ('p', float('nan'), r'augment\.p must be between 0 and 1'),
    ('target', -2.0, r'augment\.target must be between -1 and 1'),
    ('speed_kimg', 0.0, r'augment\.speed_kimg must be above 0'),
    ('interval', 0, r'augment\.interval must be at least 1'),
  ],
)
def test_impossible_options_are_refused(field, value, message):
  config = _config(**{field: value})
  with pytest.raises(ValueError, match=message):
    config_lib.resolve(config, img_channels=3, label_dim=0)


def test_modes_make_recipes():
  def recipe(config):
    config_lib.resolve(config, img_channels=3, label_dim=0)
    return build.make_trainer(config).recipe

  assert config_lib.default_config().train.augment.mode == 'ada'
  assert recipe(_config('none')).augmentation is None
  fixed = recipe(_config('fixed', pipeline='blit')).augmentation
  assert fixed == ada.Augmentation(ops=augment_lib.get_ops('blit'), fixed_p=0.2)
  adaptive = recipe(_config('ada', target=0.5)).augmentation
  assert adaptive == ada.Augmentation(ops=_OPS, target=0.5)


def test_a_step_needs_a_key():
  config = _config()
  config_lib.resolve(config, img_channels=3, label_dim=0)
  trainer = build.make_trainer(config)
  state = jax.eval_shape(trainer.init, jax.random.key(0))
  images, z = np.zeros((8, 16, 16, 3), 'f'), np.zeros((2, 8, 8), 'f')
  with pytest.raises(ValueError, match='augments images at random: pass a key'):
    jax.eval_shape(trainer.update, state, {'image': images}, z)


# --- Runs: `test_loop` and `test_resume` train with ada. ---


@pytest.mark.parametrize('saved_with', [True, False])
def test_a_checkpoint_of_another_mode_is_one_clear_error(tmp_path, saved_with):
  def state(augment):
    zero = jnp.zeros(())
    params = {'params': {'bias': zero}}
    return TrainState(0, 0, params, params, params, zero, zero, zero, augment)

  states = [state(None), state(ada.Augmentation(ops=_OPS).init())]
  saved, wanted = states[::-1] if saved_with else states
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  checkpoints.save(jax.tree.map(jnp.asarray, saved), {})
  checkpoints.close()
  checkpoints = checkpoint_lib.Checkpoints(tmp_path)
  with pytest.raises(ValueError, match='both have the state of augment: use'):
    checkpoints.restore(jax.eval_shape(lambda: wanted))
  checkpoints.close()


def test_leaving_the_healthy_range_is_said_once():
  lines = []
  watch = health.AugmentWatch(lines.append)
  for p in (0.5, 0.79, 0.81, 0.9, 1.0, 0.7):
    watch.update(p)
  assert len(lines) == 1
  assert 'is above 0.8: there may be too few images' in lines[0]
  watch.update(0.9)
  assert len(lines) == 2
