"""The compiler tells what a step takes; nothing runs."""

import jax
import pytest
import tiny

from sg3jax.train import config as config_lib
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.memory_estimate import gib
from sg3jax.train.step import build

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('shared_programs'),
]


def _trainer(**train):
  config = tiny.tiny_config(**train)
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return build.make_trainer(config)


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(1)


@pytest.fixture(scope='module')
def tried(mesh, shared_programs):
  """Costs of a trainer with whole batches and with halves."""
  trainer = _trainer()
  whole = memory_estimate.estimate(trainer, mesh, 8)
  # Less than the whole batch takes, once the margin is off.
  memory, lines = int(whole.peak * 1.05), []
  chosen = memory_estimate.fit(trainer, mesh, 8, memory, lines.append)
  assert len(lines) == 2
  assert lines[0] == f'     8 images at a time: {gib(whole.peak)}'
  assert lines[1] == f'     4 images at a time: {gib(chosen.peak)}'
  return whole, chosen


def test_a_cost_accounts_for_everything(tried, mesh):
  cost = tried[0]
  trainer = _trainer()
  state = jax.eval_shape(trainer.init, jax.random.key(0))
  sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(state)]
  assert cost.checkpoint == cost.memory['state'] == sum(sizes)
  params = jax.tree.leaves(state.discriminator['params'])
  assert cost.discriminator_parameters == sum(x.size for x in params)
  # Two steps are in flight, and a third batch is on its way.
  assert cost.memory['batch'] == 3 * 8 * 16 * 16 * 3
  assert cost.memory['temporary'] > 0
  assert cost.flops > 1e6
  assert cost.peak == sum(cost.memory.values())
  report = cost.report()
  for name in ('Parameters', 'TFLOP', 'temporary', 'Checkpoint'):
    assert name in report


def test_the_largest_micro_batch_that_fits_is_found(tried):
  whole, half = tried
  assert (whole.micro_batches, half.micro_batches) == (1, 2)
  assert half.peak < whole.peak
  assert half.flops == whole.flops


def test_operations_are_those_of_all_micro_batches(tried):
  """XLA counts one turn of a loop, and as much for two devices as for one."""
  count = memory_estimate.count_flops
  whole = tried[0].flops
  assert count(_trainer(micro_batches=4), sharding.make_mesh(1), 8) == whole
  assert count(_trainer(), sharding.make_mesh(2), 8) == whole / 2


def test_groups_and_devices_stay_whole():
  trainer = _trainer(batch=64)  # Groups of 4.
  counts = memory_estimate.micro_batch_counts
  assert list(counts(trainer, sharding.make_mesh(1), 64)) == [1, 2, 4, 8, 16]
  assert list(counts(trainer, sharding.make_mesh(4), 64)) == [1, 2, 4, 8, 16]
  assert list(counts(trainer, sharding.make_mesh(4), 24)) == [1, 2]
