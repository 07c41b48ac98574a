"""The contract for each implementation, and the checks of the entry point."""

import functools
import inspect
import math
import re

import jax
import jax.numpy as jnp
import layer_shapes as shapes
import numpy as np
import pytest
from absl import logging
from filtered_lrelu_contract import FilteredLReluContract, ValuesContract

from sg3jax.ops.filtered_lrelu import (
  banded,
  dispatch,
  filtered_lrelu,
  platform,
  vjp,
)
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch


class TestReference(FilteredLReluContract):
  implementation = 'reference'


class TestBanded(FilteredLReluContract):
  implementation = 'banded'


def _spelled(name):
  """Returns `banded` in one spelling, whatever the platform."""

  @functools.partial(jax.jit, static_argnums=0)
  def run(chain, *operands, scaling):
    spelling = banded.spell(name, chain, operands[0].dtype)
    operands = scaling.enter(*operands)
    return scaling.leave(banded.evaluate(spelling, chain, *operands))

  return vjp.differentiable(run)


class _Spelling(ValuesContract):
  @pytest.fixture(autouse=True)
  def _register(self, monkeypatch):
    name = self.implementation
    monkeypatch.setitem(dispatch.IMPLEMENTATIONS, name, _spelled(name))


class TestEinsum(_Spelling):
  implementation = 'einsum'


class TestBatched(_Spelling):
  implementation = 'batched'


class TestPallasTPU(FilteredLReluContract):
  """Interpreted; with tiles for a matrix unit of 128."""

  implementation = 'pallas_tpu'
  dtype = np.float32
  narrow_dtypes = ('bfloat16',)

  def context(self):
    return platform.interpreted()


@pytest.mark.skipif(
  jax.__version_info__ < gpu_launch._OLDEST_JAX,
  reason='the GPU kernel and its interpreter need JAX 0.11',
)
class TestPallasGPU(FilteredLReluContract):
  """Interpreted."""

  implementation = 'pallas_gpu'
  dtype = np.float16
  refused_goldens = (7,)  # Up by 3.
  refused_geometries = (4, 7, 8)  # Rates of 3 and 5.
  random_examples = 2  # Half a minute each.

  def context(self):
    return platform.interpreted()

  # The interpreter of JAX 0.12 has effects, which remat does not take, and one
  # state for all devices: what is compiled has to do.

  def compiled_for_gpus(self, f):
    """Returns what f is lowered to for four GPUs, not interpreted."""
    device = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', 132, 'gpu')
    mesh = jax.sharding.AbstractMesh(
      (4,),
      ('data',),
      axis_types=(jax.sharding.AxisType.Auto,),
      abstract_device=device,
    )
    over = jax.NamedSharding(mesh, jax.P('data'))
    x = jax.ShapeDtypeStruct((4, 8, 9, 64), self.dtype, sharding=over)
    b = jax.ShapeDtypeStruct((64,), self.dtype)
    with platform.interpreted(False), jax.sharding.use_abstract_mesh(mesh):
      lowered = jax.jit(f).trace(x, b).lower(lowering_platforms=('cuda',))
    return lowered.as_text()

  def test_remat_changes_nothing(self):
    pytest.skip('the interpreter has effects, which remat does not take')

  def test_sharded_batch_stays_where_it_is(self):
    text = self.compiled_for_gpus(jax.grad(self.loss))
    maps = re.findall(r'manual_computation.*?manual_axes=\{[^}]*\}', text)
    assert len(maps) == 2  # Forward and backward: each device has its samples.
    for line in maps:
      shardings = re.findall(r'<@mesh, \[([^\]]*\}[^\]]*)\]', line)
      shared = [s for s in shardings if s != '{}']  # All but the bias.
      assert len(shared) == len(shardings) - 1 >= 2
      assert all(s.startswith('{"data"}') for s in shared), line


X = np.zeros((1, 8, 8, 2), np.float32)
F = np.ones(12) / 12


def test_each_platform_gets_its_spelling():
  plan = plan_lib.make_plan(
    (8, 8), F, F, up=2, down=2, padding=((9, 8), (9, 8)),
    activation=Activation(1.0, 0.2, None), tolerance=0.0,
  )  # fmt: skip
  f = jax.jit(functools.partial(dispatch.IMPLEMENTATIONS['banded'], plan))
  texts = {
    platform: f.trace(X).lower(lowering_platforms=(platform,)).as_text()
    for platform in ('cpu', 'cuda', 'tpu')
  }
  assert 'dot_general' not in texts['cpu']
  assert texts['cuda'].count('batching_dims') == 4
  assert texts['tpu'].count('dot_general') == 4
  assert 'batching_dims' not in texts['tpu']


