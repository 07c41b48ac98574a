"""Commands in this process: faster than in one of their own."""

import contextlib
import io

from absl.testing import flagsaver


def run(command, *args):
  """Runs a command as the console does.

  Args:
    command: Its module.
    *args: Its arguments.

  Returns:
    The exit status, or the message that stands for 1; and what was printed.
  """
  name = command.__name__.rpartition('.')[2].rstrip('_')
  out = io.StringIO()
  with flagsaver.flagsaver(), contextlib.redirect_stdout(out):
    try:
      command.main([f'sg3jax {name}', *map(str, args)])
    except SystemExit as end:
      return end.code, out.getvalue()
  raise AssertionError('a command ends by exiting')


def error(command, *args):
  """Returns the one line that a command ends with, which must be an error."""
  message, out = run(command, *args)
  assert isinstance(message, str), message
  line, *rest = message.splitlines()
  assert rest in ([], ['(--debug shows where)'])
  assert not out
  assert len(line) < 400
  return line.removeprefix('error: ')
