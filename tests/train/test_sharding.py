"""Where states are stored, and what devices send to each other in a step."""

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from sg3jax.nets import abstract
from sg3jax.train import collectives, memory_estimate, sharding
from sg3jax.train import config as config_lib
from sg3jax.train.step import build
from sg3jax.train.step import trainer as trainer_lib

LAYOUTS = tuple(sharding.LAYOUTS)


def make_trainer(layout, design='t'):
  """Returns a trainer whose arrays are large enough to be spread."""
  config = tiny.tiny_config(design)
  config.train.sharding = layout
  for part in (config.model.synthesis, config.model.discriminator):
    part.channel_base, part.channel_max = 512, 32
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return build.make_trainer(config)


@pytest.fixture(scope='module')
def compiled():
  """The compiled step on four devices, and the state's shapes, by layout."""
  mesh = sharding.make_mesh(4)
  found = {}
  for layout in LAYOUTS:
    trainer = make_trainer(layout)
    with jax.set_mesh(mesh):
      key = jax.eval_shape(lambda: jax.random.key(0))
      state = jax.eval_shape(trainer.init, key)
      images = {'image': jax.ShapeDtypeStruct((8, 16, 16, 3), 'uint8')}
      step = trainer_lib.jit_step(trainer, mesh)
      found[layout] = step.lower(state, images, key).compile(), state
  return found


def test_arrays_are_spread_along_their_longest_axis_that_fits():
  mesh = sharding.make_mesh(4)

  def spec(name, shape, layout='fsdp'):
    head, *rest = name.split('/')
    tree = jax.ShapeDtypeStruct(shape, np.float32)
    for part in reversed(rest):
      tree = {part: tree}
    (stored,) = jax.tree.leaves(
      sharding.state_shardings({head: tree}, mesh, layout)
    )
    return stored.spec

  kernel = (3, 3, 64, 96)
  assert spec('generator/params/L0/kernel', kernel) == P(
    None, None, None, 'data'
  )
  assert spec('generator_opt/0/mu/kernel', kernel) == P(
    None, None, None, 'data'
  )
  # Neither 3 nor 97 is a multiple of 4, so the channels that are take part.
  assert spec('discriminator/params/x', (3, 3, 64, 97)) == P(
    None, None, 'data', None
  )
  assert spec('discriminator/params/x', (33, 33)) == P()  # Nothing fits.
  assert spec('discriminator/params/bias', (64,)) == P()  # It is too small.
  assert spec('generator/moving_averages/w', (4096,)) == P()  # No rule.
  assert spec('generator/params/L0/kernel', kernel, 'replicated') == P()


def test_collectives_are_found_in_the_text_of_a_program():
  text = """
  %a = f32[3,32]{1,0} all-reduce(%x), channel_id=1
  %b = (f32[], bf16[8,4]{1,0}) all-reduce-start(%y, %z), channel_id=2
  %c = (f32[], bf16[8,4]{1,0}) all-reduce-done(%b)
  %d = (f32[2]{0}, f32[8]{0}) all-gather-start(%v), dimensions={0}
  %e = pred[16]{0} collective-permute(%w), channel_id=3
  %f = f32[4]{0} add(%all-reduce.1, %all-gather.2)
  """
  assert collectives.collectives(text) == [
    ('all-reduce', 384),
    ('all-reduce', 68),
    ('all-gather', 32),
    ('collective-permute', 16),
  ]


def test_an_unknown_layout_is_refused():
  with pytest.raises(ValueError, match=r"train\.sharding .* fsdp, got 'zero3'"):
    sharding.check_layout('zero3')


@pytest.mark.slow
def test_a_replicated_step_only_reduces_gradients(compiled):
  step, state = compiled['replicated']
  found = collectives.collectives(step.as_text())
  sums = collectives.total(found)
  g, d = (
    4 * abstract.count(x['params'])
    for x in (state.generator, state.discriminator)
  )
  # Gradients of G, of D, and of D again for R1. On a CPU, the parts of a
  # kernel's gradient are reduced before they are added. What D compares among
  # images, and moments of losses, are small.
  assert g + 2 * d <= sums['all-reduce'] < 2 * (g + 2 * d)
  assert set(sums) == {'all-reduce'}


@pytest.mark.slow
def test_a_spread_step_also_gathers_networks_and_nothing_else(compiled):
  step, state = compiled['fsdp']
  sums = collectives.total(collectives.collectives(step.as_text()))
  g, d = (
    4 * abstract.count(x['params'])
    for x in (state.generator, state.discriminator)
  )
  before = collectives.collectives(compiled['replicated'][0].as_text())
  assert sums['all-reduce'] == pytest.approx(
    collectives.total(before)['all-reduce'], rel=0.01
  )
  # G and D before and after their updates, but for arrays that are not spread.
  assert 1.8 * (g + d) < sums['all-gather'] <= 2 * (g + d)
  assert set(sums) == {'all-reduce', 'all-gather'}


@pytest.mark.slow
def test_a_spread_state_takes_a_fraction_of_the_memory(compiled):
  sizes = {
    layout: compiled[layout][0].memory_analysis().argument_size_in_bytes
    for layout in LAYOUTS
  }
  assert sizes['fsdp'] < 0.5 * sizes['replicated']


@pytest.mark.slow
def test_the_estimate_counts_what_a_device_stores():
  trainer, mesh = make_trainer('fsdp'), sharding.make_mesh(4)
  cost = memory_estimate.estimate(trainer, mesh, 8)
  assert cost.memory['state'] < 0.5 * cost.checkpoint


@pytest.mark.slow
def test_the_layout_does_not_change_the_numbers(compiled):
  mesh = sharding.make_mesh(4)
  results = {}
  for layout, (step, _) in compiled.items():
    trainer = make_trainer(layout)
    rng = np.random.RandomState(0)
    with jax.set_mesh(mesh):
      state = trainer_lib.jit_init(trainer, mesh)(jax.random.key(0))
      for _ in range(3):
        images = rng.randint(0, 256, (8, 16, 16, 3)).astype(np.uint8)
        batch = sharding.shard_batch({'image': images}, mesh)
        state, moments = step(state, batch, trainer_lib.make_key(0, 1))
    stored = sharding.state_shardings(state, mesh, layout)
    for x, where in zip(
      jax.tree.leaves(state), jax.tree.leaves(stored), strict=True
    ):
      assert x.sharding.is_equivalent_to(where, x.ndim)
    results[layout] = jax.device_get((state, moments))
  (whole, whole_moments), (parts, parts_moments) = results.values()
  for name, want in whole_moments.items():
    np.testing.assert_allclose(
      parts_moments[name], want, rtol=1e-5, atol=1e-5, err_msg=name
    )
  for (path, want), got in zip(
    jax.tree.leaves_with_path(whole), jax.tree.leaves(parts), strict=True
  ):
    # Sums in another order change gradients that vanish, which Adam divides by
    # their own size: allow a hundredth of its step of 0.0025, in the norm.
    error = np.linalg.norm(np.float64(got) - want)
    assert error <= 2.5e-5 * max(np.linalg.norm(want), 1), path
