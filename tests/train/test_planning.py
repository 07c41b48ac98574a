"""Plans of runs on absent machines, as far as no compiler is needed."""

import dataclasses
import pathlib

import jax
import pytest
import tiny

from sg3jax.train import config as config_lib
from sg3jax.train import memory_estimate, sharding
from sg3jax.train.memory_estimate import gib
from sg3jax.train.planning import (
  fitting,
  interconnect,
  machines,
  plan,
  program,
  topologies,
)
from sg3jax.train.step import build
from sg3jax.train.step import trainer as trainer_lib

GIB = 2**30


@pytest.mark.parametrize(
  ('name', 'size', 'groups'),
  [
    ('v5e:16x16', 256, 1),
    ('v5e:16x16*4', 1024, 4),
    ('v4:2x2x1', 4, 1),
    ('tpu7x:2x2x1', 8, 1),  # Two devices a chip.
    ('h100:8', 8, 1),
    ('h100:4x8', 32, 4),
  ],
)
def test_names_of_topologies(name, size, groups):
  topology = topologies.parse(name)
  assert (topology.size, topology.groups) == (size, groups)


@pytest.mark.parametrize(
  'name', ['v5e', 'v5e:16', 'v5e:0x4', 'v5p:4x4', 'h100:2x2x2', 'a100:8', '']
)
def test_unknown_topologies_are_refused(name):
  with pytest.raises(ValueError, match='v5e:16x16 or v6e:8x8') as error:
    topologies.parse(name)
  assert repr(name) in str(error.value)


@pytest.mark.parametrize(
  ('name', 'package'), [('v5e:2x2', 'jax[tpu]'), ('h100:8', 'jax[cuda13]')]
)
def test_a_missing_compiler_is_named(monkeypatch, name, package):
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match='not installed: pip install') as error:
    topologies.mesh(topologies.parse(name))
  assert package in str(error.value)


HLO = (pathlib.Path(__file__).parent / 'fixtures' / 'step.hlo').read_text()


def test_a_program_is_read():
  found = program.read(HLO, lazy_share=1 / 16)
  # Three turns of the loop, and a sixteenth of the rare branch.
  assert found.cycles == 3 * 100 + 1600 / 16
  assert found.kernels == 1
  assert (found.kernel_flops, found.kernel_bytes) == (5000, 256)
  assert found.sent == {'all-reduce': 64 + 32 / 16}
  assert found.exchanges == 1 + 1 / 16
  # Fusions read and write 32 bytes each, and so does the rare sum; the kernel
  # and the frequent sum 64, in and out.
  assert found.traffic == 3 * 64 + (64 + 64) / 16 + 128 + 64 + 128


def test_a_real_program_is_read():
  """On CPUs the compiler states no cycles, but traffic and sums are there."""
  mesh = sharding.make_mesh(4)
  x = jax.ShapeDtypeStruct(
    (8, 1024), 'float32', sharding=sharding.batch_sharding(mesh)
  )
  compiled = jax.jit(
    lambda x: x.sum(0), out_shardings=sharding.replicated(mesh)
  ).lower(x).compile()  # fmt: skip
  found = program.read(compiled.as_text() or '')
  assert found.sent == {'all-reduce': 4 * 1024}
  assert found.traffic >= 2 * 4 * 1024


def test_sums_take_twice_the_bytes_over_the_links():
  sent = {'all-reduce': 200e6}

  def seconds(name):
    return interconnect.seconds(sent, 0, topologies.parse(name))

  assert seconds('v5e:1x1') == 0
  # A closed torus uses all of its links, an open one half of them.
  assert seconds('v5e:16x16') == pytest.approx(2 * 200e6 * 255 / 256 / 200e9)
  assert seconds('v5e:4x4') == pytest.approx(2 * 200e6 * 15 / 16 / 100e9)
  assert seconds('h100:8') == pytest.approx(2 * 200e6 * 7 / 8 / 450e9)
  # Hosts exchange an eighth for each of their GPUs.
  more = seconds('h100:4x8') - seconds('h100:8')
  assert more == pytest.approx(2 * 200e6 / 8 * 3 / 4 / 50e9)
  scattered = interconnect.seconds(
    {'reduce-scatter': 25e6}, 0, topologies.parse('h100:8')
  )
  assert scattered == pytest.approx(seconds('h100:8') / 2)


