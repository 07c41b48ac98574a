import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from sg3jax.eval.plots import clips, grids


def read(path):
  with Image.open(path) as image:
    return image.mode, np.asarray(image)


def noise(*shape, seed=0):
  return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def test_to_uint8_scales_clips_and_truncates():
  x = np.array([-1, -1.5, 1, 2, 0, 0.005, -0.005], np.float32)
  # -1 -> 0.5 -> 0; 1 -> 255.5 -> 255; 0.005 -> 128.6; -0.005 -> 127.4.
  expected = [0, 0, 255, 255, 128, 128, 127]
  np.testing.assert_array_equal(grids.to_uint8(x), expected)
  np.testing.assert_array_equal(
    grids.to_uint8(jnp.array([-1, 0, 1], jnp.bfloat16)), [0, 128, 255]
  )


def test_to_uint8_inverts_the_training_scale_exactly():
  u = np.arange(256, dtype=np.uint8)
  x = u.astype(np.float32) / np.float32(127.5) - 1
  np.testing.assert_array_equal(grids.to_uint8(x), u)
  assert grids.to_uint8(u) is u


def test_to_uint8_counts_values_that_are_not_numbers(caplog):
  x = np.array([np.nan, np.inf, -np.inf, np.nan], np.float32)
  np.testing.assert_array_equal(grids.to_uint8(x), [128, 255, 0, 128])
  assert '2 of 4 pixel values are NaN' in caplog.text


@pytest.mark.parametrize(
  ('shape', 'expected'),
  [
    ((64, 64), (32, 32)),
    ((256, 256), (30, 16)),
    ((512, 512), (15, 8)),
    ((1024, 1024), (7, 4)),
    ((2048, 2048), (7, 4)),
    ((128, 512), (15, 32)),
  ],
)
def test_grid_size(shape, expected):
  assert grids.grid_size(*shape) == expected


def test_grid_size_cap_goes_below_the_minimum():
  assert grids.grid_size(64, 64, cap=(8, 6)) == (8, 6)
  assert grids.grid_size(1024, 1024, cap=(3, 2)) == (3, 2)


def test_grid_indices_without_labels_are_a_seeded_choice():
  labels = np.zeros([100, 0], np.float32)
  picks = grids.grid_indices(labels, (7, 4), seed=0)
  assert picks.shape == (28,)
  assert len(set(picks.tolist())) == 28
  assert picks.min() >= 0
  assert picks.max() < 100
  np.testing.assert_array_equal(
    picks, grids.grid_indices(labels, (7, 4), seed=0)
  )
  assert (picks != grids.grid_indices(labels, (7, 4), seed=1)).any()


def test_grid_indices_show_all_of_a_small_set_before_repeating():
  picks = grids.grid_indices(np.zeros([10, 0]), (7, 4), seed=0)
  assert sorted(picks[:10]) == list(range(10))
  np.testing.assert_array_equal(picks[10:20], picks[:10])


@pytest.mark.parametrize('one_hot', [False, True])
def test_grid_indices_put_one_class_in_each_row(one_hot):
  classes = np.random.RandomState(0).randint(0, 3, 60)
  labels = np.eye(3, dtype=np.float32)[classes] if one_hot else classes
  picks = grids.grid_indices(labels, (4, 5), seed=0).reshape(5, 4)
  # Fewer classes than rows: in order, and then on with further images.
  np.testing.assert_array_equal(
    classes[picks], np.repeat([[0], [1], [2], [0], [1]], 4, axis=1)
  )
  assert len(set(picks.ravel().tolist())) == 20


def test_grid_indices_select_classes_where_rows_are_few():
  classes = np.repeat(np.arange(10), 5)
  rows = classes[grids.grid_indices(classes, (4, 3), seed=0)].reshape(3, 4)
  assert (rows == rows[:, :1]).all()
  assert (np.diff(rows[:, 0]) > 0).all()


def test_grid_indices_take_continuous_labels_for_none():
  labels = np.random.RandomState(0).randn(50, 2).astype(np.float32)
  picks = grids.grid_indices(labels, (7, 4), seed=0)
  assert len(set(picks.tolist())) == 28
  with pytest.raises(ValueError, match='at least one image'):
    grids.grid_indices(labels[:0], (7, 4), seed=0)


@pytest.mark.parametrize('channels', [1, 3])
def test_grid_places_images_row_by_row(tmp_path, channels):
  images = noise(6, 4, 5, channels)
  path = tmp_path / 'new' / 'reals.png'
  grids.save_grid(images, path, (3, 2))
  mode, grid = read(path)
  assert mode == {1: 'L', 3: 'RGB'}[channels]
  grid = grid.reshape(8, 15, channels)
  for k in range(6):
    row, column = divmod(k, 3)
    cell = grid[4 * row :, 5 * column :][:4, :5]
    np.testing.assert_array_equal(cell, images[k])
  assert [p.name for p in path.parent.iterdir()] == ['reals.png']


def test_grid_that_is_not_filled_is_an_error(tmp_path):
  with pytest.raises(ValueError, match='2 rows must be 6, got 5'):
    grids.save_grid(noise(5, 4, 4, 3), tmp_path / 'a.png', (3, 2))


