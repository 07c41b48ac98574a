"""Transforms of images over time: translation, rotation and zoom.

An alias-free generator applies a transform to its Fourier features, so that
images move without being resampled (paper section 3.2). The matrices here are
inverse transforms in units of the image's width, as `Model.synthesis` takes
them.
"""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import interpolate

from sg3jax import files
from sg3jax.eval import resampling

# Beyond this, no frequency is left that the network knows, or a pixel is all
# that is left of an image.
MAX_ZOOM = 100.0

# Columns of a text file, after the time.
_COLUMNS = ('x', 'y', 'rotate', 'zoom')


@dataclasses.dataclass(frozen=True)
class Pose:
  """Position of the camera's subject.

  Attributes:
    x: Translation of the image to the right, in widths of the image.
    y: Translation of the image downwards, in widths of the image.
    rotate: Rotation in degrees, counterclockwise.
    zoom: Magnification about the centre.

  Raises:
    ValueError: If a value is out of range.
  """

  x: float = 0.0
  y: float = 0.0
  rotate: float = 0.0
  zoom: float = 1.0

  def __post_init__(self):
    if not 1 / MAX_ZOOM <= self.zoom <= MAX_ZOOM:
      raise ValueError(
        f'zoom must be {1 / MAX_ZOOM:g} to {MAX_ZOOM:g}, got {self.zoom:g}'
      )
    # It checks the other values.
    resampling.inverse_transform((self.x, self.y), self.rotate)

  def inverse(self) -> Float[np.ndarray, '3 3']:
    """Returns the inverse of zoom, then rotation, then translation, float32."""
    inverse = resampling.inverse_transform((self.x, self.y), self.rotate)
    inverse = np.eye(3) if inverse is None else np.asarray(inverse, np.float64)
    scale = np.diag([1 / self.zoom, 1 / self.zoom, 1.0])
    return (scale @ inverse).astype(np.float32)


class Camera:
  """Poses at given times, and smooth motion between them.

  Between keyframes, values follow monotone cubic curves: they never overshoot,
  and two equal keyframes hold the image still. The logarithm of the zoom is
  interpolated, so that zooming has a constant speed. Before the first keyframe
  and after the last one the image rests.
  """

  def __init__(self, times: Sequence[float], poses: Sequence[Pose]):
    """Makes a camera.

    Args:
      times: Times of the keyframes in seconds, ascending.
      poses: One pose for each time.

    Raises:
      ValueError: If the times are not ascending, or there are none.
    """
    if not times or len(times) != len(poses):
      raise ValueError('a camera must have at least one keyframe, got 0')
    for before, after in itertools.pairwise(times):
      if not before < after:
        raise ValueError(
          'times of keyframes must be ascending, got '
          f'{before:g} before {after:g}'
        )
    self.times = np.array(times, np.float64)
    self._values = np.array(
      [[pose.x, pose.y, pose.rotate, math.log(pose.zoom)] for pose in poses]
    )

  def inverse_transforms(
    self, times: Float[np.ndarray, ' f']
  ) -> Float[np.ndarray, 'f 3 3']:
    """Returns the inverse transform at each time in seconds, float32."""
    values = np.repeat(self._values[:1], len(times), axis=0)
    if len(self.times) > 1:
      curve = interpolate.PchipInterpolator(self.times, self._values)
      values = curve(np.clip(times, self.times[0], self.times[-1]))
    return np.stack(
      [
        Pose(*map(float, row[:3]), zoom=float(math.exp(row[3]))).inverse()
        for row in values
      ]
    )


def read_camera(path: str | pathlib.Path) -> Camera:
  """Reads the path of a camera from a text or a JSON file.

  A line of text has up to five numbers: the time in seconds, x, y, the rotation
  and the zoom. Missing ones are those of a resting image, and `#` begins a
  comment. A JSON file, whose suffix is `.json`, has a list of objects such as
  `{"time": 2, "translate": [0.1, 0], "rotate": 15, "zoom": 1.5}`.

  Raises:
    ValueError: If the file is malformed; the message names the keyframe.
    OSError: If the file cannot be read.
  """
  path = files.local_path(path)
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} must be a text file, got binary data') from error
  is_json = path.suffix.lower() == '.json'
  keyframes = _json_keyframes(path, text) if is_json else _lines(text)
  times, poses = [], []
  for place, keyframe in keyframes:
    try:
      time, pose = (_from_json if is_json else _from_line)(keyframe)
    except (TypeError, ValueError) as error:
      raise ValueError(f'{path}, {place}: {error}') from error
    times.append(time)
    poses.append(pose)
  try:
    return Camera(times, poses)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _lines(text: str) -> list[tuple[str, str]]:
  lines = [line.partition('#')[0].strip() for line in text.splitlines()]
  return [(f'line {i}', line) for i, line in enumerate(lines, 1) if line]


def _json_keyframes(path: pathlib.Path, text: str) -> list[tuple[str, Any]]:
  try:
    keyframes = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} must be a JSON file: {error}') from error
  if not isinstance(keyframes, list):
    raise ValueError(f'{path} must contain a list of keyframes')
  return [(f'keyframe {i}', item) for i, item in enumerate(keyframes)]


def _from_line(line: str) -> tuple[float, Pose]:
  try:
    time, *values = (float(word) for word in line.replace(',', ' ').split())
  except ValueError as error:
    raise ValueError(
      f'a keyframe must be numbers, TIME X Y ROTATE ZOOM, got {line!r}'
    ) from error
  if len(values) > len(_COLUMNS):
    raise ValueError(f'a keyframe must have at most 5 numbers, got {line!r}')
  return _time(time), Pose(**dict(zip(_COLUMNS, values, strict=False)))


def _from_json(item: Any) -> tuple[float, Pose]:
  known = ('time', 'translate', 'rotate', 'zoom')
  if not isinstance(item, Mapping) or not set(item) <= set(known):
    raise ValueError(
      f'a keyframe must be an object with {", ".join(known)}, got {item!r}'
    )
  translate = item.get('translate', (0, 0))
  if not isinstance(translate, Sequence) or len(translate) != 2:
    raise ValueError(f'translate must be two numbers, got {translate!r}')
  values = [*translate, item.get('rotate', 0), item.get('zoom', 1)]
  for value in (*values, item.get('time')):
    if not isinstance(value, int | float) or isinstance(value, bool):
      raise ValueError(f'the values of a keyframe must be numbers, got {item}')
  return _time(float(item['time'])), Pose(*map(float, values))


def _time(seconds: float) -> float:
  if not 0 <= seconds < math.inf:
    raise ValueError(f'time must be at least 0 seconds, got {seconds:g}')
  return seconds
