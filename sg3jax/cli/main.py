"""The console command `sg3jax COMMAND --option=value ...`."""

import importlib
import sys

COMMANDS = {
  'spec': 'shows the design of a model, layer by layer',
  'train': 'trains a model',
  'sweep': 'analyses or trains many variants of a model',
  'generate': 'draws pictures with a trained model',
  'evaluate': 'measures a trained model',
  'import': 'converts an official checkpoint, safely',
  'export': 'writes a model under official names',
  'doctor': 'shows what this machine can do, and tests it',
}


def main() -> None:
  """Runs the command that the first argument names."""
  name = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if name in COMMANDS:
    # Each command defines flags of its own: import the one that runs.
    module = 'import_' if name == 'import' else name  # A word of Python.
    command = importlib.import_module(f'sg3jax.cli.{module}')
    command.main([f'sg3jax {name}', *sys.argv[2:]])
    return
  usage = '\n'.join(
    f'  {command:10s} {purpose}' for command, purpose in COMMANDS.items()
  )
  usage = f'usage: sg3jax COMMAND --option=value ...\n{usage}\n'
  if name in ('-h', '--help', 'help'):
    print(usage + '`sg3jax COMMAND --help` lists the options of a command.')
  else:
    sys.exit(f'error: there is no command {name!r}\n{usage}')
