"""The quickstart's step, compiled for a TPU slice with its kernels."""

import jax
import pytest
from conftest import CONFIGS, run_file

from sg3jax.train.planning import plan, topologies
from sg3jax.train.step import build

MISSING = topologies.missing_tpu()
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]

GENERATOR_LAYERS = 8


@pytest.fixture(scope='module')
def made():
  config = run_file(CONFIGS / 'quickstart.py').get_config()
  config.train.batch = 32
  topology = topologies.parse('v5e:2x2')
  mesh = topologies.mesh(topology)
  trainer, _ = build.prepare_for(config, mesh, img_channels=3, label_dim=0)
  # With the least effort the compiler takes a third of the time. The step that
  # it makes is slower, which no test here measures.
  before = jax.config.jax_optimization_level
  jax.config.update('jax_optimization_level', 'O1')
  yield plan.make(trainer, topology, mesh, config.train.batch, flops=1e12)
  jax.config.update('jax_optimization_level', before)


def test_the_kernels_are_in_it(made):
  # Forward for G's and for D's phase, and backward for G's.
  assert made.program.kernels >= 3 * GENERATOR_LAYERS
  assert made.program.kernel_flops > 0
  assert made.program.cycles > 1e5


def test_devices_exchange_gradients_and_little_else(made):
  cost = made.cost
  gradients = 4 * (cost.generator_parameters + cost.discriminator_parameters)
  sent = made.program.sent
  assert sent['all-reduce'] >= 0.9 * sum(sent.values())
  # Those of D in R1's phase count as a sixteenth; beside them are statistics.
  assert 0.9 * gradients < sum(sent.values()) < 4 * gradients


def test_it_fits_and_says_so(made):
  assert made.cost.peak < 2**30
  assert 'v5e:2x2: 4 x TPU v5 lite' in made.report(12)
