"""Three recorded iterations of training: gradients, parameters, averages."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import official_names
import pytest

from sg3jax.nets import discriminator as discriminator_lib
from sg3jax.nets import generator as generator_lib
from sg3jax.train.step import phases
from sg3jax.train.step import state as state_lib
from sg3jax.train.step import trainer as trainer_lib


def _trainer(arrays) -> trainer_lib.Trainer:
  recipe = json.loads(str(arrays['recipe']))
  spec = official_names.generator_spec(arrays, 32, prefix='init/G/')
  last_conv = arrays['init/D/b32.fromrgb.weight'].shape[0]
  return trainer_lib.Trainer(
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
  """Returns the error of a network's arrays in the L2 norm."""
  flat = _flatten(recorded)
  error = sum(np.sum(np.square(x - flat[path])) for path, x in ours.items())
  return np.sqrt(error / sum(np.sum(np.square(y)) for y in flat.values()))


def _flatten(tree):
  return {
    jax.tree_util.keystr(path): np.asarray(value)
    for path, value in jax.tree.leaves_with_path(tree)
  }


def _moments(opt_state, name):
  """Returns Adam's moments `mu` or `nu` by the path of the parameter."""
  return {
    path.partition(f'.{name}')[2]: value
    for path, value in _flatten(opt_state).items()
    if f'.{name}[' in path
  }


def _assert_gradients_equal(state, arrays):
  """Compares the gradients of the iteration that made the state, the first.

  Adam's first moments are the last gradients, for beta1 is zero; its second
  ones hold those of D's main phase too.
  """
  g = _moments(state.generator_opt, 'mu')
  recorded = official_names.generator_variables(arrays, 'iter0/grad_G/')
  assert len(g) == len(jax.tree.leaves(recorded['params']))
  assert _relative_error(g, recorded['params']) < 1e-3

  main, r1 = (
    official_names.discriminator_params(arrays, f'iter0/grad_{phase}/')
    for phase in ('Dmain', 'Dreg')
  )
  mu, nu = (_moments(state.discriminator_opt, name) for name in ('mu', 'nu'))
  # The last bias has no part in R1: no entry in that recording, and an
  # optimizer of its own.
  last = "['b4']['out']['bias']"
  only_main = mu.pop(last)
  np.testing.assert_allclose(only_main, _flatten(main)[last], rtol=1e-3)
  assert mu.keys() == _flatten(r1).keys()
  assert _relative_error(mu, r1) < 1e-3
  beta2 = state_lib.BETA2 ** (16 / 17)  # Corrected for R1 in every 16th step.
  squares = {
    path: (nu[path] / (1 - beta2) - np.square(value)) / beta2
    for path, value in mu.items()
  }
  recorded = jax.tree.map(np.square, main)
  assert recorded['b4']['out'].pop('bias').size == 1
  assert _relative_error(squares, recorded) < 2e-3


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
    if i == 0:
      _assert_gradients_equal(state, arrays)
    assert float(moments['Gradients/nonfinite/G'][1]) == 0
  for name, ours in (('G', state.generator), ('G_ema', state.generator_ema)):
    recorded = official_names.generator_variables(arrays, f'after3/{name}/')
    _assert_close(ours, recorded, name, atol=1e-4)
  recorded = official_names.discriminator_params(arrays, 'after3/D/')
  _assert_close(state.discriminator['params'], recorded, 'D', atol=1e-4)
