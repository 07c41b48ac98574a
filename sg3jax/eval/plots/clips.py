"""Clips: images that move, as animated WebP or GIF files.

Files are written whole or not at all, and replace those of the same name.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from sg3jax.eval.plots import grids
from sg3jax.types import AnyArray

# The unit of a frame's duration, in milliseconds, and the most frames a second:
# viewers slow clips that ask for more down to ten.
_CLIPS = {'.webp': (1, 60), '.gif': (10, 50)}


def save_clip(
  frames: UInt8[np.ndarray, 'f h w c'], path: grids.Path, fps: float | int
) -> None:
  """Writes an endless animation: WebP, or GIF where the suffix says so.

  Args:
    frames: The frames in order, with 1, 3 or 4 channels.
    path: The file, with the suffix `.webp` or `.gif`. Folders are made. GIF has
      256 colours a frame and is larger.
    fps: Frames a second. Formats count in whole milliseconds (GIF: hundredths
      of a second); the frames' durations vary by that much so that the clip
      takes `len(frames) / fps` seconds in all.

  Raises:
    ValueError: If the suffix is another, there are no frames, or the format
      cannot play the rate.
  """
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in _CLIPS:
    raise ValueError(f'a clip must be a .webp or .gif file, got {str(path)!r}')
  if not len(frames):
    raise ValueError('a clip needs at least one frame')
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
  """Returns transforms that carry the image once around a circle.

  Args:
    num_frames: Number of frames of the closed path; frame `num_frames` would be
      frame 0.
    radius: Radius of the circle, as a fraction of the image's width. EQ-T moves
      by up to 1/8.

  Returns:
    Inverse transforms, as the generator's input takes them, float32: the image
    moves by +t where they hold -t. x points right and y down, so the image
    starts on the right and goes clockwise.
  """
  angle = _turn(num_frames)
  transforms = np.tile(np.eye(3), (num_frames, 1, 1))
  transforms[:, 0, 2] = -radius * np.cos(angle)
  transforms[:, 1, 2] = -radius * np.sin(angle)
  return transforms.astype(np.float32)


def rotation_path(num_frames: int) -> Float[np.ndarray, 'f 3 3']:
  """Returns transforms that turn the image once about its centre.

  Args:
    num_frames: Number of frames of the closed path, the first one upright.

  Returns:
    Inverse transforms, float32: the image turns by the angle a, counter-
    clockwise, where they hold `[[cos a, -sin a], [sin a, cos a]]` (the paper's
    appendix E).
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
  """Renders images that move through the generator's input transform.

  In an equivariant generator's clip all detail moves with the image; detail
  that stays in its place on the screen is what the eye finds at once.

  Args:
    synthesize: `synthesize(ws, transform) -> images` for `ws` [b, l, d] and
      inverse transforms [b, 3, 3], a jitted generator say. It is called with
      one `b` only, so it compiles once.
    ws: Styles of the images that move together.
    transforms: Inverse transform of each frame; see `translation_path`.
    size: Columns and rows in which a frame shows the images, by default all in
      one row.
    batch_size: Images rendered at a time.

  Returns:
    The frames, for `save_clip`.
  """
  ws, transforms = np.asarray(ws), np.asarray(transforms)
  n, f = len(ws), len(transforms)
  size = size or (n, 1)
  # The last batch is filled up with repetitions of the first images.
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
