r"""Renders videos of a trained model: walks through its images, camera moves.

    sg3jax video --network=runs/quickstart --seeds=0-3 --output=walk.mp4
    sg3jax video --network=runs/quickstart --seeds=0-15 --grid=4x2 \
      --w_frames=60 --trunc=0.7 --anchor --output=grid.mp4
    sg3jax video --network=runs/quickstart --seeds=5 --walk=circle \
      --radius=0.3 --output=circle.webp
    sg3jax video --network=runs/t --beside=runs/r --seeds=1 --w_frames=240 \
      --camera=path.txt --output=side-by-side.mp4

Styles are interpolated between the seeds of the keyframes. `--output` is an
.mp4, .webp or .gif file, which needs `pip install 'sg3jax[video]'`; `--frames`
is a folder for PNG files.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
from absl import flags

from sg3jax import files, text
from sg3jax import model as model_lib
from sg3jax.cli import common, image_flags
from sg3jax.render import camera, frames, styles, video

flags.declare_key_flag('network')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('output')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
flags.adopt_module_key_flags(image_flags)
_BESIDE = flags.DEFINE(
  common.PATH,
  'beside',
  None,
  'A second model, shown on the right with the same seeds and camera.',
)
_FRAMES = flags.DEFINE(
  common.PATH, 'frames', None, 'A new folder for the frames as PNG files.'
)
_FPS = flags.DEFINE_float('fps', 60.0, 'Frames per second.')
_BITRATE = flags.DEFINE_string(
  'bitrate', '12M', 'Target bits per second of .mp4 files.'
)
_W_FRAMES = flags.DEFINE_integer(
  'w_frames', 120, 'Frames from one keyframe to the next.', lower_bound=1
)
flags.DEFINE_alias('w-frames', 'w_frames')
_NUM_KEYFRAMES = flags.DEFINE_integer(
  'num_keyframes',
  None,
  'Keyframes of each image of the grid, for which the seeds are repeated or '
  'cut as needed; by default, the seeds are divided among the images. For '
  '--walk, the number of its points, 6 by default.',
  lower_bound=1,
)
flags.DEFINE_alias('num-keyframes', 'num_keyframes')
_SHUFFLE_SEED = flags.DEFINE_integer(
  'shuffle_seed',
  None,
  'Random seed with which to shuffle the seeds.',
  lower_bound=0,
  upper_bound=2**32 - 1,
)
flags.DEFINE_alias('shuffle-seed', 'shuffle_seed')
_INTERPOLATION = flags.DEFINE_enum(
  'interpolation', 'cubic', list(styles.KINDS), 'Curve through the keyframes.'
)
_LOOP = flags.DEFINE_bool('loop', True, 'Return to the first keyframe.')
_WALK = flags.DEFINE_enum(
  'walk',
  None,
  ['circle', 'random'],
  'Move in a small circle, or at random, around the style of each seed.',
)
_RADIUS = flags.DEFINE_float(
  'radius',
  0.2,
  'Size of --walk; 1 leads as far away as other images are.',
  lower_bound=0.0,
  upper_bound=model_lib.MAX_PSI,
)
_WALK_SEED = flags.DEFINE_integer(
  'walk_seed',
  0,
  'Random seed of the directions of --walk.',
  lower_bound=0,
  upper_bound=2**32 - 1,
)
_CAMERA = flags.DEFINE(
  common.PATH,
  'camera',
  None,
  'A text file with lines TIME X Y ROTATE ZOOM, or a .json file: see '
  'docs/videos.md.',
)
_ANCHOR = flags.DEFINE_bool(
  'anchor',
  False,
  'Hold the camera still: use the learned transform of the mean style for all '
  'images.',
)

# Points of a walk, by default.
_WALK_POINTS = 6


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and renders the video."""
  common.run(_video, argv)


def _video() -> None:
  networks = [common.require(common.NETWORK)]
  if _BESIDE.value:
    networks.append(_BESIDE.value)
  _check_flags()
  seeds = _parse_seeds()
  pose = _parse_pose()
  path = camera.read_camera(_CAMERA.value) if _CAMERA.value else None
  bitrate = video.parse_bitrate(_BITRATE.value)
  models = [image_flags.load_model(network) for network in networks]
  made = [_make_synthesis(model, pose, path) for model in models]
  _check_outputs([shape for _, shape in made])
  paths = [_make_path(m, seeds, m is models[0]) for m in models]
  times = paths[0].frame_times(_W_FRAMES.value)
  transforms = _transforms(pose, path, len(times))
  videos = [
    frames.render(
      synthesize,
      style_path,
      times,
      transforms,
      grid=_grid(),
      batch_size=image_flags.batch_size(model),
      background=image_flags.BACKGROUND.value or 'checkerboard',
    )
    for (synthesize, _), style_path, model in zip(
      made, paths, models, strict=True
    )
  ]
  _write(frames.side_by_side(videos), len(times), bitrate)


