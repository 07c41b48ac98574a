"""Keyframes, curves through them, walks, mixing and files of styles."""

import json

import numpy as np
import pytest
from conftest import load_golden

from sg3jax.editing import ws
from sg3jax.render import styles

_GOLDEN = load_golden('video_ws.npz')
_CASES = json.loads(str(_GOLDEN['cases']))
_SEED_TABLE = json.loads(str(_GOLDEN['seed_table']))


@pytest.mark.parametrize('row', _SEED_TABLE)
def test_seeds_are_assigned_as_by_the_official_tool(row):
  def assign():
    return styles.keyframe_seeds(
      row['seeds'],
      (row['grid_w'], row['grid_h']),
      num_keyframes=row['num_keyframes'],
      shuffle_seed=row['shuffle_seed'],
    )

  if 'error' in row:
    with pytest.raises(ValueError, match='multiple of'):
      assign()
  else:
    np.testing.assert_array_equal(assign(), row['keyframe_seeds'])


@pytest.mark.parametrize('name', _CASES)
def test_curves_are_those_of_the_official_tool(name):
  case = _CASES[name]
  keyframes = _GOLDEN[f'{name}/keyframe_ws']  # [rows, columns, k, l, d]
  rows, columns, k, *shape = keyframes.shape
  path = styles.spline_path(
    np.moveaxis(keyframes.reshape(rows * columns, k, *shape), 1, 0),
    case['kind'],
    wraps=case['wraps'],
  )
  times = path.frame_times(case['w_frames'])
  expected = _GOLDEN[f'{name}/interpolated_ws']
  assert len(times) == len(expected)
  found = path.evaluate(times).reshape(expected.shape)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def _keyframes(k=4, cells=2, seed=0):
  rng = np.random.RandomState(seed)
  return rng.standard_normal((k, cells, 3, 2)).astype(np.float32)


def test_no_seeds():
  with pytest.raises(ValueError, match='at least one number'):
    styles.keyframe_seeds([])


@pytest.mark.parametrize('loop', [True, False])
@pytest.mark.parametrize('count', [1, 2, 3, 7])
@pytest.mark.parametrize('kind', styles.KINDS)
def test_curves_pass_through_their_keyframes(kind, count, loop):
  keyframes = _keyframes(count)
  path = styles.spline_path(keyframes, kind, loop=loop)
  times = path.frame_times(5)
  assert len(times) == (5 * count if loop else 5 * (count - 1) + 1)
  # Splines of float64 to float32: one rounding.
  np.testing.assert_allclose(
    path.evaluate(times)[::5], keyframes, rtol=1e-6, atol=1e-6
  )


def test_a_loop_is_smooth_where_it_begins_again():
  path = styles.spline_path(_keyframes())
  step = 1e-3
  start = path.evaluate(np.array([0.0, step]))
  end = path.evaluate(np.array([4.0 - step, 4.0]))
  np.testing.assert_allclose(start[0], end[1], atol=1e-6)
  # Velocities: the wraps leave a small difference, float32 steps 1e-3.
  before, after = np.diff(end, axis=0), np.diff(start, axis=0)
  assert np.max(np.abs(before - after)) < 0.05 * np.max(np.abs(after))


def test_circles_keep_their_distance_and_walks_pass_their_points():
  centers = _keyframes(1)[0]
  offsets = _keyframes(5, seed=1)
  circle = styles.circle_path(centers, offsets, 0.2)
  points = circle.evaluate(circle.frame_times(4))
  assert len(points) == 20
  expected = centers + 0.2 * offsets[0]
  np.testing.assert_allclose(points[0], expected, rtol=1e-6)
  # A quarter of the circle later, it is the second axis.
  expected = centers + 0.2 * offsets[1]
  np.testing.assert_allclose(points[5], expected, rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(points.mean(0), centers, atol=1e-6)
  walk = styles.walk_path(centers, offsets, 0.2)
  found = walk.evaluate(np.arange(5.0))
  np.testing.assert_allclose(found, centers + 0.2 * offsets, atol=1e-6)
  with pytest.raises(ValueError, match='at least 2 keyframes, got 1'):
    styles.circle_path(centers, offsets[:1], 0.2)


def test_anchors_only_replace_the_style_of_the_input():
  ws = _keyframes()
  mean = np.full((3, 2), 7, np.float32)
  found = styles.anchor(ws, mean)
  assert np.all(found[..., 0, :] == 7)
  np.testing.assert_array_equal(found[..., 1:, :], ws[..., 1:, :])


def test_mixing_takes_the_given_layers_from_the_columns():
  rows, columns = _keyframes(2)[:, 0], _keyframes(3, seed=1)[:, 0]
  mixed = styles.mix(rows, columns, [1])
  assert mixed.shape == (2, 3, 3, 2)
  for r in range(2):
    for c in range(3):
      np.testing.assert_array_equal(mixed[r, c, 1], columns[c, 1])
      np.testing.assert_array_equal(mixed[r, c, ::2], rows[r, ::2])
  for layers in ([3], []):
    with pytest.raises(ValueError, match='layers must be among the styles 0'):
      styles.mix(rows, columns, layers)


def test_styles_are_kept_in_files(tmp_path):
  path = tmp_path / 'new' / 'w.npz'
  keyframes = _keyframes()[:, 0]
  styles.save(path, keyframes)
  np.testing.assert_array_equal(ws.read(path, 3, 2).w, keyframes)
