"""Checkpoints: asynchronous, atomic, and restored bit for bit.

A run keeps them in `checkpoints/STEP/`. Orbax writes each into a temporary
folder and renames it when it is complete, so a run that dies while saving
leaves the checkpoints before it intact and no half of one. Each is looked at
once it is written, before it counts as saved. Every array has a checksum, which
shows what a disk has garbled since.
"""

import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sg3jax import files
from sg3jax.train import sharding
from sg3jax.train.checkpoint import ranking, reader, storage
from sg3jax.train.checkpoint.reader import CHECKSUMS, FOLDER, NETWORKS, PROGRESS
from sg3jax.train.step.state import TrainState
from sg3jax.trees import flatten
from sg3jax.types import Tree

# The fields of the state that each part of a checkpoint holds.
_FIELDS = {
  NETWORKS: ('generator_ema', 'generator', 'discriminator'),
  PROGRESS: (
    'step', 'nimg', 'generator_opt', 'discriminator_opt', 'pl_mean', 'augment'
  ),
}  # fmt: skip


class IncompatibleError(ValueError):
  """A checkpoint is sound, but of another state than the one wanted."""


class Checkpoints:
  """Saves and restores the states of one run.

  Args:
    workdir: The run folder.
    keep: Newest checkpoints to keep.
    best: The metric by which the best one is kept too; None to keep none for
      that.

  Raises:
    OSError: If the folder cannot be written or listed.
    ValueError: If it is not on a local or mounted file system, or JAX finds no
      device of the platform that it was told to use.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    *,
    keep: int = 3,
    best: ranking.Best | None = None,
  ):
    self._folder = files.local_path(workdir).absolute() / FOLDER
    self._keep = keep
    self._best = best
    # Shapes of the arrays of a checkpoint that is not known to be complete.
    self._unchecked: tuple[int, dict[str, Any]] | None = None
    sharding.find_devices()
    with storage.writing(self._folder):
      if jax.process_index() == 0:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Not at the first save, hours later.
        tempfile.TemporaryFile(dir=self._folder).close()
      self._measured = _read_measured(self._folder)
      self._manager = ocp.CheckpointManager(
        storage.safe_path(self._folder),
        options=ocp.CheckpointManagerOptions(
          preservation_policy=_Policy(self._kept),
          cleanup_tmp_directories=True,
        ),
      )
    self._measured = _read_measured(self._folder)
    # Orbax leaves out what it cannot look at: the run would start over.
    if hidden := set(self._measured) - set(self._manager.all_steps()):
      raise OSError(
        f'checkpoints in {self._folder} could not be read (steps '
        f'{", ".join(map(str, sorted(hidden)))}). They may be whole, and '
        'nothing was changed: run the same command again when the folder can '
        'be read'
      )

  def _kept(self, steps: Sequence[int]) -> set[int | None]:
    """Returns which of the checkpoints to keep; steps are in order."""
    measured = {
      step: self._measured[step] for step in steps if step in self._measured
    }
    best = self._best and ranking.best_step(measured, self._best)
    return {*steps[-self._keep :], best}

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
    values: Mapping[str, float] | None = None,
  ) -> None:
    """Starts saving a state and returns; writing goes on in the background.

    Args:
      state: The state. It may be donated as soon as this returns.
      options: The run's configuration, kept beside the arrays.
      values: The values of all metrics that were measured of it, by name.

    Raises:
      FloatingPointError: If the state has values that are not finite; it is not
        saved.
      OSError: If this one or the one before could not be written.
    """
    self.wait()
    arrays = flatten(jax.device_get(state))
    for name, array in arrays.items():
      if not np.all(np.isfinite(array)):
        raise FloatingPointError(f'{name} has values that are not finite')
    checksums = {name: reader.checksum(array) for name, array in arrays.items()}
    if jax.default_backend() == 'cpu':
      # There the writer would read the live buffers, which the next training
      # step overwrites.
      state = jax.tree.map(jnp.copy, state)
    step = int(state.step)
    self._measured[step] = ranking.measure(values, self._best)
    with storage.writing(self._folder):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          **{
            part: ocp.args.StandardSave(_part(state, part)) for part in _FIELDS
          },
          options=ocp.args.JsonSave(options),
          checksums=ocp.args.JsonSave(checksums),
          measured=ocp.args.JsonSave(self._measured[step].to_json()),
        ),
      )
    self._unchecked = step, _shapes(state)

  def check(self) -> None:
    """Raises an OSError if saving in the background has failed by now."""
    with storage.writing(self._folder):
      self._manager.check_for_errors()
    # Several hosts may not be equally far: they look when they `wait`.
    if jax.process_count() == 1 and not self._manager.is_saving_in_progress():
      self._check_saved()

  def wait(self) -> None:
    """Waits until the newest checkpoint is written, and looks at it.

    Raises:
      OSError: If it could not be written, or is not complete.
    """
    with storage.writing(self._folder):
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    self._check_saved()

  def _check_saved(self) -> None:
    """Raises an OSError if the checkpoint last written is not complete."""
    if self._unchecked is None:
      return
    (step, expected), self._unchecked = self._unchecked, None
    folder = self._folder / str(step)
    try:
      problem = _difference(reader.shapes(folder), expected)
    except storage.DamagedError as error:
      problem = str(error)
    if problem:
      raise OSError(
        f'Cannot write {folder}: what was written is not complete ({problem}). '
        'The earlier checkpoints are whole: run the same command again, in '
        'another folder if it happens again'
      )

  def restore(
    self, like: TrainState, log: Callable[[str], None] = print
  ) -> TrainState:
    """Returns the newest state that is not damaged.

    Newer checkpoints that are damaged, as their checksums or their structure
    show, are moved aside: renamed `STEP.corrupted`.

    Args:
      like: A state of `jax.ShapeDtypeStruct` with the shardings wanted, which
        may differ from those of the run that saved.
      log: Takes a line of text about each that is moved aside.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it holds arrays of other names or shapes, or if all are
        damaged; all stay where they are then.
      OSError: If a checkpoint cannot be read now, which says nothing about
        what is stored; all stay where they are.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(f'no complete checkpoint in {self._folder}')
    reasons: dict[int, str] = {}
    for step in steps:
      try:
        state = self._restore(step, like)
      except storage.DamagedError as error:
        reasons[step] = str(error)
        continue
      self._move_aside(reasons, log)
      return state
    raise ValueError(
      f'no checkpoint in {self._folder} can be read: {_list(reasons)}. Restore '
      'one from a copy, or use another run folder to start over'
    )

  def _restore(self, step: int, like: TrainState) -> TrainState:
    folder = self._folder / str(step)
    _check_fits(folder, like)
    args: dict[str, Any] = {
      part: ocp.args.StandardRestore(_part(like, part)) for part in _FIELDS
    }
    if has_sums := (folder / CHECKSUMS).exists():  # Old ones have none.
      args[CHECKSUMS] = ocp.args.JsonRestore()
    with storage.reading(folder):
      restored = self._manager.restore(step, args=ocp.args.Composite(**args))
    state = TrainState(**restored[NETWORKS], **restored[PROGRESS])
    if has_sums:
      reader.verify(jax.device_get(state), restored[CHECKSUMS])
    return state

  def _move_aside(
    self, reasons: dict[int, str], log: Callable[[str], None]
  ) -> None:
    if reasons and jax.process_count() > 1:
      # The hosts would have to agree, and may not all have failed.
      raise ValueError(
        f'checkpoints in {self._folder} cannot be read: {_list(reasons)}. '
        'Rename them on a run of several hosts, and start it again'
      )
    for step, reason in reasons.items():
      path = self._folder / f'{step}.corrupted'
      while path.exists():
        path = path.with_name(f'{path.name}_')
      with storage.writing(path):
        shutil.move(self._folder / str(step), path)
      self._measured.pop(step, None)
      log(
        f'Warning: the checkpoint of step {step} cannot be read ({reason}); it '
        f'is now {path}, and the run goes on from the one before'
      )
    if reasons:
      self._manager.reload()

  def close(self) -> None:
    """Waits until everything is written, and looks at it.

    Raises:
      OSError: If something could not be written, or is not complete.
    """
    try:
      self.wait()
    finally:
      self._manager.close()


