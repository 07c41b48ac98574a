"""Checkpoints: asynchronous, atomic, and restored bit for bit.

A run keeps them in `checkpoints/STEP/`. Orbax writes each into a temporary
folder and renames it when it is complete, so a run that dies while saving
leaves the checkpoints before it intact and no half of one. What a disk garbles
later, the checksum of every array betrays.
"""

import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sg3jax import files
from sg3jax.train.checkpoint import ranking
from sg3jax.train.checkpoint.reader import (
  CHECKSUMS,
  FOLDER,
  checksum,
  open_reader,
  reason_of,
  silence_unread,
  verify,
)
from sg3jax.train.step.state import TrainState
from sg3jax.trees import flatten
from sg3jax.types import Tree

# Parts of a checkpoint: a reader of pictures needs only the first and the
# options, and never meets the optimizers.
_NETWORKS = ('generator_ema', 'generator', 'discriminator')


_PROGRESS = (
  'step', 'nimg', 'generator_opt', 'discriminator_opt', 'pl_mean', 'augment'
)  # fmt: skip


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
      raise files.write_error(self._folder, error) from error

  def _rank(self, figures: Any) -> float:
    assert self._best is not None
    return ranking.rank(self._best, figures[self._best])

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
    checksums = {name: checksum(array) for name, array in arrays.items()}
    if jax.default_backend() == 'cpu':
      # There the writer would read the live buffers, which the next training
      # step overwrites.
      state = jax.tree.map(jnp.copy, state)
    chosen = (
      ranking.select(figures, self._best) if self._best and figures else None
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
      raise files.write_error(self._folder, error) from error

  def check(self) -> None:
    """Raises an OSError if writing in the background has failed."""
    try:
      self._manager.check_for_errors()
    except Exception as error:
      raise files.write_error(self._folder, error) from error

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
    silence_unread()
    reasons: dict[int, str] = {}
    for step in steps:
      try:
        state = self._restore(step, like)
      except IncompatibleError:
        raise
      except Exception as error:  # Readers of damaged files raise anything.
        reasons[step] = reason_of(error)
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
    if not (self._folder / str(step) / CHECKSUMS).exists():
      return state  # Saved before there were any.
    expected = self._manager.restore(
      step, args=ocp.args.Composite(checksums=ocp.args.JsonRestore())
    )[CHECKSUMS]
    verify(jax.device_get(state), expected)
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
      raise files.write_error(self._folder, error) from error
    finally:
      self._manager.close()


def _part(state: TrainState, fields: tuple[str, ...]) -> dict[str, Tree]:
  parts = {name: getattr(state, name) for name in fields}
  return {name: part for name, part in parts.items() if part is not None}


def _check(folder: pathlib.Path, like: TrainState) -> None:
  """Raises an IncompatibleError if a state of other arrays is stored."""
  with open_reader() as reader:
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
