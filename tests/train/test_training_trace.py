"""Three recorded iterations of training: gradients, parameters, averages."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.train import steps


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
    recipe=steps.Recipe(
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
    state, moments = step(state, {'image': images}, latents)
    assert float(moments['Gradients/nonfinite/G'][1]) == 0
    if i not in (0, 2):
      continue
    prefix = f'after{i + 1}/'
    for name, ours in (('G', state.generator), ('G_ema', state.generator_ema)):
      recorded = official_names.generator_variables(arrays, f'{prefix}{name}/')
      _assert_close(ours, recorded, f'{prefix}{name}', atol=1e-4)
    recorded = official_names.discriminator_params(arrays, prefix + 'D/')
    _assert_close(
      state.discriminator['params'], recorded, prefix + 'D', atol=1e-4
    )
