"""The commands `generate` and `video`, with a tiny model."""

import json
import pathlib
import sys

import in_process
import numpy as np
import pytest
from PIL import Image

from sg3jax import model as model_lib
from sg3jax.cli import generate, video
from sg3jax.editing import ws as ws_lib
from sg3jax.eval.plots import grids
from sg3jax.render import camera, styles

sys.path.append(str(pathlib.Path(__file__).parents[1] / 'render'))

import golden_models

_MODELS = {
  'tiny': golden_models.tiny,
  'other': lambda: golden_models.tiny(seed=1),
  'grey': lambda: golden_models.tiny(img_channels=1),
  'rgba': lambda: golden_models.tiny(img_channels=4),
  'classes': lambda: golden_models.tiny(label_dim=3),
  'stylegan2': lambda: golden_models.load('2'),
}


@pytest.fixture(autouse=True)
def _models(monkeypatch):
  monkeypatch.setattr(
    model_lib, 'load_model', lambda path, precision: _MODELS[path]()
  )


def _generate(tmp_path, *args, network='tiny'):
  """Runs the command; returns the pictures by their names."""
  outdir = tmp_path / 'out'
  status, out = in_process.run(
    generate, f'--network={network}', f'--outdir={outdir}', *args
  )
  assert not status, status
  paths = [pathlib.Path(line) for line in out.splitlines()]
  assert all(path.exists() for path in paths)
  return {
    path.name: np.asarray(Image.open(path)).astype(int)
    for path in paths
    if path.suffix != '.npz'
  }


def _expected(ws, transform=None):
  model = golden_models.tiny()
  return grids.to_uint8(model.synthesis(ws, transform)).astype(int)


def _assert_close(found, expected):
  assert found.shape == expected.shape
  # Another batch size may round otherwise.
  assert np.abs(found - expected).max() <= 1


def _w(seeds, **options):
  return styles.of_seeds(golden_models.tiny(), seeds, **options)


