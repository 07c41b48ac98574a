"""Reads checkpoints without the run that wrote them, as NumPy arrays."""

import functools
import json
import logging
import pathlib
import re
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from sg3jax.train.checkpoint import ranking
from sg3jax.trees import flatten
from sg3jax.types import Tree

FOLDER = 'checkpoints'


BEST = 'best'  # In the place of a step.


CHECKSUMS = 'checksums'


# What asyncio's log says of reads has one of these names in it.
_READERS = re.compile('orbax|TensorStore|OCDBT')


def reason_of(error: BaseException) -> str:
  """Returns what an error began with, on one line."""
  while error.__cause__ is not None:
    error = error.__cause__
  return f'{type(error).__name__}: {error}'.partition('\n')[0]


@functools.cache
def silence_unread() -> None:
  """Keeps the reads that Orbax gives up from printing a page each.

  It gives up the other arrays of a damaged checkpoint. Their reads end in
  threads of TensorStore while the error is still on its way here, which is why
  this comes before reading, or as garbage at any time after: as exceptions
  that nobody can raise, or in the log of asyncio.
  """
  hook = sys.unraisablehook

  def report(unraisable: Any) -> None:
    code = getattr(unraisable.object, 'cr_code', None)
    is_read = code is not None and 'orbax' in code.co_filename
    if not is_read and str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  sys.unraisablehook = report
  logging.getLogger('asyncio').addFilter(
    lambda record: not _READERS.search(record.getMessage())
  )


def checksum(array: np.ndarray) -> int:
  """Returns the CRC-32 of the bytes of an array."""
  return zlib.crc32(np.ascontiguousarray(array).tobytes())


def verify(arrays: Tree, checksums: Mapping[str, int]) -> None:
  """Raises a ValueError if an array is not what was saved."""
  for name, array in flatten(arrays).items():
    if checksum(array) != checksums.get(name):
      raise ValueError(f'{name} differs from what was saved')


def load_networks(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Tree], int]:
  """Reads the networks of a run or of one checkpoint, as NumPy arrays.

  Args:
    path: A run folder (its newest checkpoint is read), its `checkpoints`
      folder, or one checkpoint: `RUN/checkpoints/STEP`, or, of a run that
      keeps its best one, `RUN/checkpoints/best`.

  Returns:
    The run's options; variables by name: `generator_ema`, `generator`,
    `discriminator`; and the step.

  Raises:
    FileNotFoundError: If there is no complete checkpoint; the message says
      where one was looked for.
    ValueError: If it is damaged.
  """
  folder = _locate(pathlib.Path(path).absolute())
  restored = _read(folder, ('networks', 'options'))
  return restored['options'], restored['networks'], int(folder.name)


def load_options(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the options of a run or of one checkpoint, and no arrays.

  Args:
    path: As in `load_networks`.

  Raises:
    FileNotFoundError, ValueError: As in `load_networks`.
  """
  folder = _locate(pathlib.Path(path).absolute())
  return _read(folder, ('options',))['options']


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
  """Returns whether a run folder, if it exists, holds a complete checkpoint."""
  return bool(_steps(pathlib.Path(workdir) / FOLDER))


def load_arrays(path: str | pathlib.Path) -> dict[str, Tree]:
  """Reads all arrays of a checkpoint, optimizers included, as NumPy arrays.

  Args:
    path: As in `load_networks`.

  Raises:
    FileNotFoundError, ValueError: As in `load_networks`.
  """
  folder = _locate(pathlib.Path(path).absolute())
  return _read(folder, ('networks', 'progress'))


def open_reader() -> ocp.Checkpointer:
  """Returns what reads the parts of a checkpoint, one by one."""
  return ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(
      networks=ocp.PyTreeCheckpointHandler(),
      progress=ocp.PyTreeCheckpointHandler(),
      options=ocp.JsonCheckpointHandler(),
      checksums=ocp.JsonCheckpointHandler(),
      metrics=ocp.JsonCheckpointHandler(),
    )
  )


def _read(folder: pathlib.Path, names: tuple[str, ...]) -> dict[str, Any]:
  """Reads parts of one checkpoint, and whether they are what was saved."""
  silence_unread()
  try:
    has_sums = (folder / CHECKSUMS).exists()
    restored = _read_unchecked(folder, (*names, *[CHECKSUMS] * has_sums))
    if has_sums:
      arrays = restored.get('networks', {}) | restored.get('progress', {})
      verify(arrays, restored.pop(CHECKSUMS))
  except Exception as error:  # Readers of damaged files raise anything.
    raise ValueError(
      f'the checkpoint {folder} cannot be read ({reason_of(error)}): restore '
      f'it from a copy, or name another one in {folder.parent}'
    ) from error
  return restored


def _read_unchecked(
  folder: pathlib.Path, names: tuple[str, ...]
) -> dict[str, Any]:
  with open_reader() as reader:
    trees = reader.metadata(folder).item_metadata
    args = {}
    for name in names:
      if name in ('options', CHECKSUMS):
        args[name] = ocp.args.JsonRestore()
        continue
      # As NumPy arrays: the devices that saved them may not be here.
      args[name] = ocp.args.PyTreeRestore(
        restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray), trees[name].tree
        )
      )
    return dict(reader.restore(folder, args=ocp.args.Composite(**args)))


def _locate(path: pathlib.Path) -> pathlib.Path:
  """Returns the folder of the checkpoint that a path means."""
  if path.name == BEST and path.parent.name == FOLDER:
    return _locate_best(path.parent)
  if not path.is_dir():
    raise FileNotFoundError(f'there is no run or checkpoint folder {path}')
  if path.name.isdigit() and (path / 'networks').is_dir():
    return path
  folder = path / FOLDER if (path / FOLDER).is_dir() else path
  steps = _steps(folder)
  if not steps:
    raise FileNotFoundError(
      f'no complete checkpoint in {folder}: pass a run folder that holds '
      f'{FOLDER}/STEP, or one such STEP folder'
    )
  return folder / str(max(steps))


def _locate_best(folder: pathlib.Path) -> pathlib.Path:
  """Returns the checkpoint with the best figure."""
  ranks: dict[pathlib.Path, float] = {}
  for child in folder.glob('*/metrics/metrics'):
    step = child.parent.parent
    if step.name.isdigit():
      for name, value in json.loads(child.read_text()).items():
        ranks[step] = ranking.rank(name, value)
  if not ranks:
    raise FileNotFoundError(
      f'no checkpoint in {folder} has a figure to be the best by: train with '
      '--config.log.keep_best=FIGURE, or name another checkpoint'
    )
  return max(ranks, key=lambda step: (ranks[step], int(step.name)))


def _steps(folder: pathlib.Path) -> list[int]:
  """Returns the steps of the complete checkpoints in a folder."""
  return [
    int(path.parent.name)
    for path in folder.glob('*/networks')
    if path.parent.name.isdigit() and path.is_dir()
  ]
