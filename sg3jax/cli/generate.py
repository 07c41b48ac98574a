r"""Generates images with a trained model: single ones, and sheets of several.

    sg3jax generate --network=runs/quickstart --seeds=0,1,4-6 --outdir=out
    sg3jax generate --network=runs/quickstart --seeds=2 --outdir=out \
      --trunc=0.7 --translate=0.3,0 --rotate=15
    sg3jax generate --network=runs/animals --seeds=0-7 --outdir=cats \
      --class=cat --trunc=0.7 --truncation_towards=class
    sg3jax generate --network=runs/quickstart --seeds=0-11 --grid=4x3 \
      --outdir=sheet
    sg3jax generate --network=runs/quickstart --seeds=0-3 --trunc=0.3,0.7,1 \
      --outdir=rows
    sg3jax generate --network=runs/quickstart --seeds=0-3 --mix=10-14 \
      --layers=0-6 --outdir=mixed
    sg3jax generate --network=runs/quickstart --seeds=0-7 --outdir=smiling \
      --directions=edits --direction=smile:2.5

By default there is one file per seed. `--grid` writes `grid.png`, `--mix`
writes `mix.png`, and several values of `--trunc` make each file a row of
images. An existing file is an error unless `--overwrite` is given.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags

from sg3jax import files, text
from sg3jax import model as model_lib
from sg3jax.cli import common, image_flags
from sg3jax.render import activations, camera, frames, pictures, styles

flags.declare_key_flag('network')
flags.declare_key_flag('compilation_cache')
flags.declare_key_flag('outdir')
flags.declare_key_flag('precision')
flags.declare_key_flag('batch')
flags.adopt_module_key_flags(image_flags)
_FORMAT = flags.DEFINE_enum(
  'format', 'png', list(pictures.FORMATS), 'Format of the pictures.'
)
_MIX = flags.DEFINE_string(
  'mix',
  None,
  'Seeds of the columns of a sheet; its rows are those of --seeds, and each '
  'image takes --layers of its styles from its column.',
)
_LAYERS = flags.DEFINE_string(
  'layers',
  '0-6',
  'Styles that --mix takes from the columns: 0-6 are the coarse ones of a '
  'generator with 16, and 7- the fine ones.',
)
_ACTIVATIONS = flags.DEFINE_list(
  'activations',
  [],
  'Layers, such as L5,L8, or input, whose features and spectra to write too.',
)


@dataclasses.dataclass(frozen=True)
class _Sheets:
  """Pictures of one or several images each.

  Attributes:
    names: Name of each picture, without suffix.
    size: Columns and rows of images in a picture.
    source: Maps (first, stop) to the styles of these images.
    noise_seeds: Seeds of the random noise of all images; None for indices.
    has_corner: Whether the first image of a picture is left empty.
  """

  names: list[str]
  size: tuple[int, int]
  source: Callable[[int, int], np.ndarray]
  noise_seeds: list[int] | None = None
  has_corner: bool = False

  @property
  def count(self) -> int:
    """Number of images in all pictures."""
    return len(self.names) * self.size[0] * self.size[1]


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and generates the images."""
  common.run(_generate, argv)


def _generate() -> None:
  network = common.require(common.NETWORK)
  seeds = _parse_seeds()
  pose = image_flags.parse_pose()
  outdir = pathlib.Path(common.require(common.OUTDIR))
  files.check_folder(outdir)
  if seeds is not None:
    _check_modes(len(seeds))
    _check_paths(outdir, _names(seeds))
  model = image_flags.load_model(network)
  activations.check_names(model, _ACTIVATIONS.value)
  sheets = _make_sheets(model, seeds)
  if seeds is None:
    _check_paths(outdir, sheets.names)
  _render(model, sheets, pose, outdir)
  _write_activations(model, sheets, pose, outdir)
  if image_flags.SAVE_W.value:
    styles.save(image_flags.SAVE_W.value, sheets.source(0, sheets.count))
    print(image_flags.SAVE_W.value, flush=True)


