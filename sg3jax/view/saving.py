"""Saves what is shown, with the command that makes the same picture."""

import dataclasses
import pathlib
import shlex

from sg3jax import files
from sg3jax.render import pictures
from sg3jax.render import styles as styles_lib
from sg3jax.view import engine as engine_lib
from sg3jax.view import subject, views

_MAX_FILES = 10_000


@dataclasses.dataclass(frozen=True)
class Saved:
  """A picture that was saved.

  Attributes:
    path: The PNG file.
    command: The command that makes the same picture.
  """

  path: pathlib.Path
  command: str


def command(
  one: subject.Subject,
  view: views.View,
  outdir: pathlib.Path,
  *,
  styles: pathlib.Path | None = None,
  directions: str = '',
) -> str:
  """Returns the command that makes the picture of a view.

  Args:
    one: The model.
    view: The view.
    outdir: Folder for the picture that the command makes.
    styles: File with the styles of the view, for a view that is not of a seed.
    directions: Where the directions were read from.

  Raises:
    ValueError: If the view is not of a seed, and there is no file.
  """
  arguments = [f'--network={one.path}']
  if styles is not None:
    arguments.append(f'--load_w={styles}')
  elif view.is_of_seed:
    arguments += _seed_arguments(one, view)
  else:
    raise ValueError('styles must be a file, because the view is of no seed')
  if one.has_noise and view.noise != 'const':
    arguments.append(f'--noise_mode={view.noise}')
  if one.moves:
    arguments += _pose_arguments(view)
  if edits := one.edits(view):
    arguments.append(f'--directions={directions}')
    arguments += [f'--direction={d.name}:{strength}' for d, strength in edits]
  if one.model.precision != 'fp32':
    arguments.append(f'--precision={one.model.precision}')
  arguments.append(f'--outdir={outdir}')
  return ' '.join(['sg3jax generate', *map(shlex.quote, arguments)])


def _seed_arguments(one: subject.Subject, view: views.View) -> list[str]:
  arguments = [f'--seeds={view.seed}']
  if one.model.label_dim:
    arguments.append(f'--class={view.label}')
  if view.psi != 1:
    arguments.append(f'--trunc={view.psi}')
  if one.towards(view) != 'global':
    arguments.append(f'--truncation_towards={view.towards}')
  return arguments


def _pose_arguments(view: views.View) -> list[str]:
  arguments = []
  if view.x or view.y:
    arguments.append(f'--translate={view.x},{view.y}')
  if view.rotate:
    arguments.append(f'--rotate={view.rotate}')
  if view.zoom != 1:
    arguments.append(f'--zoom={view.zoom}')
  return arguments


def save(
  engine: engine_lib.Engine,
  view: views.View,
  outdir: pathlib.Path,
  *,
  photos: engine_lib.Photos | None = None,
  directions: str = '',
) -> list[Saved]:
  """Writes the images of a view as PNG files with new names.

  The styles of a view that is not of a seed are written beside its picture.

  Args:
    engine: The models.
    view: The view.
    outdir: The folder, which is created.
    photos: See `Engine.render`.
    directions: See `command`.

  Raises:
    ValueError: If the view does not suit the models.
    OSError: If a file cannot be written, or the folder has too many.
  """
  engine.check(view)
  saved = []
  for i, one in enumerate(engine.subjects):
    ws = one.styles(view, engine.photo(i, view, photos))
    stem = _new_stem(outdir)
    path = outdir / f'{stem}.png'
    styles = None
    if not view.is_of_seed:
      styles = outdir / f'{stem}.npz'
      styles_lib.save(styles, ws)
    line = command(
      one, view, outdir / stem, styles=styles, directions=directions
    )
    image = one.image(one.edited(ws, view), view, one.transform(view))
    with files.naming_errors(path):
      pictures.save(image[0], path, command=line)
    saved.append(Saved(path, line))
  return saved


def _new_stem(outdir: pathlib.Path) -> str:
  """Returns a name in a folder that no file begins with."""
  for i in range(1, _MAX_FILES):
    stem = f'view-{i:04d}'
    ends = ('', '.png', '.npz')
    if not any((outdir / (stem + end)).exists() for end in ends):
      return stem
  raise FileExistsError(f'{outdir} has too many pictures: choose another one')
