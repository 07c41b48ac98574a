"""Flags that choose images, shared by `generate` and `video`."""

import math
import os
import pathlib
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float

from sg3jax import editing, files
from sg3jax import model as model_lib
from sg3jax.cli import common, direction_flags
from sg3jax.data import labels as labels_lib
from sg3jax.data import report
from sg3jax.editing import ws as ws_lib
from sg3jax.eval import batches
from sg3jax.nets import wide_spec
from sg3jax.render import camera, pictures
from sg3jax.train import memory_estimate, sharding

flags.declare_key_flag('directions')
flags.declare_key_flag('direction')

_MAX_SEEDS = 1_000_000

# Images per batch if the memory of the device is unknown, and most images per
# batch with --extent.
_DEFAULT_BATCH = 8


class _Parser(flags.ArgumentParser):
  """Parses a flag's text with a function that raises ValueError."""

  def __init__(self, parse: Callable[[str], Any]):
    super().__init__()
    self._parse = parse

  def parse(self, argument: Any) -> Any:
    """Returns the value; a value that is no text is one already."""
    return self._parse(argument) if isinstance(argument, str) else argument


def _parse_grid(text: str) -> tuple[int, int]:
  match = re.fullmatch(r'(\d{1,4})[x,](\d{1,4})', text)
  size = (int(match[1]), int(match[2])) if match else (0, 0)
  if not min(size):
    raise ValueError(
      'must be COLUMNSxROWS, at least 1x1, such as 4x2, got ' + repr(text)
    )
  return size


def _parse_psis(text: str) -> list[float]:
  try:
    values = [float(part) for part in text.split(',')]
  except ValueError:
    values = [math.nan]
  if not all(abs(value) <= model_lib.MAX_PSI for value in values):
    raise ValueError(
      f'must be numbers within +-{model_lib.MAX_PSI}, such as 0.7 or 0.5,1, '
      f'got {text!r}'
    )
  return values


SEEDS = flags.DEFINE_string(
  'seeds', None, 'Seeds of the images, such as 0,1,4-6.'
)
GRID = flags.DEFINE(
  _Parser(_parse_grid),
  'grid',
  None,
  'Columns and rows of images that are shown together, such as 4x2.',
)
TRUNC = flags.DEFINE(
  _Parser(_parse_psis),
  'trunc',
  '1',
  'Truncation psi: 1 for no truncation, 0 for the mean image. generate shows '
  'several as a row of images; for video, they are those of the keyframes.',
)
CUTOFF = flags.DEFINE_integer(
  'trunc_cutoff',
  None,
  'Number of styles to truncate, from the first; all by default.',
  lower_bound=0,
)
TOWARDS = flags.DEFINE_enum(
  'truncation_towards',
  'global',
  model_lib.TRUNCATION_CENTERS,
  'The mean to truncate towards: of all images, or of the class.',
)
CLASS = flags.DEFINE_string(
  'class',
  None,
  'Class for a conditional model: its index or its name. For video, several '
  'separated by commas are those of the keyframes.',
)
LABEL = flags.DEFINE_list(
  'label', None, 'Label for a model with vector labels: numbers X,Y,...'
)
NOISE_MODE = flags.DEFINE_enum(
  'noise_mode',
  'const',
  ['const', 'random', 'none'],
  'Noise inputs of StyleGAN2: the stored ones, new ones, or none.',
)
flags.DEFINE_alias('noise-mode', 'noise_mode')
TRANSLATE = flags.DEFINE_list(
  'translate', ['0', '0'], 'Translation X,Y in units of the image width.'
)
ROTATE = flags.DEFINE_float('rotate', 0.0, 'Rotation in degrees.')
ZOOM = flags.DEFINE_float(
  'zoom',
  1.0,
  'Magnification of the input of the network about its centre.',
)
EXTENT = flags.DEFINE_float(
  'extent',
  1.0,
  'Width of the images in widths of the canvas; above 1, what lies around the '
  'canvas is shown, and images have more pixels.',
)
BACKGROUND = flags.DEFINE_enum(
  'background',
  None,
  list(pictures.BACKGROUNDS),
  'Behind the images of a model with transparency; by default, pictures stay '
  'transparent, and videos have a checkerboard.',
)
LOAD_W = flags.DEFINE(
  common.PATH,
  'load_w',
  None,
  'An .npz file with styles under the key w, [n, num_ws, w_dim] or [num_ws, '
  'w_dim], to show instead of those of seeds.',
)
flags.DEFINE_alias('load-w', 'load_w')
SAVE_W = flags.DEFINE(
  common.PATH,
  'save_w',
  None,
  'An .npz file to write the styles to, under the key w.',
)
flags.DEFINE_alias('save-w', 'save_w')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Replace existing files.')


