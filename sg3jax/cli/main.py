"""The console command `sg3jax COMMAND --option=value ...`."""

import contextlib
import importlib
import os
import signal
import sys
import threading
import time

COMMANDS = {
  'data': 'prepares, inspects and verifies datasets',
  'spec': 'shows the design of a model, layer by layer',
  'train': 'trains a model',
  'sweep': 'analyses or trains many variants of a model',
  'generate': 'generates images with a trained model',
  'video': 'renders videos with a trained model',
  'view': 'shows models, and runs as they train, in a web browser',
  'evaluate': 'measures a trained model',
  'report': 'analyses trained models in one HTML page',
  'directions': 'finds directions in which images change',
  'project': 'finds the styles that generate photographs',
  'surgery': 'makes models from others without training',
  'import': 'converts an official checkpoint safely',
  'export': 'writes a model under official names',
  'weights': 'lists and imports the weights that metrics need',
  'doctor': 'shows versions, devices and kernels, and tests the operator',
}

_INTERRUPTED = 128 + signal.SIGINT

# Seconds that a command has to clean up after Ctrl-C. Python cannot interrupt a
# compilation, which may take minutes.
_GRACE = 2.0


def main() -> None:
  """Runs the command named by the first argument; Ctrl-C ends it."""
  # KeyboardInterrupt raised during an import may be swallowed or wrapped.
  before = signal.signal(signal.SIGINT, _end_at_once)
  try:
    command = _find_command()
    signal.signal(signal.SIGINT, before)
    _end_after_grace()
    if command is not None:
      command.main([f'sg3jax {sys.argv[1]}', *sys.argv[2:]])
  except KeyboardInterrupt:
    with contextlib.suppress(OSError):
      sys.stdout.flush()
    # A normal exit would wait for threads of libraries.
    _end_at_once()


def load(name: str):
  """Returns the module of a command of `COMMANDS`.

  Each command defines its own flags, so only those that run are imported.
  """
  module = 'import_' if name == 'import' else name  # `import` is reserved.
  return importlib.import_module(f'sg3jax.cli.{module}')


def _find_command():
  """Returns the module of the command; None after printing the help."""
  name = sys.argv[1] if len(sys.argv) > 1 else '--help'
  if name in COMMANDS:
    return load(name)
  usage = '\n'.join(
    f'  {command:10s} {purpose}' for command, purpose in COMMANDS.items()
  )
  usage = f'usage: sg3jax COMMAND --option=value ...\n{usage}\n'
  if name in ('-h', '--help', 'help'):
    print(usage + '`sg3jax COMMAND --help` lists the options of a command.')
    return None
  sys.exit(f'error: there is no command {name!r}\n{usage}')


def _end_at_once(*_) -> None:
  os.write(2, b'Interrupted\n')
  os._exit(_INTERRUPTED)


def _end_after_grace() -> None:
  """Makes Ctrl-C end the process even while Python cannot handle signals.

  The C-level handler writes a byte to a pipe at once, and a thread reads it.
  Training replaces the pipe with its own.
  """
  read_end, write_end = os.pipe()
  os.set_blocking(write_end, False)

  def listen() -> None:
    while os.read(read_end, 1)[0] != signal.SIGINT:
      pass
    time.sleep(_GRACE)
    _end_at_once()

  threading.Thread(target=listen, name='interrupt', daemon=True).start()
  signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