def _resolved(**train):
  config = tiny.tiny_config(**train)
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return config


def _error(peak, temporary, state):
  cost = memory_estimate.StepCost(
    16, 1, 1, 1, 0.0, {'temporary': temporary, 'state': state}, state
  )
  return memory_estimate.TooLargeError(peak, 16 * GIB, cost)


def _candidates(error, **train):
  config = _resolved(batch=16, **train)
  mesh = sharding.make_mesh(4)
  topology = topologies.parse('v5e:2x2')
  return list(fitting.candidates(config, topology, mesh, error))


def test_the_smallest_change_comes_first():
  # 20 GiB, of which 16 shrink: two parts take 12, four take 8.
  first, *_ = _candidates(_error(20 * GIB, 16 * GIB, 4 * GIB))
  assert first == {'train.micro_batches': 2}
  first, *_ = _candidates(_error(40 * GIB, 36 * GIB, 4 * GIB))
  assert first == {'train.micro_batches': 4}


def test_a_large_state_is_spread():
  # Of the 20 GiB of state each device keeps 5.
  first, *rest = _candidates(_error(22 * GIB, 2 * GIB, 20 * GIB))
  assert first == {'train.micro_batches': 4, 'train.sharding': 'fsdp'}
  assert {'train.micro_batches': 4, 'model.remat': True} in rest
  assert 'train.sharding' in rest[-1]
  assert 'model.remat' in rest[-1]


def test_without_a_way_out_layers_are_computed_again():
  changes = _candidates(
    _error(500 * GIB, 480 * GIB, 1 * GIB), micro_batches=4, sharding='fsdp'
  )
  assert changes == [{'model.remat': True}]
  assert fitting.flags(changes[0]) == '--config.model.remat=True'


def test_fitting_reports_what_it_tries(monkeypatch):
  """The first change is compiled, found too large, and the second one used."""
  peaks = {2: 15.5 * GIB, 4: 12 * GIB}

  def make(trainer, topology, mesh, batch, flops):
    count = trainer.recipe.micro_batches
    cost = memory_estimate.StepCost(
      batch, count, 1, 1, flops, {'temporary': int(peaks[count])}, 1
    )
    if peaks[count] > 14 * GIB:
      raise memory_estimate.TooLargeError(cost.peak, 16 * GIB, cost)
    return plan.StepPlan(topology, 'TPU', cost, program.read(HLO))

  monkeypatch.setattr(plan, 'make', make)
  lines = []
  found = fitting.search(
    _resolved(batch=16),
    topologies.parse('v5e:2x2'),
    sharding.make_mesh(4),
    1e12,
    _error(20 * GIB, 16 * GIB, 4 * GIB),
    lines.append,
  )
  assert found is not None
  assert found[0] == {'train.micro_batches': 4}
  assert [line.split(': ')[1] for line in lines] == ['15.500 GiB', '12.000 GiB']


def test_estimates_of_a_plan():
  cost = memory_estimate.StepCost(64, 1, 10, 20, 2e13, {'state': GIB}, GIB)
  work = program.Program(1.5e9, 1e12, 3, 197e12, 819e9, {'all-reduce': 1e8}, 2)
  on_tpu = plan.StepPlan(topologies.parse('v5e:2x2'), 'TPU', cost, work)
  assert on_tpu.compute_seconds == pytest.approx(2)  # Cycles, then kernels.
  assert on_tpu.seconds > on_tpu.compute_seconds
  assert on_tpu.seconds_per_kimg == pytest.approx(on_tpu.seconds / 64 * 1000)
  on_gpu = plan.StepPlan(
    topologies.parse('h100:8'), 'H100', cost, work._replace(cycles=0.0)
  )
  memory_bound = 1e12 / machines.MACHINES['h100'].bandwidth
  assert on_gpu.compute_seconds == pytest.approx(memory_bound)
  report = on_tpu.report(25_000)
  days = 25_000 * on_tpu.seconds_per_kimg / 86_400
  for word in ('Estimate (nothing was run)', f'{days:.2f} days', 'all-reduce'):
    assert word in report


