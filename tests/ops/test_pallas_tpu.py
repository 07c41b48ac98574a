"""The TPU kernel beyond the contract: tiles, generations, races, refusals."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filtered_lrelu_contract import SMALL_LAYERS, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import (
  api,
  banded,
  filtered_lrelu,
  pallas_tpu,
  shapes,
  tiling_tpu,
)
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.plan import Pass

DIRECTIONS = ('forward', 'backward', 'tangent')


def make_plan(options, size):
  return api.make_plan((size, size), jnp.float32, **options)


def operands_of(chain, n, c, seed=0):
  rng = np.random.RandomState(seed)
  return [
    rng.randn(n, terms[0][0].in_size, terms[0][1].in_size, c)
    for terms in chain.expand
  ]


def assert_computes(y, chain, operands):
  with jax.enable_x64(True):
    spelling = banded.spell('einsum', chain, jnp.dtype('float64'))
    expected = banded.evaluate(spelling, chain, *map(jnp.asarray, operands))
    # Masks differ where rounding moves U x to the other side of zero.
    tolerance = 2e-6 if len(operands) == 1 else 1e-3
    assert relative_error(y, expected) < tolerance


# Tiles.


@settings(max_examples=60, deadline=None)
@given(
  st.integers(5, 60),
  st.integers(1, 5),
  st.integers(1, 5),
  st.integers(1, 13),
  st.integers(1, 13),
  st.integers(-9, 25),
  st.integers(1, 40),
)
def test_tiles_compute_what_the_passes_do(
  in_size, up, down, taps_u, taps_d, low, tile
):
  rng = np.random.RandomState(0)
  middle = in_size * up + 7
  out_size = (middle - taps_d) // down + 1
  if out_size < 1:
    return
  expand = Pass(tuple(rng.randn(taps_u)), up, 1, low, in_size, middle)
  contract = Pass(tuple(rng.randn(taps_d)), 1, down, 0, middle, out_size)
  x = rng.randn(in_size)
  expected = contract.matrix @ expand.matrix @ x
  for align in (1, 8):
    axis = tiling_tpu.tile_axis([expand], contract, tile, align)
    if axis is None:
      assert align == 8 or tile * down % up
      continue
    (window,) = axis.windows
    ups = tiling_tpu.expand_matrices(expand, window, axis, contract)
    down_matrix = tiling_tpu.contract_matrix(contract, axis)
    padded = np.pad(x, (0, window.over))
    parts = [
      down_matrix @ ups[t] @ padded[window.start(t) :][: window.size]
      for t in range(axis.tiles)
    ]
    assert all(window.start(t) % align == 0 for t in range(axis.tiles))
    np.testing.assert_allclose(
      np.concatenate(parts)[:out_size], expected, atol=1e-12
    )


@pytest.mark.parametrize('generation', ['v4', 'v5e', 'v6e'])
def test_every_real_layer_has_tiles(generation):
  # The least and the most memory, and both sizes of matrix unit.
  specs = [spec_lib.stylegan3_t(1024), spec_lib.stylegan3_r(1024)]
  for layer in (layer for spec in specs for layer in spec.layers):
    if layer.is_torgb:
      continue
    plan = make_plan(layer.nonlinearity(), layer.padded_size)
    for chain in (plan.forward, plan.backward):
      c = layer.out_channels
      cut = tiling_tpu.choose(chain, 8, c, 2, generation)
      assert cut is not None
      limit = tiling_tpu.GENERATIONS[generation].vmem
      assert tiling_tpu.vmem_bytes(chain, cut, 2) <= limit
      assert cut.pair == (generation in ('v6e', 'tpu7x'))
      assert cut.pack == (c <= 42)


def test_the_choice_is_the_measured_one():
  # Of the tiles tried for this layer on a v5e, the compiler's schedule of this
  # one is the shortest (docs/kernels.md).
  layer = next(s for s in shapes.LAYERS if s.name == 't-L8')
  plan = make_plan(layer.options(), layer.size)
  cut = tiling_tpu.choose(plan.forward, 4, layer.channels, 2, 'v5e')
  assert (cut.h.tile, cut.w.tile) == (50, 80)


def test_device_kinds():
  kinds = {
    'TPU v4': 'v4',
    'TPU v5 lite': 'v5e',
    'TPU v5': 'v5p',
    'TPU v5p': 'v5p',
    'TPU v6 lite': 'v6e',
    'TPU7x': 'tpu7x',
    'cpu': 'v5e',
  }
  for kind, generation in kinds.items():
    assert tiling_tpu.generation_of(kind) == generation


# Values that the contract does not reach.


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('name', ['t-L0', 'r-L3'])
def test_two_columns_side_by_side(name, direction):
  layer = SMALL_LAYERS[name]
  chain = getattr(make_plan(layer.options(), layer.size), direction)
  operands = operands_of(chain, 1, 130)  # Two groups of lanes, one a tail.
  y = pallas_tpu.run(
    chain,
    *(jnp.asarray(x, jnp.float32) for x in operands),
    kind='v6e',
    interpret=True,
  )
  assert_computes(y, chain, operands)


def test_many_tiles_and_negative_padding():
  layer = next(s for s in shapes.LAYERS if s.name == 't-L13')
  chain = make_plan(layer.options(), 70).backward
  cut = tiling_tpu.choose(chain, 1, 3, 4, 'v5e')
  small = {
    'h': tiling_tpu.tile_axis(
      [t[0][0] for t in chain.expand], chain.contract[0][0], 12, 1
    ),
    'w': tiling_tpu.tile_axis(
      [t[0][1] for t in chain.expand], chain.contract[0][1], 24, 8
    ),
  }
  cut = dataclasses.replace(cut, **small)
  assert (cut.h.tiles, cut.w.tiles) == (6, 3)
  operands = operands_of(chain, 1, 3)
  y = pallas_tpu._call(
    chain, cut, True, *(jnp.asarray(x, jnp.float32) for x in operands)
  )
  assert_computes(y, chain, operands)


def test_no_race_and_nothing_uninitialized():
  layer = SMALL_LAYERS['t-L0']
  chain = make_plan(layer.options(), 20).backward
  operands = operands_of(chain, 2, 5)
  params = pltpu.InterpretParams(
    detect_races=True,
    uninitialized_memory='nan',
    dma_execution_mode='on_wait',
  )
  y = pallas_tpu.run(
    chain,
    *(jnp.asarray(x, jnp.float32) for x in operands),
    kind='v5e',
    interpret=params,
  )
  assert_computes(y, chain, operands)
  from jax._src.pallas.mosaic.interpret import interpret_pallas_call

  assert not interpret_pallas_call.races.races_found


# What the entry point does with it.


def tpu_text(x, **options):
  """Returns what a call is lowered to for a TPU, chosen from its mesh."""
  device = jax.sharding.AbstractDevice('TPU v5 lite', 1, 'tpu')
  mesh = jax.sharding.AbstractMesh((1,), ('one',), abstract_device=device)
  f = np.ones(12) / 12

  def loss(x):
    y = filtered_lrelu(x, f, f, up=2, down=2, padding=9, **options)
    return jnp.sum(y.astype(jnp.float32))

  with jax.sharding.use_abstract_mesh(mesh):
    lowered = jax.jit(jax.grad(loss)).trace(x).lower(
      lowering_platforms=('tpu',)
    )  # fmt: skip
  return lowered.as_text()


def test_it_is_the_default_on_a_tpu(monkeypatch):
  said = []
  monkeypatch.setattr(api, '_say_once', said.append)
  x = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.bfloat16)
  assert tpu_text(x).count('tpu_custom_call') == 1  # The gradient's.
  x = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float16)
  assert 'tpu_custom_call' not in tpu_text(x)
  assert said[0].endswith('on tpu: pallas_tpu')
  assert 'takes bfloat16 and float32, not float16' in said[1]


def test_what_it_cannot_serve():
  x = jax.ShapeDtypeStruct((1, 16, 16, 8), jnp.float16)
  with pytest.raises(NotImplementedError, match='not float16'):
    tpu_text(x, implementation='pallas_tpu')
  x = jax.ShapeDtypeStruct((1, 16, 16, 8), jnp.float32)
  with pytest.raises(NotImplementedError, match='positive gain'):
    tpu_text(x, implementation='pallas_tpu', gain=-1.0)
  huge = Pass((1.0,) * 3000, 1, 1, 0, 3100, 101)
  chain = plan_lib.Chain(
    (((huge, huge),),), Activation(1.0, 0.2, None), (((identity(101),) * 2),)
  )
  reason = pallas_tpu.unsupported(chain, x, kind='v4')
  assert reason == 'no tile of it fits the vector memory'


def identity(size):
  return Pass((1.0,), 1, 1, 0, size, size)


def test_the_cost_that_xla_is_told():
  layer = SMALL_LAYERS['t-L0']
  chain = make_plan(layer.options(), 38).forward
  cost = pallas_tpu._cost(chain, 2, 3, jnp.dtype(jnp.bfloat16))
  middle = 2 * (2 * 36 + 10)
  assert cost.bytes_accessed == (38**2 + 36**2) * 2 * 3 * 2
  # Two multiply-adds... of 6 up taps a sample, and 12 down taps.
  up = 2 * 6 * (38 + middle / 2) * middle / 2
  down = 2 * 12 * 36 * (middle / 2 + 36)
  assert math.isclose(cost.flops, 6 * (up + down), rel_tol=1e-6)
