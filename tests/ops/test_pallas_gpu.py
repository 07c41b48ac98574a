"""The Mosaic GPU kernel, run by its interpreter on the CPU.

What the interpreter cannot show, `tests/compile/test_h100.py` compiles for;
speed and the tensor cores need the hardware.
"""

import dataclasses

import jax
import jax.numpy as jnp
import layer_shapes as shapes
import numpy as np
import pytest

from sg3jax.ops import filters
from sg3jax.ops.filtered_lrelu import banded
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.gpu import geometry as gpu_geometry
from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch
from sg3jax.ops.filtered_lrelu.gpu import tiling as gpu_tiling
from sg3jax.ops.filtered_lrelu.gpu.geometry import RESIDENT
from sg3jax.ops.filtered_lrelu.gpu.mosaic import plgpu
from sg3jax.ops.filtered_lrelu.gpu.tiling import Tile
from sg3jax.ops.filtered_lrelu.scaling import NONE

interpreted = pytest.mark.skipif(
  jax.__version_info__ < (0, 11),
  reason=f'JAX {jax.__version__} has no Mosaic GPU interpreter, 0.11 has.',
)

# A signal to noise ratio in dB. Rounding in- and outputs alone leaves 71 dB in
# float16 and 53 dB in bfloat16; float16 arithmetic in between costs 3 dB.
# Derivatives see masks that differ where rounding moves U x across zero.
SNR = {'float16': 60.0, 'bfloat16': 48.0}
SNR_DERIVATIVE = 40.0
# Without rounding and kinks: float32 against float64.
SNR_EXACT = 120.0

LINEAR = Activation(gain=1.3, slope=1.0, clamp=None)
LAYERS = {layer.name: layer for layer in shapes.LAYERS}
DIRECTIONS = ('forward', 'backward', 'tangent')


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def lowpass(factor, taps=6):
  if factor == 1:
    return None
  return filters.kaiser_lowpass(
    taps * factor, cutoff=0.4, half_width=0.4, sampling_rate=2.0 * factor
  )


def make_plan(shape, fu, fd, up, down, padding, activation):
  return plan_lib.make_plan(
    shape,
    fu,
    fd,
    up=up,
    down=down,
    padding=padding,
    activation=activation,
    tolerance=4e-7,
  )


def layer_plan(name, size, clamp=256.0):
  layer = LAYERS[name]
  return make_plan(
    (size, size),
    layer.up_filter,
    layer.down_filter,
    layer.up,
    layer.down,
    (layer.padding, layer.padding),
    Activation(np.sqrt(2).item(), 0.2, clamp),
  )


def operands_of(chain, dtype, channels=8, images=1, scale=1.0):
  """Returns random operands: the last is scaled."""
  rng = np.random.RandomState(0)
  arrays = [
    rng.randn(images, ph.in_size, pw.in_size, channels)
    for ((ph, pw), *_) in chain.expand
  ]
  arrays[-1] = arrays[-1] * scale
  return [jnp.asarray(x, dtype) for x in arrays]


def snr(actual, chain, operands):
  """Returns signal over noise, the noise of the operands not counted."""
  wide = [x.astype(jnp.float64) for x in operands]
  spelling = banded.spell('einsum', chain, jnp.dtype('float64'))
  expected = np.asarray(banded.evaluate(spelling, chain, *wide))
  assert actual.shape == expected.shape
  assert actual.dtype == operands[0].dtype
  error = np.asarray(actual, np.float64) - expected
  return 10 * np.log10(np.sum(expected**2) / np.sum(error**2))


def launch(chain, tile, *operands, **options):
  """Runs the kernel with a tile of the test's choice."""
  params = plgpu.InterpretGPUParams(**options.pop('params', {}))
  return gpu_launch.launch(
    gpu_geometry.simplify(chain), tile, *operands, interpret=params, **options
  )


def run(chain, *operands):
  return gpu_launch.run(chain, *operands, interpret=True)


