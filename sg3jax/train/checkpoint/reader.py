"""Reads checkpoints without the run that wrote them, as NumPy arrays."""

import os
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from sg3jax import files
from sg3jax.train import sharding
from sg3jax.train.checkpoint import ranking, storage
from sg3jax.trees import flatten
from sg3jax.types import Tree

FOLDER = 'checkpoints'
BEST = 'best'  # May stand in place of a step.

# Parts of a checkpoint. Generating images takes only the first part and the
# options, not the optimizers.
NETWORKS = 'networks'
PROGRESS = 'progress'
CHECKSUMS = 'checksums'


def checksum(array: np.ndarray) -> int:
  """Returns the CRC-32 of the bytes of an array."""
  return zlib.crc32(np.ascontiguousarray(array).tobytes())


def verify(arrays: Tree, checksums: Mapping[str, int]) -> None:
  """Raises a DamagedError if an array differs from what was saved."""
  for name, array in flatten(arrays).items():
    if checksum(array) != checksums.get(name):
      raise storage.DamagedError(f'{name} differs from what was saved')


def load_networks(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Tree], int]:
  """Reads the networks of a run or of one checkpoint, as NumPy arrays.

  Args:
    path: A run folder (its newest checkpoint is read), its `checkpoints`
      folder, or one checkpoint: `RUN/checkpoints/STEP`, or
      `RUN/checkpoints/best` for a run that keeps its best one.

  Returns:
    The run's options; variables by name: `generator_ema`, `generator`,
    `discriminator`; and the step.

  Raises:
    FileNotFoundError: If there is no complete checkpoint. The message names
      the folder that was searched.
    ValueError: If it is damaged, or JAX finds no device of the platform it is
      set to use.
    OSError: If it cannot be read now, although it may be intact.
  """
  folder = _locate(path)
  restored = _read(folder, (NETWORKS, 'options'))
  return restored['options'], restored[NETWORKS], int(folder.name)


def load_nimg(path: str | pathlib.Path, step: int) -> int:
  """Reads the number of real images shown up to a checkpoint.

  Args:
    path: See `load_networks`.
    step: The step that `load_networks` returned. A run may have saved a newer
      or better checkpoint since, which is not the one to read.

  Raises:
    FileNotFoundError, ValueError, OSError: See `load_networks`.
  """
  folder = _locate(path).with_name(str(step))
  return int(_read(folder, (PROGRESS,), only={'nimg': 0})[PROGRESS]['nimg'])


def load_options(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the options of a run or of one checkpoint, but no arrays.

  Args:
    path: See `load_networks`.

  Raises:
    FileNotFoundError, ValueError, OSError: See `load_networks`.
  """
  folder = _locate(path)
  return _read(folder, ('options',))['options']


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
  """Returns whether a run folder exists and holds a complete checkpoint.

  Raises:
    OSError: If the folder exists, but cannot be read.
  """
  return bool(steps(files.local_path(workdir) / FOLDER))


def load_arrays(path: str | pathlib.Path) -> dict[str, Tree]:
  """Reads all arrays of a checkpoint, including optimizers, as NumPy arrays.

  Args:
    path: See `load_networks`.

  Raises:
    FileNotFoundError, ValueError, OSError: See `load_networks`.
  """
  folder = _locate(path)
  return _read(folder, (NETWORKS, PROGRESS))


def shapes(folder: pathlib.Path) -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns the shapes of all arrays of a checkpoint, by part and name.

  This reads the metadata of every array, but no values.

  Args:
    folder: `RUN/checkpoints/STEP`.

  Raises:
    storage.DamagedError: If an array is missing or its metadata is invalid.
    OSError: If the checkpoint cannot be read now.
  """
  trees = _trees(folder)
  return {
    part: {name: tuple(x.shape) for name, x in flatten(trees[part]).items()}
    for part in (NETWORKS, PROGRESS)
  }


def _trees(folder: pathlib.Path) -> dict[str, Tree]:
  """Returns the metadata of the arrays of a checkpoint, as trees."""
  sharding.find_devices()  # Orbax needs them, even to read on the host.
  path = storage.safe_path(folder.parent) / folder.name
  with storage.reading(folder), _open() as orbax:
    parts = orbax.metadata(path).item_metadata
    return {part: parts[part].tree for part in (NETWORKS, PROGRESS)}


def _open() -> ocp.Checkpointer:
  """Returns a reader of the parts of a checkpoint."""
  return ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(
      networks=ocp.PyTreeCheckpointHandler(),
      progress=ocp.PyTreeCheckpointHandler(),
      options=ocp.JsonCheckpointHandler(),
      checksums=ocp.JsonCheckpointHandler(),
      metrics=ocp.JsonCheckpointHandler(),
      measured=ocp.JsonCheckpointHandler(),
    )
  )