def parse_seeds(text: str, flag: str = 'seeds') -> list[int]:
  """Returns the seeds in a list such as `0,1,4-6`.

  Args:
    text: The list.
    flag: Name of the flag, for messages.

  Raises:
    ValueError: If the list is malformed or a seed is out of range.
  """
  seeds = []
  for part in text.split(','):
    match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
    if not match:
      raise ValueError(
        f'--{flag} must be numbers and ranges, got {part!r} in {text}: write '
        f'--{flag}=0,1,4-6, for example'
      )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
      raise ValueError(
        f'--{flag} must have ascending ranges, got {part!r} in {text}: write '
        f'{last}-{first}'
      )
    if last >= 2**32 or last - first >= _MAX_SEEDS:
      raise ValueError(
        f'--{flag} must be below 2^32, with at most {_MAX_SEEDS:,} seeds per '
        f'range, got {part!r} in {text}'
      )
    seeds.extend(range(first, last + 1))
  return seeds


def parse_pose() -> camera.Pose:
  """Returns the position of the images that the flags specify.

  Raises:
    ValueError: If --translate is not two numbers, or a value is out of range.
  """
  translate = TRANSLATE.value
  try:
    x, y = (float(value) for value in translate)
  except ValueError as error:
    raise ValueError(
      '--translate must be two numbers X,Y in units of the image width, got '
      f'{",".join(translate)}'
    ) from error
  return camera.Pose(x, y, ROTATE.value, ZOOM.value)


def make_label(
  chosen: str | None,
  numbers: Sequence[str] | None,
  label_dim: int,
  class_names: Sequence[str] | None = None,
) -> Float[np.ndarray, ' classes'] | None:
  """Returns the label that the flags specify; None for unconditional networks.

  Args:
    chosen: A class, given by its index or its name. A number is always an
      index, even if it is also the name of a class.
    numbers: The features of a label, as an alternative to `chosen`.
    label_dim: Number of features of the network's labels.
    class_names: Names of the classes, if known.

  Raises:
    ValueError: If a label is missing or out of range, or the network takes
      none.
  """
  if not label_dim:
    for flag, value in (('class', chosen), ('label', numbers)):
      if value is not None:
        raise ValueError(f'--{flag} was given, but the network takes no labels')
    return None
  if numbers is None:
    index = _find_class(chosen, label_dim, class_names or ())
    return labels_lib.one_hot(index, label_dim)
  try:
    label = np.array([float(x) for x in numbers], np.float32)
  except ValueError:
    label = np.zeros(0, np.float32)
  is_whole = label.shape == (label_dim,) and np.all(np.isfinite(label))
  if chosen is not None or not is_whole:
    raise ValueError(
      f'--label must be {label_dim} finite numbers X,Y,..., with no --class, '
      f'got {",".join(numbers)}'
    )
  return label


def _find_class(
  chosen: str | None, label_dim: int, class_names: Sequence[str]
) -> int:
  """Returns the index of a class that is given by index or name.

  Raises:
    ValueError: If there is no such class; the message lists the valid ones.
  """
  if chosen is not None:
    is_index = chosen.isascii() and chosen.isdecimal()
    if is_index and len(chosen) < 10 and int(chosen) < label_dim:
      return int(chosen)
    if not is_index and chosen in class_names:
      return class_names.index(chosen)
  given = '' if chosen is None else f', and has no class --class={chosen}'
  named = f' (or its name: {report.examples(class_names)})'
  raise ValueError(
    f'the network is conditional{given}: pass --class=0 to '
    f'--class={label_dim - 1}{named if class_names else ""}, or --label with '
    f'{label_dim} numbers'
  )


def announced_label(
  model: model_lib.Model, chosen: str | None = None
) -> Float[np.ndarray, ' classes'] | None:
  """Returns the label that the flags specify, and prints its class name.

  Args:
    model: The model.
    chosen: The class; that of the flag by default.
  """
  names = model.class_names
  chosen = CLASS.value if chosen is None else chosen
  label = make_label(chosen, LABEL.value, model.label_dim, names)
  if label is not None and names and LABEL.value is None:
    index = int(label.argmax())
    common.say(f'{"Class:":15} {index} {report.printable(names[index])}')
  return label


