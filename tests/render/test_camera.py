"""Poses, camera paths and their files."""

import json

import numpy as np
import pytest

from sg3jax.eval import resampling
from sg3jax.render import camera


def test_a_pose_is_the_transform_of_generate():
  expected = resampling.inverse_transform((0.25, -0.5), 30.0)
  found = camera.Pose(0.25, -0.5, 30.0).inverse()
  np.testing.assert_allclose(found, expected, atol=1e-7)
  np.testing.assert_array_equal(camera.Pose().inverse(), np.eye(3))


def test_zoom_comes_first():
  """A point of the plain image goes to zoom, then rotation, then shift."""
  inverse = camera.Pose(0.25, -0.5, 90.0, 2.0).inverse()
  point = np.array([0.1, 0.2])
  # y points down: counterclockwise by a quarter maps (x, y) to (y, -x).
  moved = 2 * np.array([point[1], -point[0]]) + [0.25, -0.5]
  np.testing.assert_allclose(inverse @ [*moved, 1], [*point, 1], atol=1e-6)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'zoom': 0.0}, 'zoom must be 0.01 to 100, got 0'),
    ({'zoom': float('nan')}, 'zoom must be'),
    ({'x': float('inf')}, 'translate must be within'),
    ({'rotate': float('nan')}, 'rotate must be a finite number'),
  ],
)
def test_impossible_poses(fields, message):
  with pytest.raises(ValueError, match=message):
    camera.Pose(**fields)


def test_a_camera_passes_its_keyframes_and_never_overshoots():
  poses = [camera.Pose(), camera.Pose(x=0.5), camera.Pose(x=0.5), camera.Pose()]
  path = camera.Camera([0, 1, 2, 3], poses)
  times = np.linspace(0, 4, 81)
  shifts = -path.inverse_transforms(times)[:, 0, 2]
  np.testing.assert_allclose(shifts[[0, 20, 40, 60]], [0, 0.5, 0.5, 0])
  assert shifts.min() >= 0
  assert shifts.max() <= 0.5
  # It holds between equal keyframes, and rests after the last one.
  np.testing.assert_array_equal(shifts[20:41], 0.5)
  np.testing.assert_array_equal(shifts[60:], 0)


def test_zooming_has_a_constant_speed():
  path = camera.Camera([0, 2], [camera.Pose(), camera.Pose(zoom=4.0)])
  scales = path.inverse_transforms(np.array([0.0, 1.0, 2.0]))[:, 0, 0]
  np.testing.assert_allclose(scales, [1, 1 / 2, 1 / 4], rtol=1e-6)


def test_text_and_json_say_the_same(tmp_path):
  text, table = tmp_path / 'path.txt', tmp_path / 'path.json'
  text.write_text(
    '# time x y rotate zoom\n0\n\n1.5  0.1 -0.2  # Right and up.\n'
    '3, 0, 0, 90, 2\n'
  )
  table.write_text(
    json.dumps(
      [
        {'time': 0},
        {'time': 1.5, 'translate': [0.1, -0.2]},
        {'time': 3, 'rotate': 90, 'zoom': 2},
      ]
    )
  )
  times = np.linspace(0, 3, 7)
  found, expected = (
    camera.read_camera(path).inverse_transforms(times) for path in (text, table)
  )
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_allclose(found[3, :2, 2], [-0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('a.txt', '', 'at least one keyframe'),
    (
      'a.txt',
      '0\n1 left\n',
      r"line 2: a keyframe must be numbers, .* '1 left'",
    ),
    ('a.txt', '0 0 0 0 1 2', 'line 1: a keyframe must have at most 5 numbers'),
    ('a.txt', '0 0 0 0 0', 'line 1: zoom must be'),
    ('a.txt', '-1', 'line 1: time must be at least 0'),
    ('a.txt', 'nan', 'line 1: time must be'),
    ('a.txt', '1\n1', 'ascending, got 1 before 1'),
    ('a.json', '{', 'must be a JSON file'),
    ('a.json', '[' * 100_000, 'must be a JSON file'),
    ('a.json', '{}', 'must contain a list'),
    ('a.json', '[]', 'at least one keyframe'),
    ('a.json', '[3]', 'keyframe 0: a keyframe must be an object'),
    ('a.json', '[{"time": 0, "pan": 1}]', 'must be an object with time'),
    ('a.json', '[{"translate": [0, 0]}]', 'must be numbers'),
    ('a.json', '[{"time": 0, "translate": 1}]', 'translate must be two'),
    ('a.json', '[{"time": true}]', 'must be numbers'),
    ('a.json', '[{"time": 0, "zoom": "2"}]', 'must be numbers'),
  ],
)
def test_malformed_files_are_refused(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(ValueError, match=message) as error:
    camera.read_camera(path)
  assert str(path) in str(error.value)


def test_files_that_are_no_text(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(b'\xff\xfe\x00')
  with pytest.raises(ValueError, match='must be a text file'):
    camera.read_camera(path)
  with pytest.raises(FileNotFoundError):
    camera.read_camera(tmp_path / 'nowhere')
