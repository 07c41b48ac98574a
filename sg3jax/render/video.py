"""Writes videos: MP4, animated WebP and GIF, or folders of PNG files.

Frames are encoded in a thread while the next ones are computed, and only a few
wait in between, so memory does not grow with the length. Files and folders are
written completely or not at all. The encoders are those of PyAV, the optional
dependency `video`; folders need none.
"""

import collections
import concurrent.futures
import fractions
import math
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sg3jax import files
from sg3jax.render import pictures

Frame = UInt8[np.ndarray, 'h w 3']

# The maximum frame rate of each format. Viewers slow down clips beyond it.
_MAX_FPS = {'.mp4': 1000, '.webp': 60, '.gif': 50}

# Frames that may wait for the encoder. The device computes the next batch
# meanwhile.
_WAITING = 4

_BITRATE = 12_000_000

# H.264 codes blocks of this many pixels.
_SMALLEST = 16


def check(
  path: str | pathlib.Path,
  size: tuple[int, int],
  fps: float | int = 60.0,
  *,
  overwrite: bool = False,
) -> None:
  """Checks that a video can be written, before its frames are computed.

  Args:
    path: The file; its suffix selects the format.
    size: Width and height of a frame in pixels.
    fps: Frames per second.
    overwrite: Whether the file may exist.

  Raises:
    ValueError: If the suffix is unknown, or the format does not support the
      size or the rate.
    ImportError: If the encoders are not installed.
    OSError: If the file exists or cannot be written.
  """
  path = files.local_path(path)
  suffix = path.suffix.lower()
  if suffix not in _MAX_FPS:
    raise ValueError(
      f'a video must be a {", ".join(_MAX_FPS)} file, got {str(path)!r}'
    )
  if not 0 < fps <= _MAX_FPS[suffix]:
    raise ValueError(
      f'fps of a {suffix} file must be above 0 and at most {_MAX_FPS[suffix]}, '
      f'got {fps:g}'
    )
  if suffix == '.mp4' and (min(size) < _SMALLEST or any(x % 2 for x in size)):
    raise ValueError(
      'the width and height of an .mp4 file must be even and at least '
      f'{_SMALLEST} pixels, got {size[0]}x{size[1]}: write a .webp or .gif '
      'file or a folder of frames, or choose another grid'
    )
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a folder: choose another name')
  if path.exists() and not overwrite:
    raise FileExistsError(f'{path} exists: choose another name or overwrite it')
  files.check_folder(path.parent)
  _import_av()


def write(
  frames: Iterable[Frame],
  path: str | pathlib.Path,
  *,
  fps: float | int = 60.0,
  bitrate: int = _BITRATE,
  comment: str = '',
  overwrite: bool = False,
) -> int:
  """Writes a video without sound, as MP4 (H.264), animated WebP or GIF.

  Clips in WebP and GIF repeat endlessly. GIF files have 256 colours per frame.

  Args:
    frames: The frames in RGB, in order and of one size. They are consumed one
      by one, while earlier ones are encoded in a thread.
    path: The file; its suffix selects the format. Folders are created.
    fps: Frames per second. Times in WebP files are rounded to milliseconds, and
      in GIF files to hundredths of a second.
    bitrate: Target of MP4 files, in bits per second.
    comment: Text for the metadata of MP4 files.
    overwrite: Whether an existing file is replaced.

  Returns:
    The number of frames.

  Raises:
    ValueError: If there are no frames, or as in `check`.
    ImportError: If the encoders are not installed.
    OSError: If the file cannot be written.
  """
  path = files.local_path(path)
  iterator = iter(frames)
  first = next(iterator, None)
  if first is None:
    raise ValueError('a video must have at least one frame, got 0')
  size = (first.shape[1], first.shape[0])
  check(path, size, fps, overwrite=overwrite)
  count = 0

  def counted() -> Iterator[Frame]:
    nonlocal count
    yield first
    count = 1
    for frame in iterator:
      if frame.shape != first.shape:
        raise ValueError(
          f'frame {count} must have the shape {first.shape} of the first, got '
          f'{frame.shape}'
        )
      yield frame
      count += 1

  with files.naming_errors(path), files.replacing(path) as temporary:
    encoder = _Encoder(temporary, size, fps, bitrate, comment)
    try:
      _encode(encoder, counted())
    finally:
      encoder.close()
  return count


def save_frames(
  frames: Iterable[Frame], folder: str | pathlib.Path
) -> Iterator[Frame]:
  """Writes frames to `frame000000.png` and so on, and passes them on.

  The folder appears when the last frame has been consumed; if an error ends the
  iteration, nothing is left.

  Args:
    frames: The frames.
    folder: A new or an empty folder.

  Raises:
    OSError: If the folder is not empty or cannot be written to.
  """
  folder = files.local_path(folder)
  check_frames_folder(folder)
  folder.parent.mkdir(parents=True, exist_ok=True)
  temporary = folder.with_name(f'.{folder.name}.{secrets.token_hex(4)}')
  try:
    for i, frame in enumerate(frames):
      with files.naming_errors(folder):
        pictures.save(frame, temporary / f'frame{i:06d}.png')
      yield frame
    with files.naming_errors(folder):
      os.replace(temporary, folder)  # Also replaces an empty folder.
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def check_frames_folder(folder: str | pathlib.Path) -> None:
  """Checks that frames can be written to a folder.

  Raises:
    OSError: If the folder is a file, is not empty or is not writable.
  """
  folder = files.local_path(folder)
  files.check_folder(folder)
  if folder.is_dir() and any(folder.iterdir()):
    raise FileExistsError(f'{folder} is not empty: choose a new folder')