def test_rgba_keeps_its_alpha_in_images_and_lies_over_a_board_in_grids(
  tmp_path,
):
  image = noise(16, 16, 4)
  image[:8, :, 3], image[8:, :, 3] = 255, 0
  grids.save_image(image, tmp_path / 'image.png')
  mode, stored = read(tmp_path / 'image.png')
  assert mode == 'RGBA'
  np.testing.assert_array_equal(stored, image)

  grids.save_grid(image[None], tmp_path / 'grid.png', (1, 1))
  mode, grid = read(tmp_path / 'grid.png')
  assert mode == 'RGB'
  np.testing.assert_array_equal(grid[:8], image[:8, :, :3])
  board = grid[8:, :, 0]
  np.testing.assert_array_equal(board[0], [128, 128, 192, 192] * 4)
  np.testing.assert_array_equal(board[2], [192, 192, 128, 128] * 4)


def test_half_transparent_pixels_are_mixed():
  image = np.full([1, 1, 4], (255, 0, 128, 51), np.uint8)  # Opacity 0.2.
  mixed = grids.over_checkerboard(image)
  np.testing.assert_array_equal(mixed[0, 0], [153, 102, 128])


def test_unknown_formats_are_errors(tmp_path):
  with pytest.raises(ValueError, match=r'or 4 \(RGBA\), got 2'):
    grids.save_image(noise(4, 4, 2), tmp_path / 'a.png')
  with pytest.raises(ValueError, match='must be that of an image format'):
    grids.save_image(noise(4, 4, 3), tmp_path / 'a')
  assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  grids.save_image(noise(4, 4, 3, seed=1), path)
  old = path.read_bytes()

  def fail(*_):
    raise OSError('No space left on device')

  monkeypatch.setattr('os.replace', fail)
  with pytest.raises(OSError, match='No space'):
    grids.save_image(noise(4, 4, 3, seed=2), path)
  assert path.read_bytes() == old
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize(('suffix', 'fps'), [('.webp', 60), ('.gif', 24)])
def test_clip_plays_all_frames_at_its_rate(tmp_path, channels, suffix, fps):
  level = np.linspace(20, 220, 12, dtype=np.uint8)
  frames = np.broadcast_to(
    level[:, None, None, None], (12, 16, 24, channels)
  ).copy()
  if channels == 4:
    frames[..., 3] = 255
  path = tmp_path / f'clip{suffix}'
  clips.save_clip(frames, path, fps)
  with Image.open(path) as clip:
    assert sum(1 for _ in ImageSequence.Iterator(clip)) == 12
    assert clip.size == (24, 16)
    duration = 0
    for k in range(12):
      clip.seek(k)
      pixels = np.asarray(clip.convert('RGB')).astype(int)
      duration += clip.info['duration']
      assert abs(pixels - level[k]).max() <= 4
    assert clip.info['loop'] == 0
  unit = {'.webp': 1, '.gif': 10}[suffix]
  assert duration == pytest.approx(12 * 1000 / fps, abs=unit / 2)


def test_clips_that_cannot_be_played_are_errors(tmp_path):
  frames = noise(2, 4, 4, 3)
  with pytest.raises(ValueError, match=r'\.webp or \.gif'):
    clips.save_clip(frames, tmp_path / 'a.mp4', 24)
  with pytest.raises(ValueError, match='must be at most 50, got 60'):
    clips.save_clip(frames, tmp_path / 'a.gif', 60)
  with pytest.raises(ValueError, match='at least one frame'):
    clips.save_clip(frames[:0], tmp_path / 'a.webp', 24)


def test_translation_path_is_a_closed_circle_of_inverse_translations():
  path = clips.translation_path(16, 0.125)
  assert path.dtype == np.float32
  moved = -path[:, :2, 2]
  np.testing.assert_allclose(np.hypot(*moved.T), 0.125, rtol=1e-6)
  # Equal steps, also from the last frame to the first; first to the right.
  steps = np.hypot(*(np.roll(moved, -1, 0) - moved).T)
  np.testing.assert_allclose(steps, steps[0], rtol=1e-5)
  np.testing.assert_allclose(moved[[0, 4]], [[0.125, 0], [0, 0.125]], atol=1e-7)
  np.testing.assert_array_equal(path[:, :2, :2], np.tile(np.eye(2), (16, 1, 1)))
  np.testing.assert_array_equal(path[:, 2], np.tile([0, 0, 1], (16, 1)))


def test_rotation_path_is_a_closed_turn():
  path = clips.rotation_path(12)
  np.testing.assert_array_equal(path[0], np.eye(3))
  quarter = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
  np.testing.assert_allclose(path[3], quarter, atol=1e-7)
  for k in range(12):
    np.testing.assert_allclose(path[1] @ path[k - 1], path[k], atol=1e-6)


def test_equivariance_clip_renders_every_image_under_every_transform():
  """5 frames of 3 images in batches of 4: the last batch is filled up."""
  shapes = []

  @jax.jit
  def synthesize(ws, transform):
    shapes.append(ws.shape)
    value = ws[:, 0, 0] + transform[:, 0, 2]
    return jnp.broadcast_to(value[:, None, None, None], (len(ws), 2, 2, 3))

  ws = np.array([0.0, 0.25, 0.5], np.float32)[:, None, None]
  transforms = np.tile(np.eye(3, dtype=np.float32), (5, 1, 1))
  transforms[:, 0, 2] = np.linspace(-0.5, 0, 5)
  frames = clips.make_equivariance_clip(
    synthesize, ws, transforms, batch_size=4
  )
  assert shapes == [(4, 1, 1)]  # Compiled once.
  assert frames.shape == (5, 2, 6, 3)
  expected = ws[None, :, 0, 0] + transforms[:, None, 0, 2]
  np.testing.assert_array_equal(frames[:, 0, ::2, 0], grids.to_uint8(expected))
  column = clips.make_equivariance_clip(synthesize, ws, transforms, size=(1, 3))
  assert column.shape == (5, 6, 2, 3)