def _render(
  model: model_lib.Model,
  sheets: _Sheets,
  pose: camera.Pose,
  outdir: pathlib.Path,
) -> None:
  """Renders and writes the pictures, and prints their names."""
  for name, images in zip(
    sheets.names, _images(model, sheets, pose), strict=True
  ):
    path = _picture_path(outdir, name)
    sheet = pictures.sheet(images, sheets.size, image_flags.BACKGROUND.value)
    with files.naming_errors(path):
      pictures.save(sheet, path, command=image_flags.command_line())
    print(path, flush=True)


def _images(
  model: model_lib.Model, sheets: _Sheets, pose: camera.Pose
) -> Iterator[np.ndarray]:
  """Yields the images of each picture; announces the compilation."""
  transform = None if pose == camera.Pose() else pose.inverse()
  synthesize, _ = frames.make_synthesis(
    model,
    extent=image_flags.EXTENT.value,
    noise_mode=image_flags.NOISE_MODE.value,
    transforms=transform is not None,
  )
  size = min(image_flags.batch_size(model), sheets.count)
  images = frames.render_stills(
    text.announce_first_call(
      synthesize,
      common.say,
      f'the generator, for {text.counted(size, "image")} at a time',
    ),
    sheets.source,
    sheets.count,
    transform,
    batch_size=size,
    noise_seeds=sheets.noise_seeds,
  )
  for _ in sheets.names:
    group = np.stack([next(images) for _ in range(np.prod(sheets.size))])
    if sheets.has_corner:
      group[0] = 1  # White, and opaque.
    yield group


def _write_activations(
  model: model_lib.Model,
  sheets: _Sheets,
  pose: camera.Pose,
  outdir: pathlib.Path,
) -> None:
  """Writes the features of the layers that the flag names."""
  layers = _ACTIVATIONS.value
  if not layers:
    return
  transform = None if pose == camera.Pose() else pose.inverse()
  for i, name in enumerate(sheets.names):
    ws = sheets.source(i, i + 1)
    for found in activations.compute(model, ws, layers, transform):
      for layer, features in found.items():
        written = activations.save(features, outdir, f'{name}-{layer}')
        print(*written, sep='\n', flush=True)