def _write(images: Iterator[np.ndarray], count: int, bitrate: int) -> None:
  """Writes the frames, and prints what was written."""
  images = _with_progress(images, count)
  if _FRAMES.value:
    images = video.save_frames(images, _FRAMES.value)
  if common.OUTPUT.value:
    video.write(
      images,
      common.OUTPUT.value,
      fps=_FPS.value,
      bitrate=bitrate,
      comment=image_flags.command_line(),
      overwrite=image_flags.OVERWRITE.value,
    )
    print(common.OUTPUT.value, flush=True)
  else:
    for _ in images:
      pass
  if _FRAMES.value:
    print(_FRAMES.value, flush=True)


def _with_progress(
  images: Iterator[np.ndarray], count: int
) -> Iterator[np.ndarray]:
  """Yields frames, and shows a progress bar on a terminal."""
  from rich import console, progress  # Slow to import.

  yield from progress.track(
    images,
    description='Frames',
    total=count,
    console=console.Console(stderr=True),
    transient=True,
    disable=not console.Console(stderr=True).is_terminal,
  )


def _check_flags() -> None:
  """Checks what needs no model.

  Raises:
    ValueError: If flags contradict each other.
    OSError: If a file is in the way.
  """
  if not (common.OUTPUT.value or _FRAMES.value):
    raise ValueError(
      '--output or --frames is required: --help lists the options'
    )
  if _WALK.value and not _LOOP.value:
    raise ValueError('--noloop cannot be given with --walk, which is a loop')
  if image_flags.NOISE_MODE.value == 'random':
    raise ValueError(
      '--noise_mode must be const or none for a video, got random, which would '
      'flicker'
    )
  if _FRAMES.value:
    video.check_frames_folder(_FRAMES.value)
  if common.OUTPUT.value:
    image_flags.check_output(pathlib.Path(common.OUTPUT.value), 'output')
    # The size is checked when it is known; this one is good in any format.
    video.check(common.OUTPUT.value, (16, 16), _FPS.value, overwrite=True)
  image_flags.check_save_w()
  if not _FPS.value > 0:
    raise ValueError(f'--fps must be above 0, got {_FPS.value:g}')


def _check_outputs(shapes: list[tuple[int, int, int]]) -> None:
  """Checks the size of the frames, now that it is known.

  Raises:
    ValueError: If the models have images of different sizes, or the format does
      not support the size.
  """
  if len({shape[:2] for shape in shapes}) > 1:
    raise ValueError(
      'the models of --network and --beside must have images of one size, got '
      f'{" and ".join(str(shape[0]) for shape in shapes)} pixels'
    )
  columns, rows = _grid()
  size = (sum(shape[1] for shape in shapes) * columns, shapes[0][0] * rows)
  if common.OUTPUT.value:
    video.check(
      common.OUTPUT.value,
      size,
      _FPS.value,
      overwrite=image_flags.OVERWRITE.value,
    )


def _make_synthesis(
  model: model_lib.Model, pose: camera.Pose, path: camera.Camera | None
) -> tuple[frames.Synthesize, tuple[int, int, int]]:
  """Returns the synthesis of a model, and the shape of its images."""
  is_moving = path is not None or pose != camera.Pose()
  if _ANCHOR.value and not model.generator.spec.takes_transforms:
    raise ValueError(
      '--anchor must be false for StyleGAN2, which has no learned transform'
    )
  synthesize, shape = frames.make_synthesis(
    model,
    extent=image_flags.EXTENT.value,
    noise_mode=image_flags.NOISE_MODE.value,
    transforms=is_moving,
  )
  size = image_flags.batch_size(model)
  announced = text.announce_first_call(
    synthesize,
    common.say,
    f'the generator, for {text.counted(size, "image")} at a time',
  )
  return announced, shape