class TestGenerate:
  def test_one_picture_for_each_seed(self, tmp_path):
    found = _generate(tmp_path, '--seeds=3,1', '--trunc=0.5')
    assert list(found) == ['seed0003.png', 'seed0001.png']
    expected = _expected(_w([3, 1], truncation_psi=0.5))
    for picture, image in zip(found.values(), expected, strict=True):
      _assert_close(picture, image)
    with Image.open(tmp_path / 'out' / 'seed0001.png') as image:
      assert image.text['Command'] == (
        f'sg3jax generate --network=tiny --outdir={tmp_path}/out --seeds=3,1 '
        '--trunc=0.5'
      )

  def test_a_sheet(self, tmp_path):
    found = _generate(tmp_path, '--seeds=0-5', '--grid=3x2', '--batch=4')
    assert list(found) == ['grid.png']
    _assert_close(
      found['grid.png'],
      grids.tile(_expected(_w(range(6))).astype(np.uint8), (3, 2)).astype(int),
    )

  @pytest.mark.slow
  def test_rows_of_truncation(self, tmp_path):
    found = _generate(tmp_path, '--seeds=2-4', '--trunc=0,0.5,1', '--batch=2')
    assert list(found) == [f'seed{i:04d}.png' for i in (2, 3, 4)]
    for seed, picture in zip((2, 3, 4), found.values(), strict=True):
      ws = np.concatenate(
        [_w([seed], truncation_psi=psi) for psi in (0.0, 0.5, 1.0)]
      )
      _assert_close(picture, np.concatenate(_expected(ws), axis=1))

  def test_a_sheet_of_mixed_styles(self, tmp_path):
    found = _generate(
      tmp_path, '--seeds=0,1', '--mix=5-7', '--layers=0-1', '--format=png'
    )['mix.png']
    rows, columns = _w([0, 1]), _w([5, 6, 7])
    assert found.shape == (3 * 16, 4 * 16, 3)
    assert np.all(found[:16, :16] == 255)
    _assert_close(found[:16, 16:], np.concatenate(_expected(columns), axis=1))
    _assert_close(found[16:, :16], np.concatenate(_expected(rows), axis=0))
    mixed = rows[1].copy()
    mixed[:2] = columns[2][:2]
    _assert_close(found[32:, 48:], _expected(mixed[None])[0])

  @pytest.mark.slow
  def test_transforms_and_a_wider_view(self, tmp_path):
    args = ('--seeds=0', '--translate=0.25,0', '--rotate=20', '--zoom=1.5')
    found = _generate(tmp_path, *args)['seed0000.png']
    pose = camera.Pose(0.25, 0.0, 20.0, 1.5)
    _assert_close(found, _expected(_w([0]), pose.inverse())[0])
    wide = _generate(tmp_path, *args, '--extent=2', '--overwrite')
    assert wide['seed0000.png'].shape == (32, 32, 3)

  def test_styles_go_to_a_file_and_back(self, tmp_path):
    file = tmp_path / 'w.npz'
    first = _generate(tmp_path, '--seeds=4,5', f'--save_w={file}')
    with np.load(file) as arrays:
      np.testing.assert_allclose(arrays['w'], _w([4, 5]), atol=1e-6)
    again = _generate(tmp_path, f'--load_w={file}')
    assert list(again) == ['w0000.png', 'w0001.png']
    for a, b in zip(first.values(), again.values(), strict=True):
      np.testing.assert_array_equal(a, b)

  def test_features(self, tmp_path):
    found = _generate(tmp_path, '--seeds=1', '--activations=L1,input')
    assert sorted(found) == sorted(
      ['seed0001.png']
      + [
        f'seed0001-{x}{y}.png'
        for x in ('L1', 'input')
        for y in ('', '-spectrum')
      ]
    )
    with np.load(tmp_path / 'out' / 'seed0001-L1.npz') as arrays:
      assert arrays['activation'].ndim == 3

  @pytest.mark.slow
  def test_grey_and_transparent_images(self, tmp_path):
    grey = _generate(tmp_path, '--seeds=0', network='grey')
    assert grey['seed0000.png'].shape == (16, 16)
    args = ('--seeds=0', '--overwrite')
    rgba = _generate(tmp_path, *args, network='rgba')
    assert rgba['seed0000.png'].shape == (16, 16, 4)
    rgb = _generate(
      tmp_path, *args, '--background=checkerboard', network='rgba'
    )
    assert rgb['seed0000.png'].shape == (16, 16, 3)

  @pytest.mark.parametrize(
    ('args', 'message'),
    [
      (['--seeds=0-4', '--grid=3x2'], '--grid=3x2 must be given 6 seeds'),
      (['--seeds=0', '--grid=0x2'], '--grid=0x2'),
      (['--seeds=0', '--grid=3'], 'must be COLUMNSxROWS'),
      (['--seeds=0', '--trunc=a'], 'must be numbers within'),
      (['--seeds=0', '--trunc=1,'], 'must be numbers within'),
      (['--seeds=0', '--grid=1x1', '--mix=1'], '--grid cannot be combined'),
      (['--seeds=0', '--mix=1', '--trunc=0,1'], '--mix cannot be combined'),
      (['--seeds=0', '--mix=a'], '--mix must be numbers and ranges'),
      (['--seeds=0', '--mix=1', '--layers=0-9'], 'within 0 to 3, the styles'),
      (['--seeds=0', '--mix=1', '--layers=-3'], '--layers must be numbers'),
      (['--seeds=0', '--zoom=0'], '--zoom must be 0.01 to 100, got 0'),
      (['--seeds=0', '--extent=1.3'], '--extent must be 1 plus a multiple of'),
      (['--seeds=0', '--extent=9999'], '--extent must be smaller than 9999'),
      (['--seeds=0', '--activations=L9'], '--activations must be one of input'),
      (['--seeds=0', '--format=bmp'], 'format'),
      (['--seeds=0', '--save_w=w.txt'], '--save_w must be an .npz file'),
      (['--seeds=0', '--load_w=w.npz'], '--seeds cannot be given with --load'),
      (['--load_w=w.npz', '--trunc=0'], '--trunc must be 1 with --load_w'),
      (['--load_w=nowhere.npz'], 'nowhere.npz'),
      ([], '--seeds is required'),
    ],
  )
  def test_errors_come_before_anything_is_computed(self, args, message):
    error = in_process.error(
      generate, '--network=tiny', '--outdir=never-made', *args
    )
    assert message in error
    assert not pathlib.Path('never-made').exists()

  @pytest.mark.slow
  def test_stylegan2_refuses_what_it_cannot_do(self):
    base = ('--network=stylegan2', '--seeds=0', '--outdir=never-made')
    for arg, message in (
      ('--rotate=3', 'learned constant'),
      ('--extent=2', 'extent must be 1'),
      ('--activations=L1', 'alias-free generator'),
    ):
      assert message in in_process.error(generate, *base, arg)


