"""Micro-batches must not show in the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from sg3jax.train import config as config_lib
from sg3jax.train.step import build
from sg3jax.train.step import micro_batches as micro_batches_lib

BATCH = 8


def _step(
  micro_batches, mbstd_group, *, design='t', labels=False, is_compiled=True
):
  """Returns the state and the moments after a step of a tiny network."""
  config = tiny.tiny_config(design, batch=BATCH)
  if design == '2':
    config.model.resolution = 8  # Half as many layers to compile.
    config.train.style_mixing_prob = 1.0
  config.train.micro_batches = micro_batches
  config.train.augment.update(mode='fixed', p=0.5, pipeline='blit')
  config.model.discriminator.mbstd_group = mbstd_group
  config_lib.resolve(config, img_channels=3, label_dim=3 if labels else 0)
  trainer = build.make_trainer(config)
  rng = np.random.RandomState(0)
  shape = (BATCH, *trainer.generator.spec.image_shape)
  batch = {'image': rng.randint(0, 256, shape).astype(np.uint8)}
  if labels:
    for name in ('label', 'g_label', 'd_label'):
      batch[name] = np.eye(3, dtype=np.float32)[rng.randint(3, size=BATCH)]
  z = rng.randn(2, BATCH, 8).astype(np.float32)
  state = jax.jit(trainer.init)(jax.random.key(0))
  state = jax.tree.map_with_path(_with_noise, state)
  call = jax.jit if is_compiled else jax.eval_shape
  if not is_compiled:
    return call(trainer.update, state, batch, z, jax.random.key(1))
  return call(trainer.update)(state, batch, z, jax.random.key(1))


def _with_noise(path, x):
  """Noise inputs have a part from the first step on."""
  return x + 0.1 if 'noise_strength' in jax.tree_util.keystr(path) else x


@pytest.mark.slow
@pytest.mark.parametrize(
  ('design', 'micro_batches', 'group'),
  # With noise inputs, mixed styles and path lengths (StyleGAN2) and without.
  [
    ('t', 4, 2),
    ('2', 2, 4),
    pytest.param('2', 8, 1, marks=pytest.mark.exhaustive),
  ],
)
def test_a_step_in_micro_batches_equals_the_whole(design, micro_batches, group):
  labels = design == 't'
  state, moments = _step(1, group, design=design, labels=labels)
  other, other_moments = _step(
    micro_batches, group, design=design, labels=labels
  )
  for name, value in moments.items():
    np.testing.assert_allclose(
      other_moments[name], value, rtol=1e-5, atol=1e-5, err_msg=name
    )
  others = dict(jax.tree.leaves_with_path(other))
  for path, value in jax.tree.leaves_with_path(state):
    if jnp.issubdtype(value.dtype, jnp.floating):
      np.testing.assert_allclose(
        others[path], value, rtol=1e-5, atol=1e-5,
        err_msg=jax.tree_util.keystr(path),
      )  # fmt: skip


def test_groups_that_cannot_stay_whole_are_refused():
  with pytest.raises(ValueError, match='8 images cannot be shared by 4'):
    _step(4, 4, is_compiled=False)


def test_rows_of_a_group_stay_together():
  parts = micro_batches_lib.split(jnp.arange(24), 3, 4)
  # Of 24 rows in groups of 4, those that are 6 apart.
  whole = {tuple(sorted(g)) for g in np.arange(24).reshape(4, 6).T.tolist()}
  for part in np.asarray(parts):
    for group in part.reshape(4, 2).T:
      assert tuple(sorted(group.tolist())) in whole


def test_sums_are_those_of_the_batch():
  rows = jnp.asarray(np.random.RandomState(0).randn(12, 3))
  weights = jnp.ones(3)

  def loss(w, rows):
    values = jnp.tanh(rows @ w)
    return jnp.mean(values), jnp.sum(values)

  expected, total = micro_batches_lib.gradients(loss, weights, rows)
  for count in (2, 3, 4, 6, 12):
    grads, parts = micro_batches_lib.gradients(
      loss, weights, rows, micro_batches=count
    )
    np.testing.assert_allclose(grads, expected, rtol=1e-5)
    np.testing.assert_allclose(parts.sum(), total.sum(), rtol=1e-5)
    assert parts.shape == (count,)
