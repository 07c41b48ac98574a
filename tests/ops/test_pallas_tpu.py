"""The TPU kernel beyond the contract: tiles, generations, races, refusals."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import layer_shapes as shapes
import numpy as np
import pytest
from filtered_lrelu_contract import SMALL_LAYERS, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from sg3jax.nets import spec as spec_lib
from sg3jax.ops.filtered_lrelu import api, banded, dispatch, filtered_lrelu
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.plan import Pass
from sg3jax.ops.filtered_lrelu.tpu import launch as tpu_launch
from sg3jax.ops.filtered_lrelu.tpu import tiling as tpu_tiling

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
  st.integers(-5, 300),
  st.integers(1, 40),
)
def test_tiles_compute_what_the_passes_do(
  in_size, up, down, taps_u, taps_d, low, down_low, tile
):
  rng = np.random.RandomState(0)
  middle = in_size * up + 7
  out_size = (middle - taps_d) // down + 1
  if out_size < 1:
    return
  expand = Pass(tuple(rng.randn(taps_u)), up, 1, low, in_size, middle)
  contract = Pass(tuple(rng.randn(taps_d)), 1, down, down_low, middle, out_size)
  x = rng.randn(in_size)
  expected = contract.matrix @ expand.matrix @ x
  for align in (1, 8):
    axis = tpu_tiling.tile_axis([expand], contract, tile, align)
    if axis is None:
      assert align == 8 or tile * down % up
      continue
    (window,) = axis.windows
    ups = tpu_tiling.expand_matrices(expand, window, axis, contract)
    down_matrix = tpu_tiling.contract_matrix(contract, axis)
    padded = np.pad(x, (0, window.over))
    parts = [
      down_matrix @ ups[t] @ padded[window.start(t) :][: window.size]
      for t in range(axis.tiles)
    ]
    assert all(window.start(t) % align == 0 for t in range(axis.tiles))
    np.testing.assert_allclose(
      np.concatenate(parts)[:out_size], expected, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('generation', 'make_spec'),
  [('v4', spec_lib.stylegan3_r), ('v6e', spec_lib.stylegan3_t)],
)
def test_every_real_layer_has_tiles(generation, make_spec):
  # The least memory with the most terms, and the other size of matrix unit.
  for layer in make_spec(1024).layers:
    if layer.is_torgb:
      continue
    plan = make_plan(layer.nonlinearity(), layer.padded_size)
    for chain in (plan.forward, plan.backward):
      c = layer.out_channels
      cut = tpu_tiling.choose(chain, 8, c, 2, generation)
      assert cut is not None
      limit = tpu_tiling.GENERATIONS[generation].vmem
      assert tpu_tiling.vmem_bytes(chain, cut, 2) <= limit
      assert cut.pair == (generation in ('v6e', 'tpu7x'))
      assert cut.pack == (c <= 42)


def test_the_choice_has_the_shortest_schedule():
  # Of sixteen tiles tried for this layer on a v5e (37, 50, 52, 74 rows by 40,
  # 56, 80, 152 columns), the compiler's schedule of this one is the shortest.
  layer = next(s for s in shapes.LAYERS if s.name == 't-L8')
  plan = make_plan(layer.options(), layer.size)
  cut = tpu_tiling.choose(plan.forward, 4, layer.channels, 2, 'v5e')
  assert (cut.h.tile, cut.w.tile) == (50, 80)


def test_device_kinds():
  kinds = {
    'TPU v3': None,
    'TPU v4': 'v4',
    'TPU v5 lite': 'v5e',
    'TPU v5': 'v5p',
    'TPU v5p': 'v5p',
    'TPU v6 lite': 'v6e',
    'TPU7x': 'tpu7x',
    'cpu': 'v5e',
  }
  for kind, generation in kinds.items():
    assert tpu_tiling.generation_of(kind) == generation


# Values that the contract does not reach.


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('name', ['t-L0', 'r-L3'])
def test_two_columns_side_by_side(name, direction):
  layer = SMALL_LAYERS[name]
  chain = getattr(make_plan(layer.options(), layer.size), direction)
  operands = operands_of(chain, 1, 130)  # Two groups of lanes, one a tail.
  y = tpu_launch.run(
    chain,
    *(jnp.asarray(x, jnp.float32) for x in operands),
    kind='v6e',
    interpret=True,
  )
  assert_computes(y, chain, operands)


def test_many_tiles_and_negative_padding():
  layer = next(s for s in shapes.LAYERS if s.name == 't-L13')
  chain = make_plan(layer.options(), 70).backward
  cut = tpu_tiling.choose(chain, 1, 3, 4, 'v5e')
  small = {
    'h': tpu_tiling.tile_axis(
      [t[0][0] for t in chain.expand], chain.contract[0][0], 12, 1
    ),
    'w': tpu_tiling.tile_axis(
      [t[0][1] for t in chain.expand], chain.contract[0][1], 24, 8
    ),
  }
  cut = dataclasses.replace(cut, **small)
  assert (cut.h.tiles, cut.w.tiles) == (6, 3)
  operands = operands_of(chain, 1, 3)
  y = tpu_launch.launch(
    chain, cut, True, None, *(jnp.asarray(x, jnp.float32) for x in operands)
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
  y = tpu_launch.run(
    chain,
    *(jnp.asarray(x, jnp.float32) for x in operands),
    kind='v5e',
    interpret=params,
  )
  assert_computes(y, chain, operands)
  from jax._src.pallas.mosaic.interpret import interpret_pallas_call

  assert not interpret_pallas_call.races.races_found


# What the entry point does with it.


AUTO = jax.sharding.AxisType.Auto
F = np.ones(12) / 12


def tpu_mesh(kind='TPU v5 lite', **axes):
  device = jax.sharding.AbstractDevice(kind, 1, 'tpu')
  return jax.sharding.AbstractMesh(
    tuple(axes.values()),
    tuple(axes),
    axis_types=(AUTO,) * len(axes),
    abstract_device=device,
  )


def op(x, **options):
  return filtered_lrelu(x, F, F, up=2, down=2, padding=9, **options)


def gradient(**options):
  return jax.grad(lambda x: jnp.sum(op(x, **options).astype(jnp.float32)))


def tpu_text(f, mesh=None, spec=None, shape=(8, 16, 16, 8), dtype='bfloat16'):
  """Returns what f is lowered to for TPUs, chosen from a mesh of them."""
  mesh = mesh or tpu_mesh(one=1)
  sharding = jax.NamedSharding(mesh, spec or jax.P())
  x = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
  with jax.sharding.use_abstract_mesh(mesh):
    lowered = jax.jit(f).trace(x).lower(lowering_platforms=('tpu',))
  return lowered.as_text()


def test_it_is_the_default_on_a_tpu(monkeypatch):
  said = []
  monkeypatch.setattr(dispatch, '_say_once', said.append)
  assert tpu_text(gradient()).count('tpu_custom_call') == 1
  assert 'tpu_custom_call' not in tpu_text(gradient(), dtype='float16')
  assert 'tpu_custom_call' not in tpu_text(op, tpu_mesh('TPU v2', one=1))
  assert said[0].endswith('on tpu: pallas_tpu')
  assert said[2].endswith(
    '(pallas_tpu: operands must be bfloat16 or float32, got float16)'
  )
  assert said[-1].endswith(
    '(pallas_tpu: it has no tiles for the device kind TPU v2)'
  )


def test_wherever_a_user_may_call_it():
  data4, both = tpu_mesh(data=4), tpu_mesh(data=4, model=2)
  over = jax.P('data')

  def mapped(f, **options):
    return lambda x: jax.shard_map(f, in_specs=over, out_specs=over, **options)(
      x
    )

  for f in (op, gradient(), op, gradient(implementation='pallas_tpu')):
    for mesh, spec, shape, call in (
      (data4, over, (8, 16, 16, 8), f),
      (data4, jax.P(), (6, 16, 16, 8), f),  # Not even.
      (both, jax.P('data', None, None, 'model'), (8, 16, 16, 8), f),
      (both, over, (8, 16, 16, 8), mapped(f)),
      (
        both,
        over,
        (8, 16, 16, 8),
        mapped(f, axis_names={'data'}, check_vma=False),
      ),
      (data4, over, (4, 2, 16, 16, 8), jax.vmap(f)),
    ):
      assert 'tpu_custom_call' in tpu_text(call, mesh, spec, shape)
  with jax.enable_x64(True):
    assert 'tpu_custom_call' in tpu_text(gradient())


def test_a_mesh_that_it_cannot_use(monkeypatch):
  said = []
  monkeypatch.setattr(dispatch, '_say_once', said.append)
  mesh = tpu_mesh(batch=4)
  assert 'tpu_custom_call' not in tpu_text(op, mesh, jax.P('batch'))
  assert "the mesh must have an axis 'data'" in said[0]
  with pytest.raises(NotImplementedError, match="got axes 'batch'"):
    tpu_text(gradient(implementation='pallas_tpu'), mesh, jax.P('batch'))


def test_on_explicit_axes_of_any_name():
  mesh = tpu_mesh(batch=4, model=2)
  explicit = jax.sharding.AxisType.Explicit
  mesh = mesh.update(axis_types=(explicit, explicit))
  for spec in (jax.P('batch'), jax.P('batch', None, None, 'model')):
    for f in (op, gradient(), gradient(implementation='pallas_tpu')):
      text = tpu_text(f, mesh, spec)
      assert 'tpu_custom_call' in text
      assert 'all_gather' not in text


def test_an_image_that_is_mostly_cropped():
  options = {'up': 2, 'down': 2, 'padding': ((-120, 9), (9, 9))}
  options |= {'gain': 1.0, 'slope': 0.2, 'clamp': None, 'fu': F, 'fd': F}
  chain = make_plan(options, 100).backward
  operands = operands_of(chain, 1, 3)
  arrays = [jnp.asarray(x, jnp.float32) for x in operands]
  y = tpu_launch.run(chain, *arrays, kind='v5e', interpret=True)
  assert_computes(y, chain, operands)


def test_what_it_cannot_serve():
  with pytest.raises(NotImplementedError, match='got float16'):
    tpu_text(
      functools.partial(op, implementation='pallas_tpu'), dtype='float16'
    )
  with pytest.raises(NotImplementedError, match='gain must be positive'):
    tpu_text(functools.partial(op, implementation='pallas_tpu', gain=-1.0))
  x = jax.ShapeDtypeStruct((1, 16, 16, 8), jnp.float32)
  huge = Pass((1.0,) * 3000, 1, 1, 0, 3100, 101)
  chain = plan_lib.Chain(
    (((huge, huge),),), Activation(1.0, 0.2, None), (((identity(101),) * 2),)
  )
  reason = tpu_launch.unsupported(chain, x, kind='v4')
  assert reason == 'none of its tiles fits the vector memory'


def identity(size):
  return Pass((1.0,), 1, 1, 0, size, size)


def test_the_cost_that_xla_is_told():
  layer = SMALL_LAYERS['t-L0']
  chain = make_plan(layer.options(), 38).forward
  cost = tpu_launch._cost(chain, 2, 3, jnp.dtype(jnp.bfloat16))
  middle = 2 * (2 * 36 + 10)
  assert cost.bytes_accessed == (38**2 + 36**2) * 2 * 3 * 2
  # Two multiply-adds... of 6 up taps a sample, and 12 down taps.
  up = 2 * 6 * (38 + middle / 2) * middle / 2
  down = 2 * 12 * 36 * (middle / 2 + 36)
  assert math.isclose(cost.flops, 6 * (up + down), rel_tol=1e-6)
