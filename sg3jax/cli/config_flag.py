"""The flag `--config`, shared by the commands that need a configuration."""

import os
import sys
from collections.abc import Sequence

from ml_collections import config_flags

from sg3jax.train.config import files as config_files

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration: NAME[:ARGUMENT] or FILE.py[:ARGUMENT].'
)


def locate(args: Sequence[str]) -> list[str]:
  """Replaces a name in `--config` by its file; exits if it is unknown."""
  args = list(args)
  for i, arg in enumerate(args):
    flag, equals, value = arg.partition('=')
    if flag in ('--config', '-config'):
      try:
        if equals:
          args[i] = f'{flag}={_file(value)}'
        elif i + 1 < len(args):
          args[i + 1] = _file(args[i + 1])
      except ValueError as error:
        sys.exit(f'error: {error}')
      break
  return args


def _file(value: str) -> str:
  return config_files.locate(os.path.expanduser(value))
