"""Writes clips of moving images, as animated WebP or GIF files.

Files are written completely or not at all, and replace existing ones.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from sg3jax.eval.plots import grids
from sg3jax.types import AnyArray

# The unit of a frame's duration, in milliseconds, and the maximum frame rate.
# Viewers slow clips with a higher rate down to ten frames per second.
_CLIPS = {'.webp': (1, 60), '.gif': (10, 50)}


def save_clip(
  frames: UInt8[np.ndarray, 'f h w c'], path: grids.Path, fps: float | int
) -> None:
  """Writes an endless animation as WebP or GIF, depending on the suffix.

  Args:
    frames: The frames in order, with 1, 3 or 4 channels.
    path: The file, with the suffix `.webp` or `.gif`. Folders are created. GIF
      files have 256 colours per frame and are larger.
    fps: Frames per second. Durations are integer milliseconds (hundredths of a
      second for GIF); they vary by that unit, so that the whole clip takes
      `len(frames) / fps` seconds.

  Raises:
    ValueError: If the suffix is different, there are no frames, or the format
      does not support the rate.
  """
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in _CLIPS:
    raise ValueError(f'a clip must be a .webp or .gif file, got {str(path)!r}')
  if not len(frames):
    raise ValueError('a clip must have at least one frame, got 0')
  unit, limit = _CLIPS[suffix]
  if not 0 < fps <= limit:
    raise ValueError(
      f'frames a second of a {suffix} clip must be at most {limit}, got {fps}'
    )
  ends = np.round(np.arange(len(frames) + 1) * (1000 / fps / unit)) * unit
  first, *rest = (grids.to_pillow(frame) for frame in frames)
  grids.save_pillow(
    path,
    first,
    save_all=True,
    append_images=rest,
    duration=[int(d) for d in np.diff(ends)],
    loop=0,
    **({'quality': 92, 'method': 4} if suffix == '.webp' else {'disposal': 2}),
  )


def translation_path(
  num_frames: int, radius: float
) -> Float[np.ndarray, 'f 3 3']:
  """Returns transforms that move the image once around a circle.

  Args:
    num_frames: Number of frames of the closed path. Frame `num_frames` would
      equal frame 0.
    radius: Radius of the circle, as a fraction of the image's width. EQ-T
      shifts images by up to 1/8.

  Returns:
    Inverse transforms for the generator's input, float32. A transform with -t
    moves the image by +t. x points right and y down, so the image starts on the
    right and moves clockwise.
  """
  angle = _turn(num_frames)
  transforms = np.tile(np.eye(3), (num_frames, 1, 1))
  transforms[:, 0, 2] = -radius * np.cos(angle)
  transforms[:, 1, 2] = -radius * np.sin(angle)
  return transforms.astype(np.float32)


def rotation_path(num_frames: int) -> Float[np.ndarray, 'f 3 3']:
  """Returns transforms that rotate the image once about its centre.

  Args:
    num_frames: Number of frames of the closed path. The first one is upright.

  Returns:
    Inverse transforms, float32. `[[cos a, -sin a], [sin a, cos a]]` rotates the
    image counterclockwise by the angle a (the paper's appendix E).
  """
  angle = _turn(num_frames)
  transforms = np.tile(np.eye(3), (num_frames, 1, 1))
  transforms[:, 0, 0] = transforms[:, 1, 1] = np.cos(angle)
  transforms[:, 1, 0] = np.sin(angle)
  transforms[:, 0, 1] = -np.sin(angle)
  return transforms.astype(np.float32)


def make_equivariance_clip(
  synthesize: Callable[..., Float[AnyArray, 'b h w c']],
  ws: Float[AnyArray, 'n l d'],
  transforms: Float[AnyArray, 'f 3 3'],
  *,
  size: tuple[int, int] | None = None,
  batch_size: int = 8,
) -> UInt8[np.ndarray, 'f height width c']:
  """Renders images that the generator's input transform moves.

  In the clip of an equivariant generator all detail moves with the image.
  Detail that sticks to the screen is easy to see.

  Args:
    synthesize: `synthesize(ws, transform) -> images` for `ws` [b, l, d] and
      inverse transforms [b, 3, 3], such as a jitted generator. It is called
      with only one value of `b`, so it compiles once.
    ws: Styles of the images that move together.
    transforms: Inverse transform of each frame; see `translation_path`.
    size: Columns and rows of the images in a frame; one row by default.
    batch_size: Number of images rendered at a time.

  Returns:
    The frames, for `save_clip`.
  """
  ws, transforms = np.asarray(ws), np.asarray(transforms)
  n, f = len(ws), len(transforms)
  size = size or (n, 1)
  # Pad the last batch with the first images.
  padded = -(-n * f // batch_size) * batch_size
  index = np.arange(padded) % (n * f)
  images = np.concatenate(
    [
      grids.to_uint8(synthesize(ws[batch % n], transforms[batch // n]))
      for batch in index.reshape(-1, batch_size)
    ]
  )[: n * f]
  frames = images.reshape(f, n, *images.shape[1:])
  return np.stack([grids.tile(frame, size) for frame in frames])


def _turn(num_frames: int) -> np.ndarray:
  return np.arange(num_frames) * (2 * np.pi / num_frames)