def _make_sheets(model: model_lib.Model, seeds: list[int] | None) -> _Sheets:
  """Returns the pictures that the flags ask for."""
  if seeds is None:
    return _sheets_of_file(model)
  label = image_flags.announced_label(model)
  options = {
    'truncation_cutoff': image_flags.CUTOFF.value,
    'truncation_towards': image_flags.TOWARDS.value,
  }
  psis = image_flags.TRUNC.value

  def of_seeds(chosen: list[int], psi: float) -> np.ndarray:
    return styles.of_seeds(model, chosen, label, truncation_psi=psi, **options)

  if _MIX.value is not None:
    columns = image_flags.parse_seeds(_MIX.value, 'mix')
    return _mixing_sheet(
      of_seeds(seeds, psis[0]),
      of_seeds(columns, psis[0]),
      parse_layers(_LAYERS.value, model.num_ws),
    )

  def source(first: int, stop: int) -> np.ndarray:
    # Each seed has one image for each psi.
    start = first // len(psis)
    chosen = seeds[start : -(-stop // len(psis))]
    ws = np.stack([of_seeds(chosen, psi) for psi in psis], axis=1)
    offset = start * len(psis)
    return ws.reshape(-1, *ws.shape[2:])[first - offset : stop - offset]

  size = image_flags.GRID.value or (len(psis), 1)
  return _Sheets(
    _names(seeds), size, source, np.repeat(seeds, len(psis)).tolist()
  )


def _sheets_of_file(model: model_lib.Model) -> _Sheets:
  """Returns the pictures of the styles in a file."""
  ws = image_flags.read_styles(model)
  _check_modes(len(ws))
  names = (
    ['grid']
    if image_flags.GRID.value
    else [f'w{i:04d}' for i in range(len(ws))]
  )
  size = image_flags.GRID.value or (1, 1)
  return _Sheets(names, size, lambda first, stop: ws[first:stop])


def _mixing_sheet(
  rows: np.ndarray, columns: np.ndarray, layers: list[int]
) -> _Sheets:
  """Returns a sheet with the originals above and on the left."""
  mixed = styles.mix(rows, columns, layers)
  # The corner has styles of its own, which are not shown.
  body = np.concatenate([rows[:, None], mixed], axis=1)
  ws = np.concatenate([columns[:1], columns, body.reshape(-1, *rows.shape[1:])])
  size = (len(columns) + 1, len(rows) + 1)
  return _Sheets(
    ['mix'], size, lambda first, stop: ws[first:stop], has_corner=True
  )


def parse_layers(text: str, num_ws: int) -> list[int]:
  """Returns the indices of styles in a list such as `0-6`, `3,5` or `7-`.

  Args:
    text: The list. A range without end reaches to the last style.
    num_ws: Number of styles of the generator.

  Raises:
    ValueError: If the list is malformed, or the generator has fewer styles.
  """
  layers = []
  for part in text.split(','):
    match = re.fullmatch(r'\s*(\d{1,4})(-(\d{1,4})?)?\s*', part)
    if not match:
      raise ValueError(
        f'--layers must be numbers and ranges, got {part!r} in {text}: write '
        '--layers=0-6 or --layers=7-, for example'
      )
    first = int(match[1])
    last = int(match[3]) if match[3] else num_ws - 1 if match[2] else first
    if not first <= last < num_ws:
      raise ValueError(
        f'--layers must be ascending and within 0 to {num_ws - 1}, the styles '
        f'of this generator, got {part!r} in {text}'
      )
    layers.extend(range(first, last + 1))
  return layers


def _parse_seeds() -> list[int] | None:
  """Returns the seeds, or None if the styles are those of a file.

  Raises:
    ValueError: If the flags contradict each other.
  """
  if not image_flags.LOAD_W.value:
    return image_flags.parse_seeds(common.require(image_flags.SEEDS))
  image_flags.check_load_w(_MIX, image_flags.CLASS, image_flags.LABEL)
  return None


def _check_modes(count: int) -> None:
  """Checks that the flags fit each other and the number of seeds or styles.

  Raises:
    ValueError: If they do not.
  """
  grid, is_row = image_flags.GRID.value, len(image_flags.TRUNC.value) > 1
  modes = {
    '--grid': bool(grid),
    '--mix': _MIX.value is not None,
    'several values of --trunc': is_row,
  }
  chosen = [name for name, is_chosen in modes.items() if is_chosen]
  if len(chosen) > 1:
    raise ValueError(f'{chosen[0]} cannot be combined with {chosen[1]}')
  if chosen and _ACTIVATIONS.value:
    raise ValueError(f'--activations cannot be combined with {chosen[0]}')
  if grid and count != grid[0] * grid[1]:
    raise ValueError(
      f'--grid={grid[0]}x{grid[1]} must be given {grid[0] * grid[1]} seeds or '
      f'styles, got {count}'
    )
  if _MIX.value is not None:
    image_flags.parse_seeds(_MIX.value, 'mix')


def _names(seeds: list[int]) -> list[str]:
  """Returns the name of each picture."""
  if image_flags.GRID.value:
    return ['grid']
  return ['mix'] if _MIX.value else [f'seed{seed:04d}' for seed in seeds]


def _check_paths(outdir: pathlib.Path, names: list[str]) -> None:
  """Raises OSError if a file is in the way."""
  for name in names:
    image_flags.check_output(_picture_path(outdir, name), 'outdir')
    for layer in _ACTIVATIONS.value:
      for path in activations.paths(outdir, f'{name}-{layer}'):
        image_flags.check_output(path, 'outdir')
  image_flags.check_save_w()


def _picture_path(outdir: pathlib.Path, name: str) -> pathlib.Path:
  return outdir / f'{name}.{_FORMAT.value}'
