"""Saves checkpoints asynchronously and atomically, and restores them exactly.

A run keeps them in `checkpoints/STEP/`. Orbax writes each into a temporary
folder and renames it when it is complete, so a run that dies while saving
leaves the earlier checkpoints intact and no partial one. Each checkpoint is
checked after it is written, before it counts as saved. Every array has a
checksum, which reveals later corruption on disk.
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
  """A sound checkpoint holds a different state than the one requested."""


class Checkpoints:
  """Saves and restores the states of one run.

  Args:
    workdir: The run folder.
    keep: Number of newest checkpoints to keep.
    best: The metric by which the best checkpoint is also kept; None to keep
      only the newest.

  Raises:
    OSError: If the folder cannot be written or listed.
    ValueError: If it is not on a local or mounted file system, or JAX finds no
      device of the platform it is set to use.
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
    # Array shapes of a checkpoint not yet known to be complete.
    self._unchecked: tuple[int, dict[str, Any]] | None = None
    sharding.find_devices()
    with storage.writing(self._folder):
      if jax.process_index() == 0:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Fail now, not at the first save hours later.
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
    # Orbax skips what it cannot inspect, so the run would start over.
    if hidden := set(self._measured) - set(self._manager.all_steps()):
      raise OSError(
        f'checkpoints in {self._folder} could not be read (steps '
        f'{", ".join(map(str, sorted(hidden)))}). They may be intact, and '
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
    """Returns the path of the newest checkpoint, or words if there is none."""
    step = self.latest()
    return 'none' if step is None else str(self._folder / str(step))

  def save(
    self,
    state: TrainState,
    options: dict[str, Any],
    values: Mapping[str, float] | None = None,
  ) -> None:
    """Starts saving a state and returns; writing continues in the background.

    Args:
      state: The state. It may be donated as soon as this returns.
      options: The run's configuration, stored with the arrays.
      values: The values of all metrics measured on this state, by name.

    Raises:
      FloatingPointError: If the state has values that are not finite. It is
        not saved then.
      OSError: If this checkpoint or the previous one could not be written.
    """
    self.wait()
    arrays = flatten(sharding.fetch(state))
    for name, array in arrays.items():
      if not np.all(np.isfinite(array)):
        raise FloatingPointError(f'{name} has values that are not finite')
    checksums = {name: reader.checksum(array) for name, array in arrays.items()}
    if jax.default_backend() == 'cpu':
      # On CPUs the writer would read the live buffers, which the next training
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
    # Hosts may not have progressed equally: they check when they `wait`.
    if jax.process_count() == 1 and not self._manager.is_saving_in_progress():
      self._check_saved()

  def wait(self) -> None:
    """Waits until the newest checkpoint is written, then checks it.

    Raises:
      OSError: If it could not be written, or is not complete.
    """
    with storage.writing(self._folder):
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    self._check_saved()

  def _check_saved(self) -> None:
    """Raises an OSError if the last checkpoint written is not complete."""
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
        'Earlier checkpoints are intact: run the same command again, in '
        'another folder if this recurs'
      )

  def restore(
    self, like: TrainState, log: Callable[[str], None] = print
  ) -> TrainState:
    """Returns the newest undamaged state.

    Newer checkpoints that are damaged, according to their checksums or their
    structure, are renamed `STEP.corrupted`.

    Args:
      like: A state of `jax.ShapeDtypeStruct` with the desired shardings, which
        may differ from those of the run that saved the checkpoint.
      log: Receives a line of text about each renamed checkpoint.

    Raises:
      FileNotFoundError: If there is no checkpoint.
      ValueError: If the newest one holds arrays of other names or shapes, or
        if all are damaged. None is renamed then.
      OSError: If a checkpoint cannot be read now, although it may be intact.
        None is renamed then.
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
    if has_sums := (folder / CHECKSUMS).exists():  # Old checkpoints lack it.
      args[CHECKSUMS] = ocp.args.JsonRestore()
    with storage.reading(folder):
      restored = self._manager.restore(step, args=ocp.args.Composite(**args))
    state = TrainState(**restored[NETWORKS], **restored[PROGRESS])
    if has_sums:
      reader.verify(sharding.fetch(state), restored[CHECKSUMS])
    return state

  def _move_aside(
    self, reasons: dict[int, str], log: Callable[[str], None]
  ) -> None:
    if reasons and jax.process_count() > 1:
      # The hosts would have to agree, and perhaps not all of them failed.
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
        f'is now {path}, and the run continues from the previous one'
      )
    if reasons:
      self._manager.reload()

  def close(self) -> None:
    """Waits until everything is written, then checks it.

    Raises:
      OSError: If a checkpoint could not be written, or is not complete.
    """
    try:
      self.wait()
    finally:
      self._manager.close()


class _Policy(ocp.checkpoint_managers.PreservationPolicy):
  """Decides for Orbax which checkpoints to keep.

  Args:
    kept: Maps the steps of all checkpoints, in order, to those to keep.
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
  """Returns what was measured on each existing checkpoint."""
  measured = {}
  for step in reader.steps(folder):
    try:
      measured[step] = ranking.read(folder / str(step))
    except ValueError:  # A damaged record cannot be the best one.
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
  """Describes how shapes differ; returns an empty string if they do not."""
  old = stored[NETWORKS] | stored[PROGRESS]
  new = wanted[NETWORKS] | wanted[PROGRESS]
  differences = [
    f'{name} is {old.get(name, "absent")}, not {new.get(name, "absent")}'
    for name in dict.fromkeys((*new, *old))
    if old.get(name) != new.get(name)
  ]
  more = f' and {len(differences) - 3} more' if len(differences) > 3 else ''
  return '; '.join(differences[:3]) + more


def _check_fits(folder: pathlib.Path, like: TrainState) -> None:
  """Raises an IncompatibleError if the stored state has other arrays."""
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