def _encode(encoder: '_Encoder', frames: Iterable[Frame]) -> None:
  """Encodes frames in a thread, in order; a few wait in a queue."""
  with concurrent.futures.ThreadPoolExecutor(1, 'encoder') as pool:
    waiting = collections.deque()
    try:
      for frame in frames:
        if len(waiting) == _WAITING:
          waiting.popleft().result()  # Raises the errors of the encoder.
        waiting.append(pool.submit(encoder.add, frame))
      for job in waiting:
        job.result()
      encoder.finish()
    finally:
      pool.shutdown(cancel_futures=True)


class _Encoder:
  """Encodes the frames of one file."""

  def __init__(
    self,
    path: pathlib.Path,
    size: tuple[int, int],
    fps: float | int,
    bitrate: int,
    comment: str,
  ):
    self._av = _import_av()
    self._suffix = path.suffix.lower()
    is_mp4 = self._suffix == '.mp4'
    # Without a limit, the exact fraction of a float would have a denominator
    # that no format can hold; this one holds 24000/1001.
    self._rate = fractions.Fraction(fps).limit_denominator(1001)
    # Units of time per second.
    self._ticks = {'.webp': 1000, '.gif': 100}.get(self._suffix, self._rate)
    options = {'movflags': 'faststart'} if is_mp4 else {'loop': '0'}
    self._container: Any = self._av.open(
      str(path), 'w', format=self._suffix[1:], options=options
    )
    codec = {'.mp4': 'libx264', '.webp': 'libwebp_anim', '.gif': 'gif'}
    self._stream: Any = self._container.add_stream(
      codec[self._suffix], rate=self._rate
    )
    self._stream.width, self._stream.height = size
    self._graph: Any = None
    self._count = 0
    if is_mp4:
      self._stream.pix_fmt, self._stream.bit_rate = 'yuv420p', bitrate
      # With more threads, a busy machine can change how bits are distributed.
      self._stream.codec_context.thread_count = 1
      # The colour matrix of high definition, which players assume.
      for field in ('color_primaries', 'color_trc', 'colorspace'):
        setattr(self._stream.codec_context, field, 1)
      self._container.metadata['comment'] = comment
    elif self._suffix == '.webp':
      self._stream.pix_fmt = 'bgra'
      self._stream.options = {'quality': '92', 'compression_level': '4'}
    else:
      self._stream.pix_fmt = 'pal8'
    self._stream.time_base = fractions.Fraction(1) / self._ticks
    self._stream.codec_context.time_base = self._stream.time_base

  def add(self, pixels: Frame) -> None:
    """Encodes a frame."""
    frame = self._av.VideoFrame.from_ndarray(
      np.ascontiguousarray(pixels), format='rgb24'
    )
    # Rounding each time, not each duration, keeps the length of the whole.
    start, end = (
      round((self._count + i) * self._ticks / self._rate) for i in range(2)
    )
    frame.time_base = fractions.Fraction(1) / self._ticks
    frame.pts = start
    self._count += 1
    if self._suffix == '.mp4':
      frame = frame.reformat(format='yuv420p', dst_colorspace='ITU709')
    elif self._suffix == '.webp':
      frame = frame.reformat(format='bgra')
    else:
      frame = self._with_palette(frame)
    frame.pts, frame.duration = start, end - start
    self._container.mux(self._stream.encode(frame))

  def finish(self) -> None:
    """Writes what the encoder has kept."""
    self._container.mux(self._stream.encode(None))

  def close(self) -> None:
    """Closes the file."""
    self._container.close()

  def _with_palette(self, frame: Any) -> Any:
    """Reduces a frame to the 256 colours that suit it best."""
    if self._graph is None:
      graph = self._av.filter.Graph()
      source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format='rgb24',
        time_base=frame.time_base,
      )
      split = graph.add('split')
      palette = graph.add(
        'palettegen', 'stats_mode=single:reserve_transparent=0'
      )
      use = graph.add('paletteuse', 'new=1:dither=sierra2_4a')
      sink = graph.add('buffersink')
      source.link_to(split)
      split.link_to(use, 0, 0)
      split.link_to(palette, 1, 0)
      palette.link_to(use, 0, 1)
      use.link_to(sink)
      graph.configure()
      self._graph = graph
    self._graph.push(frame)
    return self._graph.pull()


def parse_bitrate(text: str) -> int:
  """Returns a rate such as `12M`, `800k` or `4000000` in bits per second.

  Raises:
    ValueError: If the text is malformed.
  """
  factor = {'k': 1000, 'M': 1_000_000}.get(text[-1:])
  try:
    rate = float(text[:-1]) * factor if factor else float(text)
  except ValueError:
    rate = math.nan
  if not 1000 <= rate <= 1e9:
    raise ValueError(
      f'bitrate must be 1k to 1000M bits per second, such as 12M, got {text!r}'
    )
  return round(rate)


def _import_av() -> ModuleType:
  """Imports PyAV, which few commands need.

  Raises:
    ImportError: If it is not installed; the message contains the command that
      installs it.
  """
  try:
    import av
    import av.filter
  except ImportError as error:
    raise ImportError(
      "videos need the package av: run pip install 'sg3jax[video]', or write "
      'the frames to a folder'
    ) from error
  return av
