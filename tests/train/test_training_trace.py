"""Three recorded iterations of training: gradients, parameters, averages."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.train import phases, steps


def _trainer(arrays) -> steps.Trainer:
  recipe = json.loads(str(arrays['recipe']))
  spec = official_names.generator_spec(arrays, 32, prefix='init/G/')
  last_conv = arrays['init/D/b32.fromrgb.weight'].shape[0]
  return steps.Trainer(
    generator=generator_lib.Generator(spec, z_dim=32, w_dim=32),
    discriminator=discriminator_lib.Discriminator(
      resolution=32,
      img_channels=3,
      channel_base=last_conv * 32,
      channel_max=arrays['init/D/b4.conv.weight'].shape[0],
    ),
    recipe=phases.Recipe(
      r1_gamma=recipe['r1_gamma'],
      r1_interval=recipe['d_reg_interval'],
      ema_kimg=recipe['ema_kimg'],
      ema_rampup=recipe['ema_rampup'],
      blur_init_sigma=recipe['blur_init_sigma'],
      blur_fade_kimg=recipe['blur_fade_kimg'],
    ),
    g_lr=recipe['g_lr'],
    d_lr=recipe['d_lr'],
  )


def _initial_state(trainer, arrays):
  state = jax.jit(trainer.init)(jax.random.key(0))
  g = official_names.generator_variables(arrays, 'init/G/')
  d = {'params': official_names.discriminator_params(arrays, 'init/D/')}
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(a.shape, b.shape),
    (state.generator, state.discriminator),
    (g, d),
  )
  g, d = jax.tree.map(jnp.asarray, (g, d))
  return state.replace(generator=g, discriminator=d, generator_ema=g)


def _assert_close(ours, recorded, message, **tolerances):
  flat = dict(jax.tree.leaves_with_path(recorded))
  for path, value in jax.tree.leaves_with_path(ours):
    np.testing.assert_allclose(
      value,
      flat[path],
      err_msg=message + jax.tree_util.keystr(path),
      **tolerances,
    )


def _relative_error(ours, recorded):
  """Returns the error of a network's gradient in the L2 norm."""
  flat = dict(jax.tree.leaves_with_path(recorded))
  pairs = [(x, flat[path]) for path, x in jax.tree.leaves_with_path(ours)]
  assert len(pairs) == len(flat)
  error = sum(np.sum(np.square(x - y)) for x, y in pairs)
  return np.sqrt(error / sum(np.sum(np.square(y)) for _, y in pairs))


def _assert_gradients_equal(trainer, state, images, z, arrays):
  """Compares the phases of an iteration, each at the parameters it meets."""

  @jax.jit
  def gradients(state):
    g, _ = trainer.phases.generator_gradients(state, z[0])
    state, _ = trainer.apply_generator_gradients(state, g)
    x = steps._as_float(images)
    d, _, _ = trainer.phases.discriminator_gradients(state, x, None, z[1])
    state, _ = trainer.apply_discriminator_gradients(state, d)
    r1, _ = trainer.phases.r1_gradients(state, x)
    return g, d, r1

  g, d, r1 = gradients(state)
  recorded = official_names.generator_variables(arrays, 'iter0/grad_G/')
  assert _relative_error(g, recorded['params']) < 1e-3
  recorded = official_names.discriminator_params(arrays, 'iter0/grad_Dmain/')
  assert _relative_error(d, recorded) < 1e-3
  # The last bias has no part in R1: zero here, no entry in the recording.
  assert r1['b4']['out'].pop('bias') == 0
  recorded = official_names.discriminator_params(arrays, 'iter0/grad_Dreg/')
  assert _relative_error(r1, recorded) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('design', 'tr')
def test_training_equals_recording(golden, design):
  arrays = golden(f'training_trace_{design}32.npz')
  trainer = _trainer(arrays)
  state = _initial_state(trainer, arrays)
  step = jax.jit(trainer.update)
  for i in range(3):
    images = arrays['reals_uint8'][i].transpose(0, 2, 3, 1)
    # z of the R1 phase is drawn, but not used.
    latents = arrays['z_Gmain_Dmain_Dreg'][i, :2]
    if i == 0:
      _assert_gradients_equal(trainer, state, images, latents, arrays)
    state, moments = step(state, {'image': images}, latents)
    assert float(moments['Gradients/nonfinite/G'][1]) == 0
  for name, ours in (('G', state.generator), ('G_ema', state.generator_ema)):
    recorded = official_names.generator_variables(arrays, f'after3/{name}/')
    _assert_close(ours, recorded, name, atol=1e-4)
  recorded = official_names.discriminator_params(arrays, 'after3/D/')
  _assert_close(state.discriminator['params'], recorded, 'D', atol=1e-4)
