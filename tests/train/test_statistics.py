import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sg3jax.train import statistics


def test_moments_are_count_sum_and_squares_in_float32():
  x = np.array([[1.0, -2.0], [3.0, 0.5]])
  m = statistics.moments(jnp.asarray(x, jnp.bfloat16))
  assert m.dtype == jnp.float32
  np.testing.assert_array_equal(m, [4, 2.5, 14.25])
  np.testing.assert_array_equal(statistics.moments(jnp.int32(3)), [1, 3, 9])


def test_moments_of_half_precision_do_not_overflow_or_stall():
  # 4096 ones sum to 256 in bfloat16, and 300 squared overflows float16.
  np.testing.assert_array_equal(
    statistics.moments(jnp.ones(4096, jnp.bfloat16)), [4096, 4096, 4096]
  )
  assert statistics.moments(jnp.full(2, 300, jnp.float16))[2] == 180000


def test_result_equals_statistics_of_all_values_of_the_tick():
  rng = np.random.default_rng(0)
  # Batches of unequal size: a mean of means would differ.
  batches = [rng.normal(5, 0.1, n).astype(np.float32) for n in (1, 8, 31, 8)]
  step = jax.jit(lambda x: {'loss': statistics.moments(x)})
  accumulator = statistics.Accumulator()
  for batch in batches:
    accumulator.add(step(batch))
  values = np.concatenate(batches).astype(np.float64)
  result = accumulator.result()['loss']
  assert result['num'] == 48
  assert result['mean'] == pytest.approx(values.mean(), rel=1e-6)
  # Squares of 25 in float32 leave about 1e-6 of a variance of 0.01.
  assert result['std'] == pytest.approx(values.std(), rel=1e-3)


def test_sums_over_steps_keep_digits_beyond_float32():
  accumulator = statistics.Accumulator()
  steps = 2000
  for _ in range(steps):
    accumulator.add({'x': np.array([32, 32e4, 32e8], np.float32)})
    accumulator.add({'x': np.array([1, 0.5, 0.25], np.float32)})
  expected = (32e4 + 0.5) / 33
  assert accumulator.result()['x']['mean'] == pytest.approx(expected, rel=1e-13)


def test_names_of_some_steps_and_empty_names():
  accumulator = statistics.Accumulator()
  empty = np.zeros(3, np.float32)
  accumulator.add({'loss': statistics.moments(jnp.ones(4)), 'never': empty})
  accumulator.add(
    {
      'loss': statistics.moments(jnp.ones(4)),
      'r1': statistics.moments(jnp.full(4, 2.0)),
      'never': empty,
    }
  )
  assert accumulator.result() == {
    'loss': {'num': 8, 'mean': 1.0, 'std': 0.0},
    'r1': {'num': 4, 'mean': 2.0, 'std': 0.0},
  }
  assert accumulator.result() == {}  # The next tick starts empty.


def test_one_transfer_a_tick_and_none_a_step(monkeypatch):
  transfers = []
  device_get = jax.device_get
  monkeypatch.setattr(
    jax, 'device_get', lambda x: transfers.append(1) or device_get(x)
  )
  step = {'loss': statistics.moments(jnp.ones(2))}
  accumulator = statistics.Accumulator()
  accumulator.add(step)
  # The caller may reuse its dict for the next step.
  step['loss'] = statistics.moments(jnp.zeros(2))
  accumulator.add(step)
  assert not transfers
  assert accumulator.result()['loss'] == {'num': 4, 'mean': 0.5, 'std': 0.5}
  assert len(transfers) == 1


def test_non_finite_values_stay_visible():
  accumulator = statistics.Accumulator()
  accumulator.add({'loss': statistics.moments(jnp.array([1.0, jnp.nan]))})
  result = accumulator.result()['loss']
  assert result['num'] == 2
  assert math.isnan(result['mean'])
  assert math.isnan(result['std'])


def test_sharded_values_count_once():
  mesh = Mesh(np.array(jax.devices()[:4]), ('data',))
  x = np.arange(16, dtype=np.float32)
  sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))
  accumulator = statistics.Accumulator()
  accumulator.add({'x': jax.jit(statistics.moments)(sharded)})
  result = accumulator.result()['x']
  assert result['num'] == 16
  assert result['mean'] == 7.5
  assert result['std'] == pytest.approx(x.std(), rel=1e-6)


def test_summarize():
  assert statistics.summarize({'Progress/tick': 3}) == {
    'Progress/tick': {'num': 1, 'mean': 3.0, 'std': 0.0}
  }
