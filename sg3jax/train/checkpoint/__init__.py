"""Checkpoints of a run: saving, restoring, reading, ranking."""

from sg3jax.train.checkpoint.manager import Checkpoints as Checkpoints
from sg3jax.train.checkpoint.manager import (
  IncompatibleError as IncompatibleError,
)
from sg3jax.train.checkpoint.ranking import Best as Best
from sg3jax.train.checkpoint.reader import BEST as BEST
from sg3jax.train.checkpoint.reader import FOLDER as FOLDER
from sg3jax.train.checkpoint.reader import has_checkpoint as has_checkpoint
from sg3jax.train.checkpoint.reader import load_arrays as load_arrays
from sg3jax.train.checkpoint.reader import load_networks as load_networks
from sg3jax.train.checkpoint.reader import load_options as load_options