def _read(
  folder: pathlib.Path, names: tuple[str, ...], only: Tree = None
) -> dict[str, Any]:
  """Reads parts of one checkpoint, and checks that they match what was saved.

  Args:
    folder: The checkpoint.
    names: The parts.
    only: Tree of the arrays to read from each part; all by default.
  """
  has_sums = (folder / CHECKSUMS).exists()
  try:
    restored = _read_unchecked(folder, (*names, *[CHECKSUMS] * has_sums), only)
    if has_sums:
      arrays = restored.get(NETWORKS, {}) | restored.get(PROGRESS, {})
      verify(arrays, restored.pop(CHECKSUMS))
  except storage.DamagedError as error:
    raise ValueError(
      f'the checkpoint {folder} cannot be read ({error}): restore it from a '
      f'copy, or name another one in {folder.parent}'
    ) from error
  return restored


def _read_unchecked(
  folder: pathlib.Path, names: tuple[str, ...], only: Tree
) -> dict[str, Any]:
  trees = _trees(folder)
  args = {
    name: ocp.args.PyTreeRestore(
      item=only,
      # Read NumPy arrays: the devices that saved them may not exist here.
      restore_args=jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
        trees[name] if only is None else only,
      ),
      partial_restore=only is not None,
    )
    if name in trees
    else ocp.args.JsonRestore()
    for name in names
  }
  path = storage.safe_path(folder.parent) / folder.name
  with storage.reading(folder), _open() as orbax:
    return dict(orbax.restore(path, args=ocp.args.Composite(**args)))


def _locate(path: str | pathlib.Path) -> pathlib.Path:
  """Returns the absolute folder of the checkpoint that a path refers to."""
  path = files.local_path(path).absolute()
  if path.name == BEST and path.parent.name == FOLDER:
    return _locate_best(path.parent)
  if not path.is_dir():
    raise FileNotFoundError(f'there is no run or checkpoint folder {path}')
  if path.name.isdigit() and (path / NETWORKS).is_dir():
    return path
  folder = path / FOLDER if (path / FOLDER).is_dir() else path
  found = steps(folder)
  if not found:
    raise FileNotFoundError(
      f'no complete checkpoint in {folder}: pass a run folder that holds '
      f'{FOLDER}/STEP, or one such STEP folder'
    )
  return folder / str(max(found))


def _locate_best(folder: pathlib.Path) -> pathlib.Path:
  """Returns the checkpoint with the best value of the chosen metric."""
  measured = {step: ranking.read(folder / str(step)) for step in steps(folder)}
  step = ranking.best_step(measured)
  if step is None:
    raise FileNotFoundError(
      f'no checkpoint in {folder} has a value to be the best by: train with '
      'log.keep_best set to the name of a metric, or name another checkpoint'
    )
  return folder / str(step)


def steps(folder: pathlib.Path) -> list[int]:
  """Returns the steps of the complete checkpoints in a folder.

  Args:
    folder: `RUN/checkpoints`, which need not exist.

  Raises:
    OSError: If the folder exists, but cannot be read.
  """
  try:
    names = os.listdir(folder)
  except (FileNotFoundError, NotADirectoryError):
    return []
  return [
    int(name)
    for name in names
    if re.fullmatch('0|[1-9][0-9]*', name)
    and (folder / name / NETWORKS).is_dir()
  ]