@interpreted
class TestGeometry:
  """In float32 and without a kink: every index must be right."""

  def check(self, chain, reads=1, channels=8):
    operands = operands_of(chain, 'float32', channels)
    # Few blocks, the interpreter is slow, but mostly more than one.
    h, w = (p.out_size for p in chain.contract[0])
    tile = Tile(
      8 if w < 16 else 32, 8 if h < 16 else 24, (reads,) * len(operands)
    )
    y = launch(chain, tile, *operands, inner=jnp.float32)
    assert snr(y, chain, operands) > SNR_EXACT

  @pytest.mark.parametrize('direction', DIRECTIONS[:2])
  @pytest.mark.parametrize('down', [1, 2, 4])
  @pytest.mark.parametrize('up', [1, 2, 4])
  def test_rates(self, up, down, direction):
    fu, fd = lowpass(up), lowpass(down, 4)
    if up == down == 1:
      fu, fd = lowpass(2, 3), lowpass(2, 2)[:3]  # Any filters.
    # Two strips by two, the last ones cut; the borders all differ.
    taps = [1 if f is None else len(f) for f in (fu, fd)]
    shape, padding = [], []
    for size, low in ((11, sum(taps) // 2 + 1), (13, sum(taps) // 2 - 2)):
      samples = -(-size * down // up) - 1
      total = (size - 1) * down + sum(taps) - 1 - samples * up
      shape.append(samples)
      padding.append((low, total - low))
    plan = make_plan(shape, fu, fd, up, down, tuple(padding), LINEAR)
    assert [p.out_size for p in plan.contract[0]] == [11, 13]
    self.check(getattr(plan, direction))

  @pytest.mark.parametrize('reads', [RESIDENT, 1, 2])
  def test_ways_to_read_rows(self, reads):
    plan = layer_plan('t-L3', 14)
    linear = dataclasses.replace(plan, activation=LINEAR)
    self.check(linear.backward, reads=reads)

  @pytest.mark.parametrize('padding', [((-3, -2), (-7, 2)), ((-7, 9), (5, 0))])
  def test_crops(self, padding):
    f = lowpass(2)
    plan = make_plan((17, 18), f, f, 2, 2, padding, LINEAR)
    self.check(plan.forward)
    self.check(plan.backward)

  @pytest.mark.parametrize('direction', DIRECTIONS[:2])
  def test_sums_of_terms(self, direction):
    rng = np.random.RandomState(1)
    fu, fd = (
      sum(np.outer(rng.randn(7), rng.randn(8)) for _ in range(rank))
      for rank in (2, 4)
    )
    plan = make_plan((10, 11), fu, fd, 2, 2, ((7, 8), (8, 6)), LINEAR)
    assert (len(plan.expand), len(plan.contract)) == (2, 4)
    self.check(getattr(plan, direction))

  @pytest.mark.parametrize(('taps_up', 'taps_down'), [(None, 12), (8, None)])
  def test_a_single_filter(self, taps_up, taps_down):
    fu, fd = (
      None if t is None else lowpass(2, t // 2) for t in (taps_up, taps_down)
    )
    plan = make_plan((10, 9), fu, fd, 2, 2, ((9, 8), (7, 8)), LINEAR)
    self.check(plan.forward)
    self.check(plan.backward)

  def test_a_single_row_and_a_negative_gain(self):
    f = lowpass(2)
    activation = Activation(-0.7, 1.0, None)
    plan = make_plan((11, 10), f, f, 2, 2, ((1, 0), (4, 5)), activation)
    assert plan.forward.contract[0][0].out_size == 1
    self.check(plan.forward)
    self.check(plan.backward)

  def test_channels_beyond_a_block(self):
    self.check(layer_plan('t-L0', 8, None).forward, channels=72)


@interpreted
class TestValues:
  """In 16 bits, with the kernel's own tile."""

  @pytest.mark.parametrize('direction', DIRECTIONS[:2])
  @pytest.mark.parametrize(
    ('name', 'size'),
    [('t-L0', 20), ('t-L3', 14), ('t-L13', 24), ('r-L0', 11), ('r-L3', 11)],
  )
  def test_real_layers(self, name, size, direction):
    chain = getattr(layer_plan(name, size), direction)
    operands = operands_of(chain, 'float16')
    least = SNR['float16'] if direction == 'forward' else SNR_DERIVATIVE
    assert snr(run(chain, *operands), chain, operands) > least

  @pytest.mark.parametrize('channels', [3, 64, 72])
  def test_channels_and_images(self, channels):
    chain = layer_plan('t-L0', 10).forward
    operands = operands_of(chain, 'float16', channels, images=2)
    assert snr(run(chain, *operands), chain, operands) > SNR['float16']

  @pytest.mark.parametrize('direction', DIRECTIONS)
  def test_a_clamp_that_bites(self, direction):
    chain = getattr(layer_plan('t-L0', 11, clamp=0.5), direction)
    unbounded = dataclasses.replace(
      chain, activation=dataclasses.replace(chain.activation, clamp=None)
    )
    operands = operands_of(chain, 'float16')
    y = run(chain, *operands)
    least = SNR['float16'] if direction == 'forward' else SNR_DERIVATIVE
    assert snr(y, chain, operands) > least
    assert snr(y, unbounded, operands) < 20

  @pytest.mark.parametrize('slope', [0.0, 1.0])
  def test_extreme_slopes(self, slope):
    plan = layer_plan('t-L0', 10)
    activation = dataclasses.replace(plan.activation, slope=slope)
    chain = dataclasses.replace(plan, activation=activation).backward
    operands = operands_of(chain, 'float16')
    assert snr(run(chain, *operands), chain, operands) > SNR_DERIVATIVE

  @pytest.mark.parametrize('direction', DIRECTIONS)
  def test_bfloat16(self, direction):
    chain = getattr(layer_plan('t-L0', 11), direction)
    operands = operands_of(chain, 'bfloat16')
    least = SNR['bfloat16'] if direction == 'forward' else SNR_DERIVATIVE
    assert snr(run(chain, *operands), chain, operands) > least

  @pytest.mark.parametrize('scale', [0.0, 1e-12, 1e12])
  def test_bfloat16_gradients_of_any_size(self, scale):
    chain = layer_plan('t-L0', 10).backward
    operands = operands_of(chain, 'bfloat16', images=2, scale=scale)
    y = run(chain, *operands)
    if scale:
      assert snr(y, chain, operands) > SNR_DERIVATIVE
    else:
      np.testing.assert_array_equal(np.asarray(y, np.float32), 0)


@interpreted
class TestRaces:
  """The race detector must find none, and must be able to find one."""

  def finds_one(self, reads):
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

    chain = layer_plan('t-L0', 11).backward
    operands = operands_of(chain, 'float16')
    # More rows than shared memory holds at a time.
    tile = Tile(16, 11, (reads, reads))
    try:
      y = launch(chain, tile, *operands, params={'detect_races': True})
      assert snr(y, chain, operands) > SNR_DERIVATIVE
    except Exception as error:  # From JAX 0.12 on.
      if 'RACE DETECTED' not in str(error):
        raise
      gpu_callbacks.reset_gpu_interpret_mode_state()
      return True
    return gpu_callbacks.get_races().races_found

  @pytest.mark.parametrize('reads', [RESIDENT, 1])
  def test_there_is_none(self, reads):
    assert not self.finds_one(reads)

  @pytest.mark.parametrize('reads', [RESIDENT, 1])
  def test_a_missing_fence_is_one(self, reads, monkeypatch):
    monkeypatch.setattr(plgpu, 'commit_smem', lambda: None)
    assert self.finds_one(reads)


@interpreted
class TestOddChannels:
  """Channels that no multiple of 8 holds, as 91, 181 and 362 of the designs.

  The operands are padded then, and so must be what is multiplied and added.
  """

  @pytest.mark.parametrize('has_bias', [False, True], ids=['', 'bias'])
  @pytest.mark.parametrize('has_factors', [False, True], ids=['', 'factors'])
  @pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
  @pytest.mark.parametrize('direction', DIRECTIONS)
  def test_values(self, direction, dtype, has_factors, has_bias):
    chain = getattr(layer_plan('t-L3', 14), direction)
    operands = operands_of(chain, dtype, channels=11, images=2)
    rng = np.random.RandomState(1)

    def factors():
      return jnp.asarray(rng.rand(2, 11) + 0.5, jnp.float32)

    scaling = NONE
    if has_bias:
      scaling = scaling._replace(bias=jnp.asarray(rng.randn(11), jnp.float32))
    if has_factors:
      of_operands = [factors(), factors()][: len(operands)]
      scaling = scaling._replace(
        operands=(*of_operands, None)[:2], result=factors()
      )
    y = gpu_launch.run(chain, *operands, scaling=scaling, interpret=True)
    assert y.shape[-1] == 11
    wide = [x.astype(jnp.float64) for x in operands]
    expected = banded.run(chain, *wide, scaling=scaling)
    error = np.asarray(y, np.float64) - expected
    ratio = np.sum(np.square(expected)) / np.sum(np.square(error))
    bound = SNR[dtype] if direction == 'forward' else SNR_DERIVATIVE
    assert 10 * np.log10(ratio) > bound


class TestUnsupported:
  def reason(
    self, plan=None, dtype='float16', direction='forward', **activation
  ):
    plan = plan or layer_plan('t-L0', 16)
    chain = getattr(plan, direction)
    chain = dataclasses.replace(
      chain, activation=dataclasses.replace(chain.activation, **activation)
    )
    operands = [
      jax.ShapeDtypeStruct((1, ph.in_size, pw.in_size, 8), dtype)
      for ((ph, pw), *_) in chain.expand
    ]
    return gpu_launch.unsupported(chain, *operands)

  @pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason='JAX is new.')
  def test_an_old_jax(self):
    assert 'needs JAX 0.11' in self.reason()

  @interpreted
  @pytest.mark.parametrize('direction', DIRECTIONS)
  @pytest.mark.parametrize('layer', shapes.LAYERS, ids=lambda s: s.name)
  def test_of_the_real_layers_only_the_pointwise(self, layer, direction):
    reason = self.reason(
      layer_plan(layer.name, layer.size), direction=direction
    )
    if layer.up_filter is None:
      assert 'without filters' in reason
    else:
      assert reason is None

  @interpreted
  def test_reasons(self):
    f, rng = lowpass(2), np.random.RandomState(0)
    shape, pad = (16, 16), ((90, 91), (92, 93))

    def plan(fu=f, fd=f, up=2, down=2):
      return make_plan(shape, fu, fd, up, down, pad, LINEAR)

    assert 'got float32' in self.reason(dtype='float32')
    assert 'slope' in self.reason(slope=-0.1)
    assert 'slope' in self.reason(slope=1.5)
    assert 'gain' in self.reason(gain=1e3)
    assert 'factors' in self.reason(plan(up=3))
    assert 'got 5' in self.reason(plan(fu=np.diag(rng.rand(5) + 1)))
    assert 'registers' in self.reason(plan(fu=rng.rand(99), fd=rng.rand(99)))

  @interpreted
  def test_a_middle_that_would_need_a_mask(self):
    chain = layer_plan('t-L0', 16).forward
    ((ph, pw),) = chain.contract
    outside = dataclasses.replace(ph, low=3)
    chain = dataclasses.replace(chain, contract=((outside, pw),))
    x = jax.ShapeDtypeStruct((1, 16, 16, 8), 'float16')
    assert 'middle' in gpu_launch.unsupported(chain, x)

  @interpreted
  def test_devices(self):
    chain = layer_plan('t-L0', 16).forward
    x = jax.ShapeDtypeStruct((1, 16, 16, 8), 'float16')
    for kind in ('cpu', 'NVIDIA H100 80GB HBM3', 'NVIDIA H200', 'NVIDIA GH200'):
      assert gpu_launch.unsupported(chain, x, kind=kind) is None
    for kind in ('NVIDIA A100-SXM4-80GB', 'NVIDIA B200', 'NVIDIA L4'):
      assert kind in gpu_launch.unsupported(chain, x, kind=kind)

  @interpreted
  def test_run_refuses_with_the_reason(self):
    chain = layer_plan('t-L0', 16).forward
    with pytest.raises(NotImplementedError, match='got float32'):
      run(chain, jnp.zeros((1, 16, 16, 8), jnp.float32))


class TestTiling:
  def tile(self, name, direction, size=None, images=4, channels=128):
    """Returns a layer's tile, its geometry, and the height of its result."""
    size = size or LAYERS[name].size
    chain = gpu_geometry.simplify(getattr(layer_plan(name, size), direction))
    h, w = (p.out_size for p in chain.contract[0])
    arrivals = (gpu_geometry.Arrival(),) * len(chain.expand)
    tile = gpu_tiling.choose(chain, (images, h, w, channels), arrivals)
    assert tile is not None
    geometry = gpu_geometry.make_geometry(
      chain, tile.width, tile.reads, arrivals
    )
    return tile, geometry, h

  @pytest.mark.parametrize('direction', DIRECTIONS)
  @pytest.mark.parametrize(
    'name', [layer.name for layer in shapes.LAYERS if layer.up > 1]
  )
  def test_real_layers_fit(self, name, direction):
    tile, geometry, h = self.tile(name, direction)
    assert geometry.blocks_each == 2
    # A strip's distance to the next is an integer number of samples everywhere.
    for stream in geometry.streams:
      assert tile.rows * geometry.down % stream.rate == 0
      assert tile.width * geometry.down % stream.rate == 0
    assert tile.rows <= h + geometry.row_unit

  def test_wide_strips_where_they_fit(self):
    assert self.tile('t-L12', 'forward')[0].width == 32

  def test_few_blocks_are_made_more(self):
    one, *_ = self.tile('t-L12', 'forward', images=1, channels=64)
    many, *_ = self.tile('t-L12', 'forward', images=32)
    assert one.rows < many.rows

  def test_terms_that_16_bits_cannot_see_are_dropped(self):
    plan = layer_plan('r-L9', 36)
    assert len(plan.contract) == 4
    chain = gpu_geometry.simplify(plan.backward)
    assert len(chain.expand[1]) == 3
    assert chain.contract == plan.backward.contract