def _video(tmp_path, *args, network='tiny'):
  """Runs the command; returns its frames."""
  folder = tmp_path / 'frames'
  status, out = in_process.run(
    video, f'--network={network}', f'--frames={folder}', *args
  )
  assert not status, status
  assert out.splitlines()[-1] == str(folder)
  return np.stack(
    [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
  ).astype(int)


class TestVideo:
  def test_a_walk_in_a_grid(self, tmp_path):
    found = _video(
      tmp_path, '--seeds=0-5', '--grid=2x1', '--w_frames=4', '--trunc=0.7'
    )
    assert found.shape == (12, 16, 32, 3)
    expected = _expected(_w([1, 4], truncation_psi=0.7))
    _assert_close(found[4], np.concatenate(expected, axis=1))

  def test_files(self, tmp_path):
    av = pytest.importorskip('av')
    path = tmp_path / 'new' / 'a.mp4'
    args = ('--network=tiny', '--seeds=0,1', '--w-frames=5', '--fps=10')
    status, out = in_process.run(video, *args, f'--output={path}')
    assert (status, out) == (None, f'{path}\n')
    with av.open(str(path)) as container:
      stream = container.streams.video[0]
      assert (stream.frames, stream.width, stream.height) == (10, 16, 16)
      assert stream.average_rate == 10
      assert container.metadata['comment'].startswith('sg3jax video --network')
    before = path.read_bytes()
    assert 'pass --overwrite' in in_process.error(
      video, *args, f'--output={path}'
    )
    status, _ = in_process.run(video, *args, f'--output={path}', '--overwrite')
    assert not status
    assert len(path.read_bytes()) == pytest.approx(len(before), abs=20)

  def test_two_models_side_by_side(self, tmp_path):
    args = ('--seeds=3', '--w_frames=2', '--beside=other')
    found = _video(tmp_path, *args)
    assert found.shape == (2, 16, 32, 3)
    _assert_close(found[0, :, :16], _expected(_w([3]))[0])
    assert np.abs(found[0, :, :16] - found[0, :, 16:]).max() > 9

  def test_a_camera(self, tmp_path):
    path = tmp_path / 'path.json'
    path.write_text(
      json.dumps([{'time': 0}, {'time': 1, 'translate': [0.5, 0]}])
    )
    found = _video(
      tmp_path, '--seeds=3', '--w_frames=5', '--fps=4', f'--camera={path}'
    )
    assert len(found) == 5
    _assert_close(found[0], _expected(_w([3]))[0])
    moved = camera.Pose(x=0.5).inverse()
    _assert_close(found[4], _expected(_w([3]), moved)[0])

  def test_anchored_images(self, tmp_path):
    found = _video(tmp_path, '--seeds=3', '--w_frames=1', '--anchor')
    ws = np.array(_w([3]))
    assert np.abs(found[0] - _expected(ws)[0]).max() > 2
    ws[:, 0] = golden_models.tiny().variables['moving_averages']['w_avg']
    _assert_close(found[0], _expected(ws)[0])

  @pytest.mark.slow
  @pytest.mark.parametrize('walk', ['circle', 'random'])
  def test_walks_stay_near(self, tmp_path, walk):
    args = ('--seeds=3', '--w_frames=2', f'--walk={walk}', '--num_keyframes=3')
    far = _video(tmp_path / 'far', *args, '--radius=0.5')
    near = _video(tmp_path / 'near', *args, '--radius=0')
    assert len(far) == len(near) == 6
    for frame in near:
      _assert_close(frame, _expected(_w([3]))[0])
    assert np.abs(far - near).max() > 9
    other = _video(tmp_path / 'other', *args, '--radius=0.5', '--walk_seed=1')
    assert np.abs(far - other).max() > 9

  @pytest.mark.slow
  def test_classes_and_truncation_of_keyframes(self, tmp_path):
    model = golden_models.tiny(label_dim=3)
    found = _video(
      tmp_path, '--seeds=3', '--num_keyframes=2', '--class=dog,0',
      '--w_frames=1', '--trunc=0.5,1', network='classes',
    )  # fmt: skip
    for k, (label, psi) in enumerate(((1, 0.5), (0, 1.0))):
      one_hot = np.eye(3, dtype=np.float32)[label]
      ws = styles.of_seeds(model, [3], one_hot, truncation_psi=psi)
      expected = grids.to_uint8(model.synthesis(ws))[0].astype(int)
      _assert_close(found[k], expected)
    # A name may contain a comma.
    named = _video(
      tmp_path / 'named', '--seeds=3', '--w_frames=1', '--class=two, words',
      network='classes',
    )  # fmt: skip
    assert len(named) == 1

  @pytest.mark.slow
  def test_no_loop(self, tmp_path):
    found = _video(tmp_path, '--seeds=0-2', '--w_frames=3', '--noloop')
    assert len(found) == 7
    _assert_close(found[-1], _expected(_w([2]))[0])

  def test_styles_of_a_file(self, tmp_path):
    file = tmp_path / 'w.npz'
    styles.save(file, _w([3, 4]))
    args = (f'--load_w={file}', '--w_frames=2', '--anchor')
    found = _video(tmp_path, f'--save_w={tmp_path}/again.npz', *args)
    assert len(found) == 4
    np.testing.assert_array_equal(
      ws_lib.read(tmp_path / 'again.npz', 4, 8).w, _w([3, 4])
    )
    # Only mapping needs a class.
    other = _video(tmp_path / 'classes', *args, network='classes')
    assert len(other) == 4

  @pytest.mark.slow
  @pytest.mark.parametrize('network', ['grey', 'rgba', 'stylegan2'])
  def test_other_models(self, tmp_path, network):
    found = _video(
      tmp_path, '--seeds=0', '--w_frames=1', '--batch=1', network=network
    )
    assert found.shape[0] == 1
    assert found.shape[-1] == 3

  @pytest.mark.parametrize(
    ('args', 'message'),
    [
      (['--seeds=0'], '--output or --frames is required'),
      (['--output=a.mp4'], '--seeds is required'),
      (['--output=a.mp4', '--seeds='], '--seeds is required'),
      (['--output=a.avi', '--seeds=0'], "got 'a.avi'"),
      (['--output=a.gif', '--seeds=0'], 'at most 50, got 60'),
      (['--output=a.mp4', '--seeds=0', '--fps=0'], 'above 0'),
      (['--output=a.mp4', '--seeds=0', '--bitrate=x'], 'bitrate must be'),
      (['--output=a.mp4', '--seeds=0-2', '--grid=2x1'], 'a multiple of 2'),
      (['--output=a.mp4', '--seeds=0-2', '--walk=circle'], 'given 1 seeds'),
      (['--output=a.mp4', '--seeds=0', '--walk=circle', '--noloop'], 'a loop'),
      (
        ['--output=a.mp4', '--seeds=0', '--camera=nowhere'],
        'nowhere: No such file',
      ),
      (['--output=a.mp4', '--seeds=0', '--extent=9999'], '--extent must be'),
      (['--output=a.mp4', '--seeds=0', '--beside=stylegan2'], 'of one size'),
      (['--output=a.mp4', '--seeds=0-2', '--trunc=0,1'], 'each of the 3 keyf'),
      (['--output=a.mp4', '--seeds=0', '--class=1'], 'takes no labels'),
      (['--output=a.mp4', '--seeds=0', '--noise_mode=random'], 'flicker'),
      (['--output=a.mp4', '--load_w=nowhere.npz'], 'nowhere.npz'),
      (['--output=a.mp4', '--seeds=0', '--extent=1.3'], 'extent must be 1'),
      (['--frames=.', '--seeds=0'], 'is not empty'),
    ],
  )  # fmt: skip
  def test_errors_come_before_anything_is_computed(self, args, message):
    assert message in in_process.error(video, '--network=tiny', *args)
    assert not pathlib.Path('a.mp4').exists()

  @pytest.mark.slow
  def test_errors_of_models(self, tmp_path):
    args = ('--seeds=0', '--output=a.mp4')
    error = in_process.error(video, '--network=classes', *args)
    assert 'the network is conditional: pass --class=0' in error
    base = ('--network=stylegan2', *args)
    assert '--anchor must be false' in in_process.error(
      video, *base, '--anchor'
    )
    for arg in ('--zoom=2', '--translate=1,0'):
      assert 'learned constant' in in_process.error(video, *base, arg)
    file = tmp_path / 'w.npz'
    np.savez(file, w=np.zeros((5, 7)))
    error = in_process.error(
      video, '--network=tiny', f'--load_w={file}', '--output=a.mp4'
    )
    assert 'must have the shape [n, 4, 8] for this model, got [5, 7]' in error
