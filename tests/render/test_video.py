"""Video files: frames, durations, sizes, errors and memory."""

import fractions
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from sg3jax.render import video

av = pytest.importorskip('av')


def _frames(count, height=32, width=48):
  """Yields frames with a smooth pattern that moves to the right."""
  x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 6, height))
  for i in range(count):
    channels = [np.sin(x - i / 5), np.cos(y), np.sin(x + y - i / 5)]
    yield np.uint8(np.stack(channels, -1) * 100 + 128)


def _read(path):
  """Returns the frames, the rate and the duration of a file."""
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    found = [
      frame.to_ndarray(format='rgb24') for frame in container.decode(stream)
    ]
    return (
      np.stack(found),
      stream.average_rate,
      stream.duration * (stream.time_base),
    )


@pytest.mark.parametrize('fps', [60, 30, 24000 / 1001])
def test_mp4(tmp_path, fps):
  path = tmp_path / 'new' / 'a.mp4'
  expected = np.stack(list(_frames(30)))
  assert video.write(expected, path, fps=fps, comment='the command') == 30
  found, rate, duration = _read(path)
  assert found.shape == expected.shape
  assert rate == fractions.Fraction(fps).limit_denominator(1001)
  assert float(duration) == pytest.approx(30 / fps, rel=1e-6)
  # At this rate, only the colours are coarse: they have half the resolution.
  luma = np.array([0.2126, 0.7152, 0.0722])
  assert np.abs((found - expected.astype(float)) @ luma).mean() < 2
  assert np.abs(found - expected.astype(float)).mean() < 8
  with av.open(str(path)) as container:
    assert container.metadata['comment'] == 'the command'
    assert not container.streams.audio
    assert container.streams.video[0].codec_context.name == 'h264'
    # The matrix of high definition, with which it was converted.
    assert next(container.decode(video=0)).colorspace == 1
  assert [file.name for file in path.parent.iterdir()] == ['a.mp4']


@pytest.mark.parametrize(
  ('suffix', 'fps'), [('gif', 50), ('gif', 30), ('webp', 60)]
)
def test_clips(tmp_path, suffix, fps):
  path = tmp_path / f'a.{suffix}'
  expected = np.stack(list(_frames(20, height=33)))  # Odd sizes work here.
  assert video.write(iter(expected), path, fps=fps) == 20
  durations, errors = [], []
  with Image.open(path) as image:
    assert image.n_frames == 20
    assert image.info['loop'] == 0  # Endless.
    for i in range(20):
      image.seek(i)
      found = np.asarray(image.convert('RGB')).astype(int)
      durations.append(image.info['duration'])
      errors.append(np.abs(found - expected[i]).mean())
  # The muxer repeats the duration of the frame before the last one.
  unit = 10 if suffix == 'gif' else 1
  assert abs(sum(durations) - 20_000 / fps) <= unit
  assert max(durations) - min(durations) <= unit
  # 256 colours are about 30 levels apart where all colours occur.
  assert max(errors) < 8


def test_files_are_the_same_every_time(tmp_path):
  for suffix in ('mp4', 'webp', 'gif'):
    paths = [tmp_path / f'{i}.{suffix}' for i in range(2)]
    for path in paths:
      video.write(_frames(12), path, fps=30)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_bitrate_is_a_target(tmp_path):
  rng = np.random.RandomState(0)
  noise = rng.randint(0, 256, (60, 64, 64, 3), np.uint8)
  sizes = []
  for bitrate in (200_000, 2_000_000):
    path = tmp_path / f'{bitrate}.mp4'
    video.write(noise, path, bitrate=bitrate)
    sizes.append(path.stat().st_size)
  # One second: within a factor of two of the target.
  assert 100_000 < sizes[1] < 500_000
  assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(
  ('name', 'size', 'fps', 'message'),
  [
    ('a.avi', (32, 32), 60, 'must be a .mp4, .webp, .gif file, got'),
    ('a', (32, 32), 60, 'must be a .mp4'),
    ('a.mp4', (33, 32), 60, 'must be even and at least 16 pixels, got 33x32'),
    ('a.mp4', (32, 8), 60, 'got 32x8'),
    ('a.gif', (32, 32), 60, 'fps of a .gif file .* at most 50, got 60'),
    ('a.webp', (32, 32), 0, 'fps of a .webp file must be above 0'),
    ('a.mp4', (32, 32), float('nan'), 'fps of a .mp4'),
  ],
)
def test_what_formats_do_not_support(tmp_path, name, size, fps, message):
  with pytest.raises(ValueError, match=message):
    video.check(tmp_path / name, size, fps)
  frame = np.zeros((1, size[1], size[0], 3), np.uint8)
  with pytest.raises(ValueError, match=message):
    video.write(frame, tmp_path / name, fps=fps)
  assert not list(tmp_path.iterdir())


