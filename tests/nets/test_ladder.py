"""The paper's ladder and ablations as values of one design."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import CONFIGS, run_file

from sg3jax.nets import factory, synthesis
from sg3jax.nets import spec as spec_lib
from sg3jax.nets.spec import SynthesisSpec
from sg3jax.ops import filters, modulated_conv
from sg3jax.ops.ideal_lowpass import ideal_filtered_lrelu, ideal_resample

ladder = run_file(CONFIGS / 'ladder.py')

_STEPS = 'ABCDEFGHTR'


def _model(arg: str) -> dict:
  return ladder.get_config(arg).model.to_dict() | {
    'img_channels': 3,
    'label_dim': 0,
  }


def _spec(arg: str):
  return factory.make_spec(_model(arg))


@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('A', 24_767_458),
    ('B', 25_021_410),
    ('C', 25_021_397),
    ('D', 24_812_995),
    ('E', 24_812_995),
    ('F', 24_812_995),
    ('G', 27_958_580),
    ('H', 27_960_632),
    ('T', 23_320_443),
    ('R', 15_779_565),
    ('T-rigid', 27_960_632),
    ('T-p4', 21_778_529),  # The paper: 21.8 million.
  ],
)
def test_parameters_at_256(name, count):
  generator = factory.make_generator(_model(name))
  variables = jax.eval_shape(
    generator.init, jax.random.key(0), jnp.zeros((1, 512))
  )
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == count


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'millions'),
  [
    ('T-half', 6.90),
    ('T-double', 86.31),
    ('R-half', 5.69),
    ('R-double', 50.76),
  ],
)
def test_capacity_at_256(name, millions):
  generator = factory.make_generator(_model(name))
  variables = jax.eval_shape(
    generator.init, jax.random.key(0), jnp.zeros((1, 512))
  )
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert round(count / 1e6, 2) == millions


def test_every_step_is_the_one_before_with_a_few_fields_changed():
  steps = ladder._steps(14)
  assert ''.join(steps) == _STEPS
  before = {}
  for name in _STEPS:
    now = dict(ladder.get_config(name).to_dict())
    if before:
      changed = _differences(before, now)
      extra = {'model.synthesis.channel_base', 'model.synthesis.channel_max'}
      wanted = set(steps[name]) | (extra if name == 'R' else set())
      # What StyleGAN2 does not have may be set with D already.
      assert changed
      assert changed <= wanted, name
    for field, value in steps[name].items():
      found = functools.reduce(lambda d, k: d[k], field.split('.'), now)
      assert found == value, (name, field)
    before = now


def _differences(a, b, prefix=''):
  found = set()
  for key in a:
    if isinstance(a[key], dict):
      found |= _differences(a[key], b[key], f'{prefix}{key}.')
    elif a[key] != b[key]:
      found.add(prefix + key)
  return found


def test_rigid_schedule_at_256():
  # Math.md 2.5: two layers a rate, sizes with margins, cropped at the end.
  e, g = _spec('E'), _spec('G')
  rates = [4, 8, 16, 32, 64, 128, 256]
  for spec in (e, g):
    np.testing.assert_array_equal(spec.sampling_rates[:-1], np.repeat(rates, 2))
    np.testing.assert_array_equal(
      spec.sizes[:-1],
      [24, 24, 28, 28, 36, 36, 52, 52, 84, 84, 148, 148, 276, 256],
    )
  assert list(e.channels[:-1:2]) == [512, 512, 512, 512, 256, 128, 64]
  assert list(g.channels[:-1:2]) == [512, 512, 512, 512, 437, 219, 64]
  lowered = (2 - 2**0.5) / 2 * np.repeat(rates, 2)
  np.testing.assert_allclose(g.cutoffs[:12], lowered[:12])
  np.testing.assert_allclose(g.cutoffs[12:], 128)
  np.testing.assert_allclose(g.stopbands[:12], g.sampling_rates[:12] / 2)
  np.testing.assert_allclose(e.cutoffs, e.sampling_rates / 2)
  # The input's band stays at 2, so layer 0 upsamples by another filter than it
  # downsamples by.
  first = g.layers[0]
  assert (first.in_cutoff, round(first.out_cutoff, 3)) == (2.0, 1.172)
  assert (first.up_taps, g.layers[2].up_taps, e.layers[2].up_taps) == (
    12,
    24,
    12,
  )


def test_recorded_filters_of_the_rigid_schedule():
  e = _spec('E').layers[2].up_filter()
  g = _spec('G').layers[0].down_filter()
  np.testing.assert_allclose(
    e[:6],
    [0.0056594, 0.01573456, -0.03361238, -0.06558016, 0.13409329, 0.44370529],
    atol=1e-8,
  )
  np.testing.assert_allclose(
    g[:6],
    [-0.00746333, -0.01856594, -0.00371881, 0.06859157, 0.18473559, 0.27642091],
    atol=1e-8,
  )


def test_d_convolves_as_stylegan2_does():
  # Where D's layers upsample, they do what StyleGAN2's do, borders and all.
  spec = SynthesisSpec(
    resolution=16,
    num_layers=6,
    sampling='critical',
    channel_base=32,
    margin=0,
    filter='binomial',
    conv_before_up=False,
    lrelu_upsampling=1,
  )
  for index in (2, 3):
    layer = spec.layers[index]
    module = synthesis.SynthesisLayer(layer)
    rng = np.random.RandomState(index)
    x = rng.randn(2, layer.in_size, layer.in_size, layer.in_channels)
    w = rng.randn(2, 8).astype(np.float32)
    x = jnp.asarray(x, jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x, w)
    found = jax.jit(module.apply)(variables, x, w)
    params = variables['params']
    expected = modulated_conv.modulated_conv(
      x,
      # Upsampling, StyleGAN2's kernels are turned about.
      params['weight'][:: 3 - 2 * layer.up_factor, :: 3 - 2 * layer.up_factor],
      w @ params['affine']['weight'] / 8**0.5 + params['affine']['bias'],
      padding=0 if layer.up_factor == 2 else 1,
      up=layer.up_factor,
      up_filter=filters.BINOMIAL,
    )
    expected = jnp.where(expected > 0, expected, 0.2 * expected) * 2**0.5
    np.testing.assert_allclose(found, expected, atol=2e-5)


def _tiny(**fields) -> SynthesisSpec:
  fields = {'num_layers': 4, 'channel_base': 64, 'channel_max': 6} | fields
  return SynthesisSpec(resolution=16, **fields)


def _draw(spec, transform=None):
  network = synthesis.Synthesis(spec)
  ws = jax.random.normal(jax.random.key(1), (2, spec.num_ws, 8))
  variables = jax.jit(network.init)(jax.random.key(0), ws)
  return jax.jit(network.apply)(variables, ws, transform)


@pytest.mark.slow
@pytest.mark.parametrize('radial', [False, True])
def test_p4_networks_turn_with_their_input(radial):
  spec = _tiny(p4=True, radial_filters=radial)
  turn = jnp.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
  images, turned = _draw(spec, jnp.eye(3)), _draw(spec, turn)
  errors = [
    float(jnp.max(jnp.abs(jnp.rot90(images, k, axes=(1, 2)) - turned)))
    for k in range(4)
  ]
  scale = float(jnp.max(jnp.abs(images)))
  assert min(errors[1], errors[3]) < 1e-5 * scale
  assert errors[0] > 1e-2 * scale
  # Without the symmetry they do not.
  plain, moved = _draw(_tiny(), jnp.eye(3)), _draw(_tiny(), turn)
  assert min(
    float(jnp.max(jnp.abs(jnp.rot90(plain, k, axes=(1, 2)) - moved)))
    for k in range(4)
  ) > 1e-2 * float(jnp.max(jnp.abs(plain)))


def test_noise_inputs():
  spec = _tiny(noise=True)
  network = synthesis.Synthesis(spec)
  ws = jax.random.normal(jax.random.key(1), (2, spec.num_ws, 8))
  variables = jax.jit(network.init)(jax.random.key(0), ws)
  apply = jax.jit(network.apply, static_argnames='noise_mode')

  def draw(mode, seed=0, strength=0.3):
    params = jax.tree.map_with_path(
      lambda path, x: x + strength if path[-1].key == 'noise_strength' else x,
      variables['params'],
    )
    return apply(
      variables | {'params': params},
      ws,
      noise_mode=mode,
      rngs={'noise': jax.random.key(seed)},
    )

  # Strengths are 0 at first; two programs round differently.
  np.testing.assert_allclose(
    draw('const', strength=0.0), draw('none', strength=0.0), atol=1e-6
  )
  np.testing.assert_array_equal(draw('const', 0), draw('const', 1))
  for other in (draw('const'), draw('random', 1)):
    assert np.max(np.abs(draw('random', 0) - other)) > 1e-2
  with pytest.raises(ValueError, match=r"const, random, none, got 'loud'"):
    draw('loud')


@pytest.mark.parametrize('up', [2, 4])
def test_ideal_filters_keep_what_is_below_the_cutoff_and_nothing_else(up):
  # A wave of 3 cycles in 32 samples, periodic, sampled at pixel centres.
  def wave(size, cycles):
    centres = (np.arange(size) + 0.5) / size
    x = np.cos(2 * np.pi * cycles * centres + 0.7)
    return jnp.asarray(x[None, :, None, None] * np.ones((1, 1, size, 1)))

  with jax.enable_x64(True):
    cutoff = 0.5 / up
    found = ideal_resample(wave(32, 3), up=up, cutoff=cutoff)
    np.testing.assert_allclose(found, wave(32 * up, 3), atol=1e-5)
    back = ideal_resample(found, down=up, cutoff=cutoff)
    np.testing.assert_allclose(back, wave(32, 3), atol=1e-5)
    gone = ideal_resample(wave(32 * up, 17), down=up, cutoff=cutoff)
    np.testing.assert_allclose(gone, 0, atol=1e-5)


def test_ideal_nonlinearity_refuses_what_has_no_centre():
  x, b = jnp.ones((1, 8, 8, 1)), jnp.zeros(1)
  options = {'up': 2, 'down': 2, 'up_cutoff': 0.25, 'down_cutoff': 0.25}
  with pytest.raises(ValueError, match='size must be at most 8'):
    ideal_filtered_lrelu(x, b, **options, size=7, gain=1.0, slope=0.2)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'sampling': 'rigid'}, 'sampling must be one of flexible, lowered'),
    ({'filter': 'box'}, 'filter must be one of kaiser, binomial'),
    ({'sampling': 'lowered'}, "num_layers must be 6 for .* 'lowered'"),
    ({'conv_before_up': False}, 'lrelu_upsampling must be 1 without'),
    (
      {'conv_before_up': False, 'lrelu_upsampling': 1, 'filter': 'ideal'},
      "conv_before_up must be true for the filter 'ideal'",
    ),
    ({'filter': 'binomial'}, "must be 1 for the filter 'binomial'"),
    (
      {'filter': 'lanczos', 'radial_filters': True},
      "filter must be 'kaiser' with radial_filters",
    ),
  ],
)
def test_impossible_designs(fields, message):
  with pytest.raises(ValueError, match=message):
    _tiny(**fields)


def test_rates_that_cannot_be_halved():
  with pytest.raises(ValueError, match=r'got 36: .* 32 or 40'):
    spec_lib.SynthesisSpec(resolution=36, num_layers=6, sampling='lowered')


@pytest.mark.parametrize('name', ['Q', 'A-noise', 'T-nonsense', 'R-p4', ''])
def test_unknown_names(name):
  with pytest.raises(ValueError, match=f'must be .*, got {name!r}'):
    ladder.get_config(name)


def test_the_study_of_filters_sees_ringing_and_wrapping():
  study = run_file(CONFIGS.parent / 'scripts' / 'study_lowpass.py')
  figures = {}
  for name in study._NAMES:
    layers = spec_lib.stylegan3_t(256, filter=name).layers
    figures[name] = study.measure(next(x for x in layers if x.up_factor == 4))
  finite = ('kaiser', 'lanczos', 'gaussian')
  assert all(figures[name]['far'] == 'none' for name in finite)
  assert all(figures[name]['wrapped'] == 'none' for name in finite)
  # Gibbs: 9 % of an edge, whatever the cutoff; sampled, about that.
  assert 8 < float(figures['ideal']['overshoot'].split()[0]) < 12
  assert float(figures['kaiser']['overshoot'].split()[0]) < 2
  assert figures['gaussian']['overshoot'] == '0.0 %'


def _wave(frequency, size=32):
  """Returns [1, size, size, 1]: a cosine along x of a constant column."""
  wave = np.cos(2 * np.pi * frequency * np.arange(size) / size + 0.3)
  return jnp.asarray(np.tile(wave, (size, 1))[None, :, :, None], jnp.float32)


@pytest.mark.parametrize(
  ('up_cutoff', 'down_cutoff', 'passes'),
  [(5, 5, True), (3, 5, False), (5, 3, False)],
)
def test_ideal_filters_pass_what_both_bands_hold(
  up_cutoff, down_cutoff, passes
):
  """A wave of 4 cycles, without the nonlinearity: all of it or nothing."""
  x, bias = _wave(4), jnp.array([0.5])
  options = {'up': 2, 'down': 1, 'size': 64, 'gain': 3.0, 'slope': 1.0}
  y = ideal_filtered_lrelu(
    x, bias, up_cutoff=up_cutoff / 64, down_cutoff=down_cutoff / 64, **options
  )
  # The centre is kept: new samples lie a quarter beside the old ones.
  t = (np.arange(64) + 0.5) / 2 - 0.5
  wave = np.cos(2 * np.pi * 4 * t / 32 + 0.3)
  expected = 3 * (0.5 + passes * np.tile(wave, (64, 1)))
  np.testing.assert_allclose(y[0, :, :, 0], expected, atol=1e-5)


def test_ideal_layers_clamp_and_bend_between_the_filters():
  x = _wave(0) * 0 - 1  # A constant passes both filters.
  options = {'up': 2, 'down': 2, 'size': 32, 'gain': 2**0.5, 'slope': 0.2}
  options |= {'up_cutoff': 0.1, 'down_cutoff': 0.1}
  y = ideal_filtered_lrelu(x, jnp.zeros(1), **options)
  np.testing.assert_allclose(y, -0.2 * 2**0.5, atol=1e-5)
  y = ideal_filtered_lrelu(-9 * x, jnp.zeros(1), clamp=4.0, **options)
  np.testing.assert_allclose(y, 4, atol=1e-5)
