"""The barrier does what it is there for in a compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.ops import barrier


def _filter_twice(x, between):
  y = x[:-1] * 0.3 + x[1:] * 0.7
  y = between(y)
  return y[:, :-1] * 0.3 + y[:, 1:] * 0.7


@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='a CPU matter')
def test_a_stored_value_is_computed_once():
  x = jnp.arange(12.0).reshape(3, 4)

  def fusions(between):
    compiled = jax.jit(lambda x: _filter_twice(x, between)).lower(x).compile()
    return compiled.as_text().count(' fusion(')

  assert fusions(lambda y: y) == 1
  assert fusions(barrier.store) == 2


def test_trees_pass_unchanged_through_transformations():
  x = jnp.arange(12.0).reshape(3, 4)
  tree = {'a': (x, 2 * x), 'b': None}
  jax.tree.map(np.testing.assert_array_equal, barrier.store(tree), tree)
  np.testing.assert_array_equal(jax.vmap(barrier.store)(x), x)
  gradient = jax.grad(lambda x: jnp.sum(barrier.store(x) ** 2))(x)
  np.testing.assert_array_equal(gradient, 2 * x)
