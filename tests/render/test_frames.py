"""Frames against the recordings of the official tool, and their properties."""

import json

import golden_models
import jax
import numpy as np
import pytest
from conftest import load_golden

from sg3jax.eval.plots import grids
from sg3jax.nets import spec as spec_lib
from sg3jax.nets import wide_spec
from sg3jax.render import camera, frames, styles

_GOLDEN = load_golden('video_ws.npz')
_CASES = json.loads(str(_GOLDEN['cases']))


@pytest.fixture(scope='module')
def model():
  return golden_models.load('t')


@pytest.fixture(scope='module')
def tiny():
  return golden_models.tiny()


def _path(model, case):
  seeds = styles.keyframe_seeds(
    case['seeds'],
    (case['grid_w'], case['grid_h']),
    num_keyframes=case['num_keyframes'],
    shuffle_seed=case['shuffle_seed'],
  )
  count = seeds.shape[-1]
  keyframes = styles.of_keyframes(
    model, seeds, [None] * count, [case['psi']] * count
  )
  path = styles.spline_path(keyframes, case['kind'], wraps=case['wraps'])
  return seeds, keyframes, path


@pytest.mark.parametrize(
  'name',
  # One in the quick tests: a grid of two with truncation.
  [
    name if name == 'b_2x1' else pytest.param(name, marks=pytest.mark.slow)
    for name in _CASES
  ],
)
def test_frames_are_those_of_the_official_tool(model, name):
  case = _CASES[name]
  seeds, keyframes, path = _path(model, case)
  np.testing.assert_array_equal(seeds, _GOLDEN[f'{name}/keyframe_seeds'])
  expected = _GOLDEN[f'{name}/keyframe_ws']
  rows, columns, k, *shape = expected.shape
  expected = np.moveaxis(expected.reshape(rows * columns, k, *shape), 1, 0)
  np.testing.assert_allclose(keyframes, expected, rtol=0, atol=1e-5)
  synthesize, _ = frames.make_synthesis(model)
  found = list(
    frames.render(
      synthesize,
      path,
      path.frame_times(case['w_frames']),
      grid=(case['grid_w'], case['grid_h']),
      batch_size=8,
    )
  )
  recorded = _GOLDEN[f'{name}/frames'].astype(int)
  assert np.stack(found).shape == recorded.shape
  assert np.abs(np.stack(found) - recorded).max() <= 1
  # A grid that is transposed, or one frame more or less, is far from it.
  assert np.abs(np.roll(found, 1, axis=0).astype(int) - recorded).max() >= 4


def _synthesize_numbers(ws, transform=None, noise_seed=0):
  """Images of one grey level each, that of the style."""
  del transform, noise_seed
  return np.broadcast_to(ws[:, :1, :1, None], (len(ws), 2, 2, 1))


@pytest.mark.parametrize('batch_size', [1, 3, 4, 100])
def test_frames_do_not_depend_on_the_batch(batch_size):
  keyframes = np.linspace(-0.9, 0.9, 6, dtype=np.float32).reshape(3, 2, 1, 1)
  path = styles.spline_path(keyframes, 'linear', loop=False)
  calls = []

  def synthesize(ws, transform):
    calls.append(len(ws))
    return _synthesize_numbers(ws, transform)

  found = list(
    frames.render(
      synthesize, path, np.arange(3.0), grid=(2, 1), batch_size=batch_size
    )
  )
  assert len(set(calls)) == 1
  levels = np.stack(found)[:, 0, ::2, 0]
  np.testing.assert_array_equal(levels, grids.to_uint8(keyframes[..., 0, 0]))


def test_the_next_batch_is_started_before_the_last_one_is_read():
  """So that the device computes while frames are encoded."""
  path = styles.spline_path(np.zeros((4, 1, 1, 1), np.float32), 'linear')
  calls = []

  def synthesize(ws, transform):
    calls.append(len(ws))
    return _synthesize_numbers(ws, transform)

  found = frames.render(synthesize, path, np.arange(4.0), batch_size=1)
  next(found)
  assert len(calls) == 2
  next(found)
  assert len(calls) == 3


def test_stills_are_padded_and_have_the_noise_of_their_batch():
  seen = []

  def synthesize(ws, transform, noise_seed):
    seen.append((len(ws), noise_seed))
    return _synthesize_numbers(ws)

  ws = np.arange(5, dtype=np.float32).reshape(5, 1, 1)
  found = frames.render_stills(
    synthesize,
    lambda first, stop: ws[first:stop],
    5,
    batch_size=2,
    noise_seeds=[10, 11, 12, 13, 14],
  )
  assert [float(image[0, 0, 0]) for image in found] == [0, 1, 2, 3, 4]
  assert seen == [(2, 10), (2, 12), (2, 14)]