def _make_path(
  model: model_lib.Model, seeds: list[int] | None, is_first: bool
) -> styles.StylePath:
  """Returns the styles over time that the flags specify.

  Those of the keyframes of the first model are written to --save_w.
  """
  if seeds is None:
    ws = image_flags.read_styles(model)
    table = _assign(list(range(len(ws))))
    keyframes = np.moveaxis(ws[table.reshape(-1, table.shape[-1])], 1, 0)
    labels = _labels(model, 1) if _WALK.value else []
  else:
    table = _assign(seeds)
    count = table.shape[-1]
    labels = _labels(model, count)
    keyframes = styles.of_keyframes(
      model,
      table,
      labels,
      _per_keyframe('trunc', image_flags.TRUNC.value, count),
      truncation_cutoff=image_flags.CUTOFF.value,
      truncation_towards=image_flags.TOWARDS.value,
    )
  if image_flags.SAVE_W.value and is_first:
    of_cells = np.moveaxis(keyframes, 0, 1)
    styles.save(
      image_flags.SAVE_W.value, of_cells.reshape(-1, *of_cells.shape[2:])
    )
  mean = styles.mean_style(model)
  if _ANCHOR.value:
    keyframes = styles.anchor(keyframes, mean)
  if not _WALK.value:
    return styles.spline_path(keyframes, _INTERPOLATION.value, loop=_LOOP.value)
  offsets = styles.random_offsets(
    model,
    _NUM_KEYFRAMES.value or _WALK_POINTS,
    keyframes.shape[1],
    _WALK_SEED.value,
    labels[0],
  )
  if _ANCHOR.value:
    offsets = styles.anchor(offsets, np.zeros_like(mean))
  make = styles.circle_path if _WALK.value == 'circle' else styles.walk_path
  return make(keyframes[0], offsets, _RADIUS.value)


def _assign(seeds: list[int]) -> np.ndarray:
  """Returns the seeds, or indices, of the keyframes of each cell.

  Raises:
    ValueError: If they cannot be divided among the images of the grid.
  """
  columns, rows = _grid()
  if _WALK.value and len(seeds) != columns * rows:
    raise ValueError(
      f'--walk must be given {columns * rows} seeds or styles, one for each '
      f'image of the grid, got {len(seeds)}'
    )
  return styles.keyframe_seeds(
    seeds,
    _grid(),
    num_keyframes=1 if _WALK.value else _NUM_KEYFRAMES.value,
    shuffle_seed=_SHUFFLE_SEED.value,
  )


def _labels(model: model_lib.Model, count: int) -> list[np.ndarray | None]:
  """Returns the label of each keyframe."""
  chosen = image_flags.CLASS.value
  if chosen is None or chosen in (model.class_names or ()):
    return [image_flags.announced_label(model)] * count
  classes = _per_keyframe('class', chosen.split(','), count)
  known = {
    name: image_flags.announced_label(model, name)
    for name in dict.fromkeys(classes)
  }
  return [known[name] for name in classes]


def _per_keyframe(flag: str, values: list, count: int) -> list:
  """Returns one value for each keyframe.

  Raises:
    ValueError: If the flag has neither one value nor one for each.
  """
  if len(values) not in (1, count):
    raise ValueError(
      f'--{flag} must have one value, or one for each of the {count} '
      f'keyframes, got {len(values)}'
    )
  return values * count if len(values) == 1 else values


def _parse_seeds() -> list[int] | None:
  """Returns the seeds, or None if the styles are those of a file.

  Raises:
    ValueError: If the flags contradict each other, or the seeds cannot be
      divided among the images of the grid.
  """
  if image_flags.LOAD_W.value:
    image_flags.check_load_w()
    files.local_path(image_flags.LOAD_W.value).stat()  # It must exist.
    return None
  seeds = image_flags.parse_seeds(common.require(image_flags.SEEDS))
  _assign(seeds)
  return seeds


def _parse_pose() -> camera.Pose:
  pose = image_flags.parse_pose()
  if _CAMERA.value and pose != camera.Pose():
    raise ValueError(
      '--translate, --rotate and --zoom cannot be given with --camera: put '
      'them into the file'
    )
  return pose


def _transforms(
  pose: camera.Pose, path: camera.Camera | None, count: int
) -> np.ndarray | None:
  """Returns the inverse transform of each frame; None if nothing moves."""
  if path is not None:
    return path.inverse_transforms(np.arange(count) / _FPS.value)
  if pose == camera.Pose():
    return None
  return np.tile(pose.inverse(), (count, 1, 1))


def _grid() -> tuple[int, int]:
  return image_flags.GRID.value or (1, 1)
