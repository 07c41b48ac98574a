"""The reaction to shifts of discriminators for which it is known."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.eval.metrics import base, shift_sensitivity
from sg3jax.train import sharding

_SIDE = 32


class _Context(base.Context):
  """Images of smooth waves, and a network that is a function."""

  def __init__(self, judge, num_samples=8, devices=1):
    network = types.SimpleNamespace(
      mbstd_group=4, apply=lambda variables, x, c: judge(x)[:, None]
    )
    self._mesh = None
    self._images = types.SimpleNamespace(
      log=lambda line: None, mesh=sharding.make_mesh(devices)
    )
    self.discriminator = network, {}
    self.num_samples, self.seed, self._kept = num_samples, 0, {}

  def fakes(self, count):
    rng = np.random.RandomState(0)
    f, phase = rng.uniform(-5, 5, (2, 64, 3)), rng.uniform(size=(64, 3))
    p = np.arange(_SIDE) / _SIDE
    cycles = f[0][:, None, None] * p[:, None, None]
    cycles = cycles + f[1][:, None, None] * p[:, None] + phase[:, None, None]
    amplitude = rng.uniform(20, 100, (64, 1, 1, 1))
    images = 128 + amplitude * np.sin(2 * np.pi * cycles)
    return images[:count].astype(np.uint8)

  def fake_labels(self, count):
    return None


def _measure(judge, **options):
  return shift_sensitivity.measure(_Context(judge, **options))


@pytest.fixture(scope='module')
def measured():
  """Measurements of a network without a grid, and of one that reads a grid."""
  return (
    _measure(lambda x: jnp.square(x).sum((1, 2, 3))),
    _measure(lambda x: jnp.square(x[:, ::2, ::2]).sum((1, 2, 3))),
  )


@pytest.mark.slow
def test_a_network_that_reads_a_grid_is_told_from_one_that_does_not(measured):
  smooth, grid = (m.values for m in measured)
  # The gradient is the image itself, which moves but for its border.
  assert smooth['d_shift_gradient'] > 40
  # Three of four pixels of the gradient are zero, wherever the image is.
  assert grid['d_shift_gradient'] < 20
  assert 0 < smooth['d_shift'] < grid['d_shift'] < 1


@pytest.mark.slow
def test_measurements_have_intervals_and_whole_groups(measured):
  for found in measured:
    assert found.num_samples == 8
    assert set(found.ci95) == set(found.values)
    assert all(0 < width < np.inf for width in found.ci95.values())


@pytest.mark.slow
def test_values_do_not_depend_on_devices(measured):
  found = _measure(lambda x: jnp.square(x).sum((1, 2, 3)), devices=2).values
  for name, value in measured[0].values.items():
    assert found[name] == pytest.approx(value, rel=1e-6)


def test_the_ratio_and_its_interval_are_those_of_repetitions():
  rng = np.random.default_rng(0)
  found = []
  for _ in range(200):
    images = rng.normal(size=(20, 1, 4))
    found.append(
      shift_sensitivity._ratio(images + 0.1 * rng.normal(size=(20, 9, 4)))
    )
  values, widths = np.transpose(found)
  assert values.mean() == pytest.approx(0.1, rel=0.02)
  assert widths.mean() == pytest.approx(1.96 * values.std(), rel=0.15)


def test_a_discriminator_is_needed():
  context = _Context(None)
  context.discriminator = None
  with pytest.raises(ValueError, match='needs a discriminator'):
    shift_sensitivity.measure(context)
