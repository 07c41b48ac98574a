"""Checkpoints: asynchronous, atomic, and restored bit for bit.

A run keeps them in `checkpoints/STEP/`. Orbax writes each into a temporary
folder and renames it when it is complete, so a run that dies while saving
leaves the checkpoints before it intact and no half of one. What a disk garbles
later, the checksum of every array betrays.
"""

import functools
import json
import logging
import pathlib
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sg3jax import storage
from sg3jax.train import best as best_lib
from sg3jax.train.state import TrainState
from sg3jax.types import Tree, flatten

FOLDER = 'checkpoints'
BEST = 'best'  # In the place of a step.
_CHECKSUMS = 'checksums'

# Parts of a checkpoint: a reader of pictures needs only the first and the
# options, and never meets the optimizers.
_NETWORKS = ('generator_ema', 'generator', 'discriminator')
_PROGRESS = (
  'step', 'nimg', 'generator_opt', 'discriminator_opt', 'pl_mean', 'augment'
)  # fmt: skip


# What asyncio's log says of reads has one of these names in it.
_READERS = re.compile('orbax|TensorStore|OCDBT')


class IncompatibleError(ValueError):
  """A sound checkpoint, but of another state than the one that is wanted."""


class Checkpoints:
  """Saves and restores the states of one run.

  Args:
    workdir: The run folder.
    keep: Newest checkpoints to keep.
    best: Name of the figure by which the best one is kept too; None: no one is.

  Raises:
    OSError: If the folder cannot be written.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    *,
    keep: int = 3,
    best: str | None = None,
  ):
    self._folder = pathlib.Path(workdir).absolute() / FOLDER
    self._best = best
    policy: Any = ocp.checkpoint_managers.LatestN(n=keep)
    if best:
      policy = ocp.checkpoint_managers.AnyPreservationPolicy(
        [
          policy,
          ocp.checkpoint_managers.BestN(
            n=1,
            get_metric_fn=self._rank,
            keep_checkpoints_without_metrics=False,
          ),
        ]
      )
    try:
      if jax.process_index() == 0:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Not at the first save, hours later.
        tempfile.TemporaryFile(dir=self._folder).close()
      self._manager = ocp.CheckpointManager(
        self._folder,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=policy,
          best_fn=self._rank if best else None,
          cleanup_tmp_directories=True,
        ),
      )
    except OSError as error:
      raise storage.write_error(self._folder, error) from error

  def _rank(self, figures: Any) -> float:
    assert self._best is not None
    return best_lib.rank(self._best, figures[self._best])

  def latest(self) -> int | None:
    """Returns the step of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def describe_latest(self) -> str:
    """Returns the path of the newest checkpoint, in words if there is none."""
    step = self.latest()
    return 'none' if step is None else str(self._folder / str(step))

  def save(
    self,
    state: TrainState,
    options: dict[str, Any],
    figures: Mapping[str, float] | None = None,
  ) -> None:
    """Starts saving a state and returns; writing goes on in the background.

    Args:
      state: The state. It may be donated as soon as this returns.
      options: The run's configuration, kept beside the arrays.
      figures: What was measured of it, to find the best one by.

    Raises:
      FloatingPointError: If the state has values that are not finite; it is not
        saved.
      OSError: If the one before could not be written.
    """
    self.check()
    arrays = flatten(jax.device_get(state))
    for name, array in arrays.items():
      if not np.all(np.isfinite(array)):
        raise FloatingPointError(f'{name} has values that are not finite')
    checksums = {name: _checksum(array) for name, array in arrays.items()}
    if jax.default_backend() == 'cpu':
      # There the writer would read the live buffers, which the next training
      # step overwrites.
      state = jax.tree.map(jnp.copy, state)
    chosen = (
      best_lib.select(figures, self._best) if self._best and figures else None
    )
    try:
      self._manager.save(
        int(state.step),
        args=ocp.args.Composite(
          networks=ocp.args.StandardSave(_part(state, _NETWORKS)),
          progress=ocp.args.StandardSave(_part(state, _PROGRESS)),
          options=ocp.args.JsonSave(options),
          checksums=ocp.args.JsonSave(checksums),
        ),
        metrics=chosen,
      )
    except Exception as error:
      raise storage.write_error(self._folder, error) from error

  def check(self) -> None:
    """Raises an OSError if writing in the background has failed."""
    try:
      self._manager.check_for_errors()
    except Exception as error:
      raise storage.write_error(self._folder, error) from error

  def restore(
    self, like: TrainState, log: Callable[[str], None] = print
  ) -> TrainState:
    """Returns the newest state that can be read.

    Newer checkpoints that cannot be are moved aside: renamed `STEP.corrupted`.

    Args:
      like: A state of `jax.ShapeDtypeStruct` with the shardings wanted, which
        may differ from those of the run that saved.
      log: Takes a line of text about each that is moved aside.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it holds arrays of other names or shapes, or if none can
        be read; all stay where they are then.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(f'no complete checkpoint in {self._folder}')
    _silence_unread()
    reasons: dict[int, str] = {}
    for step in steps:
      try:
        state = self._restore(step, like)
      except IncompatibleError:
        raise
      except Exception as error:  # Readers of damaged files raise anything.
        reasons[step] = _reason(error)
        continue
      self._move_aside(reasons, log)
      return state
    raise ValueError(
      f'no checkpoint in {self._folder} can be read: '
      + '; '.join(f'{step}: {reason}' for step, reason in reasons.items())
      + '. Restore one from a copy, or use another --workdir to start over'
    )

  def _restore(self, step: int, like: TrainState) -> TrainState:
    _check(self._folder / str(step), like)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        networks=ocp.args.StandardRestore(_part(like, _NETWORKS)),
        progress=ocp.args.StandardRestore(_part(like, _PROGRESS)),
      ),
    )
    state = TrainState(**restored['networks'], **restored['progress'])
    if not (self._folder / str(step) / _CHECKSUMS).exists():
      return state  # Saved before there were any.
    expected = self._manager.restore(
      step, args=ocp.args.Composite(checksums=ocp.args.JsonRestore())
    )[_CHECKSUMS]
    _verify(jax.device_get(state), expected)
    return state

  def _move_aside(
    self, reasons: dict[int, str], log: Callable[[str], None]
  ) -> None:
    if reasons and jax.process_count() > 1:
      # The hosts would have to agree, and may not all have failed.
      raise ValueError(
        f'checkpoints in {self._folder} cannot be read: '
        + '; '.join(f'{step}: {reason}' for step, reason in reasons.items())
        + '. Rename them on a run of several hosts, and start it again'
      )
    for step, reason in reasons.items():
      path = self._folder / f'{step}.corrupted'
      while path.exists():
        path = path.with_name(f'{path.name}_')
      shutil.move(self._folder / str(step), path)
      log(
        f'Warning: the checkpoint of step {step} cannot be read ({reason}); it '
        f'is now {path}, and the run goes on from the one before'
      )
    if reasons:
      self._manager.reload()

  def close(self) -> None:
    """Waits until everything is written.

    Raises:
      OSError: If something could not be.
    """
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise storage.write_error(self._folder, error) from error
    finally:
      self._manager.close()


def _reason(error: BaseException) -> str:
  """Returns what an error began with, on one line."""
  while error.__cause__ is not None:
    error = error.__cause__
  return f'{type(error).__name__}: {error}'.partition('\n')[0]


@functools.cache
def _silence_unread() -> None:
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


def _checksum(array: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _verify(arrays: Tree, checksums: Mapping[str, int]) -> None:
  """Raises a ValueError if an array is not what was saved."""
  for name, array in flatten(arrays).items():
    if _checksum(array) != checksums.get(name):
      raise ValueError(f'{name} differs from what was saved')


def _part(state: TrainState, fields: tuple[str, ...]) -> dict[str, Tree]:
  parts = {name: getattr(state, name) for name in fields}
  return {name: part for name, part in parts.items() if part is not None}


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


def _reader() -> ocp.Checkpointer:
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
  _silence_unread()
  try:
    has_sums = (folder / _CHECKSUMS).exists()
    restored = _read_unchecked(folder, (*names, *[_CHECKSUMS] * has_sums))
    if has_sums:
      arrays = restored.get('networks', {}) | restored.get('progress', {})
      _verify(arrays, restored.pop(_CHECKSUMS))
  except Exception as error:  # Readers of damaged files raise anything.
    raise ValueError(
      f'the checkpoint {folder} cannot be read ({_reason(error)}): restore it '
      f'from a copy, or name another one in {folder.parent}'
    ) from error
  return restored


def _read_unchecked(
  folder: pathlib.Path, names: tuple[str, ...]
) -> dict[str, Any]:
  with _reader() as reader:
    trees = reader.metadata(folder).item_metadata
    args = {}
    for name in names:
      if name in ('options', _CHECKSUMS):
        args[name] = ocp.args.JsonRestore()
        continue
      # As NumPy arrays: the devices that saved them may not be here.
      args[name] = ocp.args.PyTreeRestore(
        restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray), trees[name].tree
        )
      )
    return dict(reader.restore(folder, args=ocp.args.Composite(**args)))


def _check(folder: pathlib.Path, like: TrainState) -> None:
  """Raises an IncompatibleError if a state of other arrays is stored."""
  with _reader() as reader:
    trees = reader.metadata(folder).item_metadata
  parts = set(trees['progress'].tree) ^ set(_part(like, _PROGRESS))
  if parts:
    raise IncompatibleError(
      f'the checkpoint {folder} and the configuration do not both have the '
      f'state of {", ".join(sorted(parts))}: use the options it was trained '
      'with, or another --workdir'
    )
  stored, wanted = (
    {name: tuple(x.shape) for name, x in flatten(tree).items()}
    for tree in (
      trees['networks'].tree | trees['progress'].tree,
      _part(like, _NETWORKS) | _part(like, _PROGRESS),
    )
  )
  differences = [
    f'{name} is {stored.get(name, "absent")}, not {wanted.get(name, "there")}'
    for name in dict.fromkeys((*wanted, *stored))
    if stored.get(name) != wanted.get(name)
  ]
  if differences:
    more = f' and {len(differences) - 3} more' if len(differences) > 3 else ''
    raise IncompatibleError(
      f'the checkpoint {folder} is of other networks than the configuration: '
      f'{"; ".join(differences[:3])}{more}. Use the options it was trained '
      'with, or another --workdir'
    )


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
        ranks[step] = best_lib.rank(name, value)
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