def test_the_share_of_lazy_phases():
  trainer = build.make_trainer(_resolved())
  assert plan.lazy_share(trainer) == 1 / trainer.recipe.r1_interval
  recipe = dataclasses.replace(trainer.recipe, pl_weight=2.0, pl_interval=1)
  assert plan.lazy_share(dataclasses.replace(trainer, recipe=recipe)) == 1


@pytest.mark.parametrize(
  ('message', 'peak'),
  [
    (
      'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory '
      'in memory space hbm. Used 26.50G of 15.75G hbm.',
      int(26.5 * GIB),
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (19.39G) exceeds available HBM (15.75G).',
      int(19.39 * GIB),
    ),
    ('RESOURCE_EXHAUSTED: something else', 16 * GIB),
    ('RESOURCE_EXHAUSTED: Used 900M of 15.75G', 16 * GIB),
  ],
)
def test_the_compilers_error_says_what_a_step_takes(message, peak, monkeypatch):
  with pytest.raises(memory_estimate.TooLargeError) as caught:
    _make_with_error(message, monkeypatch)
  assert caught.value.peak == peak
  assert f'takes at least {gib(peak)} on' in str(caught.value)


def test_smaller_micro_batches_are_tried_where_the_compiler_gives_up(
  monkeypatch,
):
  def compile_step(trainer, mesh, batch, memory):
    images = batch // trainer.recipe.micro_batches
    raise memory_estimate.TooLargeError(images * GIB, memory)

  monkeypatch.setattr(memory_estimate, 'compile_step', compile_step)
  trainer, lines = build.make_trainer(_resolved(batch=16)), []
  with pytest.raises(ValueError, match='4 images at a time are too many') as e:
    memory_estimate.fit(
      trainer, sharding.make_mesh(1), 16, 2 * GIB, lines.append
    )
  assert 'a step takes at least 4.000 GiB on each device' in str(e.value)
  assert 'model.remat=True' in str(e.value)
  assert lines == [
    '    16 images at a time: at least 16.000 GiB',
    '     8 images at a time: at least 8.000 GiB',
    '     4 images at a time: at least 4.000 GiB',
  ]


def test_other_errors_of_the_compiler_are_passed_on(monkeypatch):
  with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
    _make_with_error('INTERNAL: Used 1G of 2G', monkeypatch)


def _make_with_error(message, monkeypatch):
  """Makes a plan with a compiler that raises an error."""

  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError(message)

  monkeypatch.setattr(
    memory_estimate, 'lower_step', lambda *_: (Lowered(), {}, {})
  )
  trainer = build.make_trainer(_resolved(batch=16))
  topology = topologies.parse('v5e:2x2')
  plan.make(trainer, topology, sharding.make_mesh(4), 16, 1e12)


@pytest.mark.slow
def test_a_plan_of_a_step_for_devices_of_this_machine():
  """All but the compiler for absent machines: it is given CPUs instead."""
  trainer = build.make_trainer(_resolved(batch=16))
  topology = topologies.parse('h100:4')
  mesh = sharding.make_mesh(4)
  made = plan.make(trainer, topology, mesh, 16, 1e9)
  parameters = (
    made.cost.generator_parameters + made.cost.discriminator_parameters
  )
  # Gradients of both networks are summed, in float32; some parts twice.
  assert made.program.sent['all-reduce'] >= 4 * parameters
  assert made.program.traffic > 0
  assert 'h100:4: 4 x cpu' in made.report(100.0)
  whole = trainer_lib.STEPS_IN_FLIGHT + 1
  assert made.cost.memory['batch'] == whole * 4 * 16 * 16 * 3
  small = dataclasses.replace(
    topology, machine=dataclasses.replace(topology.machine, memory=1000)
  )
  with pytest.raises(
    memory_estimate.TooLargeError, match='more than 92%'
  ) as error:
    plan.make(trainer, small, mesh, 16, 1e9)
  assert error.value.cost == made.cost