def test_what_is_in_the_way(tmp_path):
  path = tmp_path / 'a.mp4'
  path.write_bytes(b'before')
  with pytest.raises(FileExistsError, match='choose another name or overwrite'):
    video.write(_frames(2), path)
  assert path.read_bytes() == b'before'
  video.write(_frames(2), path, overwrite=True)
  assert len(_read(path)[0]) == 2
  (tmp_path / 'b.mp4').mkdir()
  with pytest.raises(IsADirectoryError):
    video.write(_frames(2), tmp_path / 'b.mp4', overwrite=True)


def test_no_frames_and_frames_of_several_sizes(tmp_path):
  with pytest.raises(ValueError, match='at least one frame'):
    video.write([], tmp_path / 'a.mp4')
  frames = [*_frames(2), *_frames(1, height=64)]
  with pytest.raises(ValueError, match='frame 2 must have the shape'):
    video.write(frames, tmp_path / 'a.mp4')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('count', [0, 5, 40])
@pytest.mark.parametrize('name', ['a.mp4', 'a.webp', 'a.gif'])
def test_interrupted_videos_leave_nothing(tmp_path, name, count):
  def broken():
    yield from _frames(count)
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    video.write(broken(), tmp_path / name, fps=30)
  assert not list(tmp_path.iterdir())
  assert 'encoder_0' not in [thread.name for thread in threading.enumerate()]


def test_errors_of_the_encoder_end_the_video(tmp_path, monkeypatch):
  consumed = []

  def fail(self, pixels):
    raise OSError(28, 'No space left on device')

  def frames():
    for frame in _frames(1000):
      consumed.append(1)
      yield frame

  monkeypatch.setattr(video._Encoder, 'add', fail)
  with pytest.raises(OSError, match=r'Cannot write .*a\.mp4: .*Make room'):
    video.write(frames(), tmp_path / 'a.mp4')
  assert len(consumed) < 20
  assert not list(tmp_path.iterdir())


def test_few_frames_wait_for_the_encoder(tmp_path, monkeypatch):
  """Memory does not grow if the encoder is slower than the device."""
  started, may_go_on = [], threading.Event()
  add = video._Encoder.add

  def slow(self, pixels):
    may_go_on.wait(10)
    add(self, pixels)

  monkeypatch.setattr(video._Encoder, 'add', slow)

  def frames():
    for i, frame in enumerate(_frames(30)):
      started.append(i)
      if i == video._WAITING:
        may_go_on.set()
      yield frame

  video.write(frames(), tmp_path / 'a.mp4')
  assert len(started) == 30


def test_frames_as_files(tmp_path):
  folder = tmp_path / 'new' / 'frames'
  expected = list(_frames(3))
  for i, frame in enumerate(video.save_frames(expected, folder)):
    np.testing.assert_array_equal(frame, expected[i])
    assert not folder.exists()  # Until it is complete.
  names = sorted(path.name for path in folder.iterdir())
  assert names == [f'frame{i:06d}.png' for i in range(3)]
  np.testing.assert_array_equal(Image.open(folder / names[2]), expected[2])
  assert [path.name for path in folder.parent.iterdir()] == ['frames']
  with pytest.raises(FileExistsError, match='is not empty'):
    next(video.save_frames(expected, folder))


def test_interrupted_folders_leave_nothing(tmp_path):
  frames = video.save_frames(_frames(3), tmp_path / 'frames')
  next(frames)
  frames.close()
  assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled(tmp_path):
  (tmp_path / 'frames').mkdir()
  assert len(list(video.save_frames(_frames(2), tmp_path / 'frames'))) == 2
  assert len(list((tmp_path / 'frames').iterdir())) == 2


def test_without_the_encoders(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(ImportError, match=r"pip install 'sg3jax\[video\]'"):
    video.check(tmp_path / 'a.mp4', (32, 32))


@pytest.mark.parametrize(
  ('text', 'rate'),
  [('12M', 12_000_000), ('800k', 800_000), ('4e6', 4_000_000), ('1.5M', 1.5e6)],
)
def test_bitrates(text, rate):
  assert video.parse_bitrate(text) == rate


@pytest.mark.parametrize(
  'text', ['', 'M', '12G', '-1M', 'nan', 'inf', '12', '1kM']
)
def test_malformed_bitrates(text):
  with pytest.raises(ValueError, match='bitrate must be 1k to 1000M'):
    video.parse_bitrate(text)
