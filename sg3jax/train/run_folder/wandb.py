"""Records the statistics of a run on Weights & Biases, if requested."""

import importlib
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

from sg3jax import files

_ID_FILE = 'wandb_id.txt'


class WandbRun:
  """A run on Weights & Biases, which every session of the local run continues.

  Its id is stored in `wandb_id.txt` in the run folder. Without a network,
  `WANDB_MODE=offline` records to `wandb/` in the run folder, for a later
  `wandb sync`.

  Args:
    project: The name of the project.
    workdir: The run folder.
    config: The configuration to record.

  Raises:
    ImportError: If the package is missing.
    OSError: If the run folder cannot be written.
  """

  def __init__(
    self, project: str, workdir: pathlib.Path, config: Mapping[str, Any]
  ):
    try:
      wandb = importlib.import_module('wandb')
    except ImportError as error:
      raise ImportError(
        'log.wandb_project needs a package that is missing: run pip '
        'install "sg3jax[wandb]", or leave that field unset'
      ) from error
    path = workdir / _ID_FILE
    if not path.exists():
      files.write_text(path, secrets.token_hex(8))
    self._run = wandb.init(
      project=project,
      name=workdir.name,
      dir=str(workdir),
      id=path.read_text(encoding='utf-8'),
      resume='allow',
      config=dict(config),
    )
    # A resumed run repeats some kimg. They are therefore an axis, not the step
    # count, which must increase.
    self._run.define_metric('Progress/kimg')
    self._run.define_metric('*', step_metric='Progress/kimg')

  def log(self, values: Mapping[str, float], kimg: float | int) -> None:
    """Sends values without waiting for the network.

    Args:
      values: Numbers by name.
      kimg: Thousands of images shown: the x axis.
    """
    self._run.log({**values, 'Progress/kimg': float(kimg)})

  def close(self) -> None:
    """Waits until everything is sent."""
    self._run.finish()