class _Policy(ocp.checkpoint_managers.PreservationPolicy):
  """Decides for Orbax which checkpoints to keep.

  Args:
    kept: Takes the steps of all checkpoints, in order; returns those to keep.
  """

  def __init__(self, kept: Callable[[Sequence[int]], set[int | None]]):
    self._kept = kept

  def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
    """Returns for each checkpoint whether to keep it."""
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = self._kept(steps)
    return [step in kept for step in steps]


def _read_measured(folder: pathlib.Path) -> dict[int, ranking.Measured]:
  """Returns what was measured of the checkpoints that are there."""
  measured = {}
  for step in reader.steps(folder):
    try:
      measured[step] = ranking.read(folder / str(step))
    except ValueError:  # Damaged: it is not the best one, then.
      measured[step] = ranking.Measured()
  return measured


def _part(state: TrainState, part: str) -> dict[str, Tree]:
  fields = {name: getattr(state, name) for name in _FIELDS[part]}
  return {name: field for name, field in fields.items() if field is not None}


def _shapes(state: TrainState) -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns the shapes of the arrays of a state, as `reader.shapes` does."""
  return {
    part: {
      name: tuple(x.shape) for name, x in flatten(_part(state, part)).items()
    }
    for part in _FIELDS
  }


def _difference(
  stored: dict[str, dict[str, tuple[int, ...]]],
  wanted: dict[str, dict[str, tuple[int, ...]]],
) -> str:
  """Returns in words how shapes differ, an empty text if they do not."""
  old = stored[NETWORKS] | stored[PROGRESS]
  new = wanted[NETWORKS] | wanted[PROGRESS]
  differences = [
    f'{name} is {old.get(name, "absent")}, not {new.get(name, "there")}'
    for name in dict.fromkeys((*new, *old))
    if old.get(name) != new.get(name)
  ]
  more = f' and {len(differences) - 3} more' if len(differences) > 3 else ''
  return '; '.join(differences[:3]) + more


def _check_fits(folder: pathlib.Path, like: TrainState) -> None:
  """Raises an IncompatibleError if a state of other arrays is stored."""
  stored, wanted = reader.shapes(folder), _shapes(like)
  parts = {name.partition('/')[0] for name in stored[PROGRESS]} ^ {
    name.partition('/')[0] for name in wanted[PROGRESS]
  }
  if parts:
    raise IncompatibleError(
      f'the checkpoint {folder} and the configuration do not both have the '
      f'state of {", ".join(sorted(parts))}: use the options it was trained '
      'with, or another run folder'
    )
  if differences := _difference(stored, wanted):
    raise IncompatibleError(
      f'the checkpoint {folder} is of other networks than the configuration: '
      f'{differences}. Use the options it was trained with, or another run '
      'folder'
    )


def _list(reasons: Mapping[int, str]) -> str:
  return '; '.join(f'{step}: {reason}' for step, reason in reasons.items())