def test_blocks_of_channels_change_nothing(monkeypatch):
  x = np.random.RandomState(0).randn(2, 8, 8, 11).astype(np.float32)
  f = np.ones(4) / 4
  call = functools.partial(filtered_lrelu, fu=f, fd=f, up=2, down=2, padding=3)

  def derivatives(x):
    # Not jitted as one, or the first trace would serve both.
    jax.clear_caches()
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(call(x))))
    return call(x), slope(x), jax.grad(lambda x: jnp.sum(slope(x) ** 2))(x)

  whole = derivatives(x)
  monkeypatch.setitem(banded._MAX_MIDDLE_BYTES, 'cpu', 8000)
  monkeypatch.setattr(banded, '_MIN_CHANNELS', 3)
  for a, b in zip(derivatives(x), whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_only_the_input_is_kept_for_the_backward_pass():
  _, pull = jax.vjp(
    lambda x: filtered_lrelu(x, F, F, up=2, down=2, padding=9), X
  )
  kept = [leaf for leaf in jax.tree.leaves(pull) if hasattr(leaf, 'shape')]
  assert [leaf.shape for leaf in kept] == [X.shape]


def test_a_pass_is_its_matrix_and_its_transpose():
  rng = np.random.RandomState(0)
  for up, down, taps, low in ((2, 1, 5, 3), (1, 3, 4, -2), (4, 2, 7, 9)):
    step = plan_lib.Pass(tuple(rng.randn(taps)), up, down, low, 6, 7)
    np.testing.assert_array_equal(step.transposed.matrix, step.matrix.T)
    assert step.transposed.transposed == step


def test_plans_of_equal_calls_are_equal():
  def plan(scale):
    return plan_lib.make_plan(
      (8, 9), F * scale, np.outer(F, F), up=2, down=2,
      padding=((9, 8), (9, 8)), activation=Activation(1.0, 0.2, None),
      tolerance=1e-7,
    )  # fmt: skip

  assert plan(1) == plan(1)
  assert hash(plan(1)) == hash(plan(1))
  assert plan(1) != plan(2)


def test_radial_layers_take_the_published_ranks():
  ranks = {}
  for layer in shapes.LAYERS:
    if layer.is_radial:
      f = layer.down_filter
      plan = plan_lib.make_plan(
        (40, 40), None, f, up=1, down=2, padding=((0, 0), (0, 0)),
        activation=Activation(1.0, 0.2, None), tolerance=4e-7,
      )  # fmt: skip
      ranks[layer.name] = len(plan.contract)
  assert ranks == {'r-L0': 2, 'r-L2': 3, 'r-L3': 3, 'r-L9': 4}


def test_what_was_picked_is_said_once_per_shape(monkeypatch):
  said = []
  monkeypatch.setattr(logging, 'info', lambda *args: said.append(args[1]))
  dispatch._say_once.cache_clear()
  for _ in range(3):
    filtered_lrelu(X)
    jax.grad(lambda x: filtered_lrelu(x, F, up=2, padding=9).sum())(X)
    filtered_lrelu(X, implementation='reference')
  assert said == [
    'forward [1, 8, 8, 2] float32 to [8, 8] on cpu: banded',
    'forward [1, 8, 8, 2] float32 to [23, 23] on cpu: banded',
    'derivative [1, 23, 23, 2] float32 to [8, 8] on cpu: banded',
  ]


def test_a_kernel_for_another_platform_is_refused():
  with pytest.raises(
    NotImplementedError, match='platform must be tpu, got cpu'
  ):
    filtered_lrelu(X, F, F, padding=9, implementation='pallas_tpu')


@pytest.mark.parametrize(
  ('options', 'error', 'message'),
  [
    (
      {'implementation': 'cuda'},
      ValueError,
      "'reference', 'pallas', 'pallas_tpu', 'pallas_gpu'",
    ),
    ({'up': 0}, ValueError, 'up must be at least 1'),
    ({'down': -1}, ValueError, 'down must be at least 1'),
    ({'padding': (1, 2, 3)}, ValueError, 'padding must be'),
    ({'padding': ((1, 2), 3)}, ValueError, 'padding must be'),
    ({'padding': -4}, ValueError, 'along h must be at least.*= 0'),
    ({'fu': np.ones(9)}, ValueError, 'must be at least 9 samples.*got 8'),
    ({'padding': ((0, 0), (0, -8))}, ValueError, 'along w'),
    ({'fd': np.ones((2, 2, 2))}, ValueError, 'fd must be'),
    ({'fu': np.array([np.nan])}, ValueError, 'fu must be'),
    ({'gain': math.inf}, ValueError, 'gain must be finite'),
    ({'clamp': -1.0}, ValueError, 'clamp must be finite and at least 0'),
  ],
)
def test_bad_calls_are_refused(options, error, message):
  with pytest.raises(error, match=message):
    filtered_lrelu(X, **options)


def test_bad_arrays_are_refused():
  # Without the type checks that the test run adds, as users call it.
  call = inspect.unwrap(filtered_lrelu)
  with pytest.raises(ValueError, match='n, h, w, c'):
    call(X[0])
  with pytest.raises(ValueError, match='non-empty'):
    call(X[:0])
  with pytest.raises(TypeError, match='got int32'):
    call(jnp.zeros(X.shape, jnp.int32))
  with pytest.raises(ValueError, match=r'b must have the shape \[2\]'):
    call(X, b=np.zeros(3, np.float32))


def test_a_traced_filter_is_refused():
  with pytest.raises(TypeError, match='fu must be a concrete array'):
    jax.jit(lambda f: filtered_lrelu(X, f, padding=11))(F)