def test_two_models_are_shown_side_by_side():
  left = iter(np.zeros((2, 4, 6, 3), np.uint8))
  right = iter(np.ones((2, 4, 2, 3), np.uint8))
  found = list(frames.side_by_side([left, right]))
  assert [frame.shape for frame in found] == [(4, 8, 3)] * 2
  assert not found[1][:, :6].any()
  assert found[1][:, 6:].all()


class TestWide:
  """Images that show more than the canvas."""

  def test_a_wide_image_contains_the_image(self, tiny):
    spec = tiny.generator.spec
    ws = styles.of_seeds(tiny, [3])
    step = 2 / spec.sampling_rates[0]
    synthesize, shape = frames.make_synthesis(tiny, extent=1 + step)
    size = round(spec.resolution * (1 + step))
    assert shape == (size, size, 3)
    wide = np.asarray(synthesize(ws))[0]
    assert wide.shape == shape
    border = (size - spec.resolution) // 2
    inner = wide[border:-border, border:-border]
    image = np.asarray(tiny.synthesis(ws))[0]
    # Margins are finite, so what lies around the canvas has a small effect.
    error = np.sqrt(np.mean((inner - image) ** 2))
    assert error < 0.05 * np.std(image)
    # Shifted by a pixel, it is another image.
    other = np.roll(inner, 1, axis=0)
    assert np.sqrt(np.mean((other - image) ** 2)) > 4 * error

  def test_what_it_shows_is_what_a_translation_shows(self, tiny):
    """Left of the canvas is the image moved to the right."""
    spec = tiny.generator.spec
    ws = styles.of_seeds(tiny, [3])
    synthesize, _ = frames.make_synthesis(tiny, extent=2.0)
    wide = np.asarray(synthesize(ws))[0]
    half = spec.resolution // 2
    pose = camera.Pose(x=0.5)
    moved = np.asarray(tiny.synthesis(ws, pose.inverse()))[0]
    inner = wide[half:-half, : spec.resolution]
    error = np.sqrt(np.mean((inner - moved) ** 2))
    assert error < 0.1 * np.std(moved)

  @pytest.mark.parametrize('extent', [0.5, 1.01, np.nan])
  def test_impossible_extents(self, tiny, extent):
    with pytest.raises(ValueError, match='extent must be 1 plus a multiple of'):
      frames.make_synthesis(tiny, extent=extent)

  @pytest.mark.slow
  def test_generators_of_fixed_size(self):
    with pytest.raises(ValueError, match='extent must be 1 for a generator of'):
      frames.make_synthesis(golden_models.load('2'), extent=2.0)
    with pytest.raises(ValueError, match='1 for a generator with noise inputs'):
      wide_spec.WideSpec(resolution=32, noise=True, extent=2.0)

  @pytest.mark.parametrize('make', [spec_lib.stylegan3_t, spec_lib.stylegan3_r])
  def test_layers_of_the_published_designs_keep_their_centre(self, make):
    spec = make(256)
    fields = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    wide = wide_spec.WideSpec(**fields, extent=1.5)
    for plain, layer in zip(spec.layers, wide.layers, strict=True):
      added = round(0.5 * plain.out_sampling_rate)
      assert layer.out_size == plain.out_size + added
      assert layer.padding == plain.padding
      for name in ('up_taps', 'down_taps', 'in_channels', 'out_channels'):
        assert getattr(layer, name) == getattr(plain, name)


@pytest.mark.slow
def test_transforms_are_refused_where_nothing_moves():
  with pytest.raises(ValueError, match='learned constant'):
    frames.make_synthesis(golden_models.load('2'), transforms=True)


def test_anchored_images_have_one_transform(tiny):
  """With the mean style's, the input is the same for all images."""
  ws = styles.of_seeds(tiny, [0, 1])
  mean = styles.mean_style(tiny)
  anchored = styles.anchor(ws, mean)
  w_avg = tiny.variables['moving_averages']['w_avg']
  np.testing.assert_allclose(mean, np.tile(w_avg, (len(mean), 1)), atol=1e-6)
  features = jax.jit(
    lambda ws: tiny.generator.apply(
      tiny.variables, ws, method='activations', names=('input',)
    )['input']
  )
  free, still = features(ws), features(anchored)
  assert np.abs(still[0] - still[1]).max() == 0
  assert np.abs(free[0] - free[1]).max() > 0.1