def class_label(
  model: model_lib.Model,
) -> Float[np.ndarray, ' classes'] | None:
  """Returns the label of --class; None for a model without labels.

  Raises:
    ValueError: If the class is missing or unknown.
  """
  if not model.label_dim:
    return None
  return make_label(CLASS.value, None, model.label_dim, model.class_names)


def batch_size(model: model_lib.Model) -> int:
  """Returns the number of images per batch: the flag, or as many as fit.

  Raises:
    ValueError: If an image with --extent is larger than the memory. Systems may
      end a process that uses more than there is without a message.
  """
  memory = memory_estimate.device_memory(sharding.make_mesh(1))
  if EXTENT.value == 1:
    return common.BATCH.value or batches.fitting_batch(
      model.generator, memory, default=_DEFAULT_BATCH
    )
  generator = wide_spec.widen(model.generator, EXTENT.value)
  memory = memory or os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  needed = batches.bytes_per_image(generator)
  if needed > memory:
    raise ValueError(
      f'--extent must be smaller than {EXTENT.value:g}: an image of '
      f'{generator.spec.image_shape[0]} pixels needs about '
      f'{needed / 2**30:.3g} GiB of memory, but there are {memory / 2**30:.3g}'
    )
  fitting = batches.fitting_batch(generator, memory, default=_DEFAULT_BATCH)
  return common.BATCH.value or min(fitting, _DEFAULT_BATCH)


def check_output(path: pathlib.Path, flag: str) -> None:
  """Checks that a file may be written.

  Args:
    path: The file.
    flag: The flag that chooses it, for messages.

  Raises:
    OSError: If it exists without --overwrite, or is a folder.
  """
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a folder: choose another --{flag}')
  if path.exists() and not OVERWRITE.value:
    raise FileExistsError(
      f'{path} exists: pass --overwrite or another --{flag}'
    )


def check_load_w(*others: flags.FlagHolder) -> None:
  """Checks that no flag contradicts --load_w, whose styles are final.

  Args:
    *others: Flags that must not be given, besides --seeds and --trunc.

  Raises:
    ValueError: If one is given.
  """
  for flag in (SEEDS, *others):
    if flag.value is not None:
      raise ValueError(
        f'--{flag.name} cannot be given with --load_w, whose styles are final'
      )
  if TRUNC.value != [1]:
    raise ValueError('--trunc must be 1 with --load_w, whose styles are final')


def read_styles(model: model_lib.Model) -> Float[np.ndarray, 'n l d']:
  """Returns the styles of --load_w, moved along the directions of the model.

  Raises:
    ValueError: If the file does not fit the model.
    OSError: If it cannot be read.
  """
  path = common.require(LOAD_W)
  found = ws_lib.read(path, model.num_ws, model.w_dim)
  for what, is_there in (
    ('transforms', found.transform is not None),
    ('noise inputs', bool(found.noise)),
  ):
    if is_there:
      common.say(f'{"Not applied:":15} the {what} in {path}')
  edits = model.edits if isinstance(model, editing.EditedModel) else ()
  return np.asarray(editing.apply(found.w, edits))


def load_model(network: str) -> model_lib.Model:
  """Loads a model, whose styles move along the directions of the flags.

  Raises:
    ValueError: If a direction is unknown, or for a model of another design.
    OSError: If a file cannot be read.
  """
  edits = direction_flags.read_edits()
  model = model_lib.load_model(network, common.PRECISION.value)
  return direction_flags.edited(model, edits)


def check_save_w() -> None:
  """Checks that --save_w can be written.

  Raises:
    ValueError: If it is not an .npz file.
    OSError: If it exists without --overwrite, or its folder is not writable.
  """
  if not SAVE_W.value:
    return
  path = pathlib.Path(SAVE_W.value)
  if path.suffix != '.npz':
    raise ValueError(f'--save_w must be an .npz file, got {str(path)!r}')
  files.check_folder(path.parent)
  check_output(path, 'save_w')


def command_line() -> str:
  """Returns the command that is running, for the metadata of its results."""
  name, *arguments = common.COMMAND_LINE
  return ' '.join([name, *map(shlex.quote, arguments)])
