"""Checkpoints: asynchronous, atomic, and restored bit for bit.

A run keeps them in `checkpoints/STEP/`. Orbax writes each into a temporary
folder and renames it when it is complete, so a run that dies while saving
leaves the checkpoints before it intact and no half of one.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sg3jax.train.state import TrainState
from sg3jax.types import Tree

FOLDER = 'checkpoints'

# Parts of a checkpoint: a reader of pictures needs only the first and the
# options, and never meets the optimizers.
_NETWORKS = ('generator_ema', 'generator', 'discriminator')
_PROGRESS = (
  'step', 'nimg', 'generator_opt', 'discriminator_opt', 'pl_mean', 'augment'
)  # fmt: skip


class Checkpoints:
  """Saves and restores the states of one run.

  Args:
    workdir: The run folder.
    keep: Newest checkpoints to keep.
  """

  def __init__(self, workdir: str | pathlib.Path, *, keep: int = 3):
    self._folder = pathlib.Path(workdir).absolute() / FOLDER
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True
      ),
    )

  def latest(self) -> int | None:
    """Returns the step of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(self, state: TrainState, options: dict[str, Any]) -> None:
    """Starts saving a state and returns; writing goes on in the background.

    Args:
      state: The state. It may be donated as soon as this returns.
      options: The run's configuration, kept beside the arrays.
    """
    if jax.default_backend() == 'cpu':
      # There the writer would read the live buffers, which the next training
      # step overwrites.
      state = jax.tree.map(jnp.copy, state)
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        networks=ocp.args.StandardSave(_part(state, _NETWORKS)),
        progress=ocp.args.StandardSave(_part(state, _PROGRESS)),
        options=ocp.args.JsonSave(options),
      ),
    )

  def restore(self, like: TrainState) -> TrainState:
    """Returns the newest state.

    Args:
      like: A state of `jax.ShapeDtypeStruct` with the shardings wanted, which
        may differ from those of the run that saved.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it holds arrays of other names or shapes.
    """
    step = self.latest()
    if step is None:
      raise FileNotFoundError(f'no complete checkpoint in {self._folder}')
    _check(self._folder / str(step), like)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        networks=ocp.args.StandardRestore(_part(like, _NETWORKS)),
        progress=ocp.args.StandardRestore(_part(like, _PROGRESS)),
      ),
    )
    return TrainState(**restored['networks'], **restored['progress'])

  def close(self) -> None:
    """Waits until everything is written."""
    self._manager.wait_until_finished()
    self._manager.close()


def _part(state: TrainState, fields: tuple[str, ...]) -> dict[str, Tree]:
  parts = {name: getattr(state, name) for name in fields}
  return {name: part for name, part in parts.items() if part is not None}


def load_networks(
  path: str | pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Tree], int]:
  """Reads the networks of a run or of one checkpoint, as NumPy arrays.

  Args:
    path: A run folder (its newest checkpoint is read), its `checkpoints`
      folder, or one checkpoint.

  Returns:
    The run's options; variables by name: `generator_ema`, `generator`,
    `discriminator`; and the step.

  Raises:
    FileNotFoundError: If there is no complete checkpoint; the message says
      where one was looked for.
  """
  folder = _locate(pathlib.Path(path).absolute())
  restored = _read(folder, ('networks', 'options'))
  return restored['options'], restored['networks'], int(folder.name)


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
  """Returns whether a run folder, if it exists, holds a complete checkpoint."""
  return bool(_steps(pathlib.Path(workdir) / FOLDER))


def load_arrays(path: str | pathlib.Path) -> dict[str, Tree]:
  """Reads all arrays of a checkpoint, optimizers included, as NumPy arrays.

  Args:
    path: As in `load_networks`.

  Raises:
    FileNotFoundError: As in `load_networks`.
  """
  folder = _locate(pathlib.Path(path).absolute())
  return _read(folder, ('networks', 'progress'))


def _reader() -> ocp.Checkpointer:
  return ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(
      networks=ocp.PyTreeCheckpointHandler(),
      progress=ocp.PyTreeCheckpointHandler(),
      options=ocp.JsonCheckpointHandler(),
    )
  )


def _read(folder: pathlib.Path, names: tuple[str, ...]) -> dict[str, Any]:
  """Reads parts of one checkpoint."""
  with _reader() as reader:
    trees = reader.metadata(folder).item_metadata
    args = {}
    for name in names:
      if name == 'options':
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
  """Raises a ValueError if a state of other parts or networks is stored."""
  with _reader() as reader:
    trees = reader.metadata(folder).item_metadata
  parts = set(trees['progress'].tree) ^ set(_part(like, _PROGRESS))
  if parts:
    raise ValueError(
      f'the checkpoint {folder} and the configuration do not both have the '
      f'state of {", ".join(sorted(parts))}: use the options it was trained '
      'with, or another --workdir'
    )
  stored, wanted = (
    {
      jax.tree_util.keystr(path, simple=True, separator='/'): tuple(x.shape)
      for path, x in jax.tree.leaves_with_path(networks)
    }
    for networks in (trees['networks'].tree, _part(like, _NETWORKS))
  )
  differences = [
    f'{name} is {stored.get(name, "absent")}, not {wanted.get(name, "there")}'
    for name in dict.fromkeys((*wanted, *stored))
    if stored.get(name) != wanted.get(name)
  ]
  if differences:
    more = f' and {len(differences) - 3} more' if len(differences) > 3 else ''
    raise ValueError(
      f'the checkpoint {folder} is of other networks than the configuration: '
      f'{"; ".join(differences[:3])}{more}. Use the options it was trained '
      'with, or another --workdir'
    )


def _locate(path: pathlib.Path) -> pathlib.Path:
  """Returns the folder of the checkpoint that a path means."""
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


def _steps(folder: pathlib.Path) -> list[int]:
  """Returns the steps of the complete checkpoints in a folder."""
  return [
    int(path.parent.name)
    for path in folder.glob('*/networks')
    if path.parent.name.isdigit() and path.is_dir()
  ]
