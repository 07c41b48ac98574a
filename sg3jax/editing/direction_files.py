"""Keeps the directions of a model in a folder, to be found only once.

    directions.npz   vectors, names, ranges of styles, standard deviations
    sheet.png        a row for each direction, a column for each strength

The file records how the directions were found, and of which model, so that the
same request is answered from it.
"""

import contextlib
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.editing import directions as directions_lib
from sg3jax.editing.directions import Direction
from sg3jax.eval.plots import grids
from sg3jax.trees import flatten
from sg3jax.types import AnyArray

FILE, SHEET = 'directions.npz', 'sheet.png'

_KEYS = ('vectors', 'names', 'stds', 'layers', 'about')


def fingerprint(model: model_lib.Model) -> str:
  """Returns a hash of the arrays of a model's generator."""
  digest = hashlib.sha256()
  for path, array in sorted(flatten(model.variables).items()):
    digest.update(path.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def write(
  path: str | pathlib.Path,
  directions: Sequence[Direction],
  about: Mapping[str, Any],
) -> None:
  """Writes directions to a file, which is replaced if it exists.

  Args:
    path: The file.
    directions: The directions.
    about: Record of how they were found.

  Raises:
    OSError: If the file cannot be written.
  """
  with files.naming_errors(path), files.replacing(path) as temporary:
    np.savez(
      temporary,
      vectors=np.stack([d.vector for d in directions]),
      names=np.array([d.name for d in directions]),
      stds=np.array([d.std for d in directions]),
      layers=np.array([d.layers for d in directions]),
      about=np.array(json.dumps(dict(about), sort_keys=True)),
    )


def read(
  path: str | pathlib.Path,
) -> tuple[list[Direction], dict[str, Any]]:
  """Reads directions, and how they were found.

  Args:
    path: The file, or the folder with `directions.npz`.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If it is damaged or another kind of file.
  """
  path = files.local_path(path)
  path = path / FILE if path.is_dir() else path
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} does not exist: find directions with `sg3jax directions`'
    )
  with _naming_damage(path):
    with np.load(path, allow_pickle=False) as archive:
      vectors, names, stds, layers, about = (archive[key] for key in _KEYS)
    if not np.all(np.isfinite(vectors)) or not np.all(np.isfinite(stds)):
      raise ValueError('it has numbers that are not finite')
    directions = [
      Direction(
        str(name),
        vector.astype(np.float32),
        float(std),
        (int(first), int(last)),
      )
      for name, vector, std, (first, last) in zip(
        names, vectors, stds, layers, strict=True
      )
    ]
    return directions, json.loads(str(about))


@contextlib.contextmanager
def _naming_damage(path: pathlib.Path):
  """Turns the errors of reading a damaged file into a ValueError."""
  errors = (
    ValueError, KeyError, TypeError, EOFError, AttributeError,
    zipfile.BadZipFile,
  )  # fmt: skip
  try:
    yield
  except errors as error:
    raise ValueError(
      f'{path} must be a file of directions, but cannot be read '
      f'({str(error)[:100]}): find them again with `sg3jax directions`'
    ) from error


def find_once(
  model: model_lib.Model,
  outdir: str | pathlib.Path,
  method: str,
  *,
  count: int,
  layers: tuple[int, int] | None,
  num_samples: int,
  seed: int,
) -> tuple[list[Direction], bool]:
  """Finds directions, or reads them if the folder has them.

  Args:
    model: The model.
    outdir: The folder of `directions.npz`.
    method: See `directions.find`, as for the other arguments.
    count: See `directions.find`.
    layers: See `directions.find`.
    num_samples: See `directions.find`.
    seed: See `directions.find`.

  Returns:
    The directions, and whether they were read.

  Raises:
    FileExistsError: If the folder has directions that were found differently,
      or of another model.
    ValueError: See `directions.find`.
  """
  path = pathlib.Path(outdir) / FILE
  files.check_folder(outdir)
  about = {
    'model': fingerprint(model),
    'method': method,
    'count': count,
    'layers': None if layers is None else list(layers),
    'num_samples': num_samples,
    'seed': seed,
  }
  if path.exists():
    directions, found = read(path)
    different = [key for key in about if found.get(key) != about[key]]
    if different:
      raise FileExistsError(
        f'{path} has directions with another {", ".join(different)}: choose '
        'another folder'
      )
    return directions, True
  directions = directions_lib.find(
    model,
    method,
    count=count,
    layers=layers,
    num_samples=num_samples,
    seed=seed,
  )
  write(path, directions, about)
  return directions, False


def save_sheet(
  model: model_lib.Model,
  ws: Float[AnyArray, '1 l d'],
  directions: Sequence[Direction],
  strengths: Sequence[float],
  path: str | pathlib.Path,
) -> None:
  """Writes a grid: a row for each direction, a column for each strength.

  Args:
    model: The model.
    ws: Styles of one image.
    directions: The directions.
    strengths: The strengths, in standard deviations.
    path: The file.
  """
  rows = []
  for direction in directions:
    moved = [directions_lib.apply(ws, [(direction, s)]) for s in strengths]
    rows.append(np.asarray(model.synthesis(np.concatenate(moved))))
  size = (len(strengths), len(directions))
  with files.naming_errors(path):
    grids.save_grid(np.concatenate(rows), path, size)
