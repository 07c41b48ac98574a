"""Flags that commands share, flag parsing and one-line error messages."""

import math
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from sg3jax import files
from sg3jax.cli import compilation_cache, official_options
from sg3jax.nets import factory
from sg3jax.train import sharding
from sg3jax.train.config import fields


class PathParser(flags.ArgumentParser):
  """Parses paths: expands `~` to the home folder and rejects addresses.

  Attributes:
    may_be_remote: Whether an address is accepted, and returned unchanged.
  """

  def __init__(self, *, may_be_remote: bool = False):
    super().__init__()
    self.may_be_remote = may_be_remote

  def parse(self, argument: str) -> str:
    """Returns the path.

    Raises:
      ValueError: If it is an address and `may_be_remote` is False.
    """
    if not argument or (self.may_be_remote and '://' in argument):
      return argument
    return str(files.local_path(argument))


PATH = PathParser()

DEVICES = flags.DEFINE_integer(
  'devices', None, 'Number of devices to use; all by default.', lower_bound=1
)
flags.DEFINE_alias('gpus', 'devices')
NETWORK = flags.DEFINE(
  PATH,
  'network',
  None,
  'A run folder (its newest checkpoint), RUN/checkpoints/STEP, '
  'RUN/checkpoints/best, an imported model, or demo, the model in this '
  'package.',
)
PRECISION = flags.DEFINE_enum(
  'precision',
  'fp32',
  list(factory.PRECISIONS),
  'Precision of the generator; bf16 and fp16 apply to the four highest octaves '
  'of resolution.',
)
BATCH = flags.DEFINE_integer(
  'batch',
  None,
  'Number of images per batch; by default, as many as fit in device memory. '
  'evaluate requires a multiple of 4 per device.',
  lower_bound=1,
)
_COMPILATION_CACHE = flags.DEFINE(
  PathParser(may_be_remote=True),
  'compilation_cache',
  None,
  'Folder that caches compiled programs between commands, or none; by default '
  'the folder configured in JAX, or else sg3jax/compiled in your cache folder.',
)
WEIGHTS_DIR = flags.DEFINE(
  PATH,
  'weights_dir',
  None,
  'Folder with the weights of feature networks; by default that of the '
  'environment variable SG3JAX_WEIGHTS_DIR, or else sg3jax/weights in your '
  'cache folder.',
)
_STATS_CACHE = flags.DEFINE(
  PATH,
  'stats_cache',
  None,
  'Folder that keeps features of real images between commands, or none; by '
  'default sg3jax/statistics in your cache folder.',
)
OUTDIR = flags.DEFINE(PATH, 'outdir', None, 'Folder for the results.')
OUTPUT = flags.DEFINE(
  PATH,
  'output',
  None,
  'Output path, which must not exist yet: a .npz, .safetensors or .stablehlo '
  'file for export, a folder for import, an .html file for report, a .mp4, '
  '.webp or .gif file for video.',
)

# The name and the arguments of the command that is running.
COMMAND_LINE: list[str] = []

_HELP = frozenset(['--help', '--helpshort', '-help', '-h', '-?'])
_DEBUG = flags.DEFINE_bool('debug', False, 'Show the traceback of errors.')

# Wrong input raises these errors. Any other error is a bug in this package and
# is shown with its traceback.
_USER_ERRORS = (
  ValueError,
  OSError,
  ImportError,
  NotImplementedError,
  FloatingPointError,
)

_FIELD = re.compile(r'(?<![\w./-])(?:config\.)?([a-z]\w*(?:\.\w+)*)')
# With this, errors of XLA begin if a device has too little memory.
_EXHAUSTED = re.compile('RESOURCE_EXHAUSTED')
_CONFIG_ARGUMENT = re.compile(r'(?<=\s)config=')


def run(
  main: Callable[..., None],
  argv: list[str] | None = None,
  *,
  arguments: int = 0,
  optional: int | None = 0,
  name: str = 'FILE',
) -> None:
  """Parses the flags and runs a command; reports wrong input in one message.

  Args:
    main: The command. `--help` shows its module's docstring and flags.
    argv: The program's name and its arguments; `sys.argv` if None.
    arguments: Number of positional arguments that `main` takes.
    optional: Number of further ones that it may be given; None for any.
    name: Name of a positional argument in errors.
  """

  def parse(args: list[str]) -> list[str]:
    module = main.__module__
    COMMAND_LINE[:] = args
    if _HELP.intersection(args):
      print(sys.modules[module].__doc__)
      print(flags.FLAGS.module_help(module).strip().partition('\n')[2])
      sys.exit()
    return _parse(args, module)

  def guarded(args: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      # Libraries log each of their steps; this package prints its own.
      logging.set_verbosity(logging.WARNING)
    try:
      values = args[1:]
      most = len(values) if optional is None else arguments + optional
      if len(values) > most:
        raise ValueError(
          f'unexpected argument {values[most]!r}: write options as --name=value'
        )
      if len(values) < arguments:
        raise ValueError(f'a {name} is required: --help shows how')
      compilation_cache.enable(_COMPILATION_CACHE.value)
      main(*values)
      sys.stdout.flush()  # At exit, a full disk would be noticed too late.
    except BrokenPipeError:  # The reader of the output has closed it.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      sys.exit(1)
    except Exception as error:
      if _DEBUG.value:
        raise
      sys.exit(
        f'error: {_explain(error, main.__module__)}\n(--debug shows where)'
      )

  app.run(guarded, argv=argv, flags_parser=parse)


def _explain(error: Exception, module: str) -> str:
  """Returns the message for a user error; re-raises any other error."""
  own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)}
  if isinstance(error, OSError) and error.errno and error.filename:
    # Python's own message begins with `[Errno 2]`.
    return f'{error.filename}: {error.strerror}'
  if isinstance(error, _USER_ERRORS):
    message = str(error)
    for name in {'against', 'data'} & own:
      if repr(flags.FLAGS[name].value) in message:
        message = message.replace('data.source', f'--{name}')
    return _with_flag(with_flags(message), module)
  if isinstance(error, RuntimeError | AssertionError):
    try:
      sharding.find_devices()
    except ValueError as reason:
      return str(reason)
  if isinstance(error, MemoryError) or _EXHAUSTED.match(str(error)):
    reason = ' '.join(str(error).split())[:200]
    return (
      'there is too little memory: use a smaller batch, or more '
      f'train.micro_batches in training ({reason})'
    )
  raise error


def _with_flag(message: str, module: str) -> str:
  """Writes the argument with which a message begins as a flag of the command.

  The library's messages name arguments: `zoom must be ..., got 0` becomes
  `--zoom must be ..., got 0`. A message about `images` that did not get a
  number is not about the flag `--images`, which is one.
  """
  begin = re.match(r'(\w+) must ', message)
  for flag in flags.FLAGS.get_key_flags_for_module(module):
    if begin is not None and flag.name == begin[1]:
      is_number = isinstance(flag.value, int | float)
      if not is_number or re.search(r'got [\d.e+-]+(?![\w.-])', message):
        return f'--{message}'
  return message


def with_flags(message: str) -> str:
  """Replaces field names in a message by the flags that set them.

  The library's messages name fields, as in `train.batch must be ...`.
  """
  if 'config' not in flags.FLAGS:
    return message
  known = dict(fields.leaves(flags.FLAGS['config'].value or {}))

  def replace(match: re.Match[str]) -> str:
    is_field = '.' in match[0] and match[1] in known
    return f'--config.{match[1]}' if is_field else match[0]

  return _CONFIG_ARGUMENT.sub('--config=', _FIELD.sub(replace, message))


def _parse(args: list[str], module: str) -> list[str]:
  """Parses flags; exits with a one-line error if they are invalid.

  Args:
    args: The program's name and its arguments.
    module: The module of the command.
  """
  unknown = _unknown_flags(args, module)
  if unknown:
    sys.exit(
      f'error: {official_options.explain(module, unknown, list(flags.FLAGS))} '
      '(--help lists the options)'
    )
  # ml_collections looks for overrides of fields in sys.argv.
  argv, sys.argv = sys.argv, list(args)
  try:
    values = flags.FLAGS(args)
    _check_finite()
    return values
  except flags.Error as error:
    # An error in a configuration file has a traceback between these two lines.
    lines = str(error).strip().splitlines()
    message = ' '.join(dict.fromkeys((lines[0], lines[-1])))
  except Exception as error:  # A user's file may raise anything.
    message = _config_error(error)
  finally:
    sys.argv = argv
  message = ' '.join(message.split())
  sys.exit(f'error: {message} (--help lists the options)')


def _unknown_flags(args: Sequence[str], module: str) -> list[str]:
  """Returns the names of the flags that a command does not accept."""
  own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)}
  own |= {'debug', *(['gpus'] if 'devices' in own else [])}
  # Flags of other commands are defined too, and would be silently ignored.
  package = __name__.rpartition('.')[0]
  others = {
    flag.name
    for name, defined in flags.FLAGS.flags_by_module_dict().items()
    if name.startswith(package)
    for flag in defined
  } - own
  unknown = []
  for arg in args[1:]:
    if arg == '--':
      break
    match = re.match(r'--?([a-zA-Z][\w-]*)(?![\w.-])', arg)
    if not match:  # A positional argument, or a field of the configuration.
      continue
    name = match[1]
    is_known = name in flags.FLAGS or name.removeprefix('no') in flags.FLAGS
    if not is_known or name in others:
      unknown.append(name)
  return unknown


def _check_finite() -> None:
  """Exits with an error unless all numbers in flags and fields are finite."""
  values: dict[str, Any] = {
    f'--{name}': flags.FLAGS[name].value for name in flags.FLAGS
  }
  if 'config' in flags.FLAGS:
    config = flags.FLAGS['config'].value
    values |= {f'--config.{k}': v for k, v in fields.leaves(config or {})}
  for name, value in values.items():
    if isinstance(value, float) and not math.isfinite(value):
      sys.exit(f'error: {name} must be a finite number, got {value}')


def _config_error(error: Exception) -> str:
  """Returns a one-line message about an error in a configuration or its file.

  The line ends with the place in the user's file, if the error arose there.
  """
  frames = traceback.extract_tb(error.__traceback__)
  # ml_collections wraps its message, which suggests a similar key, twice.
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  message = str(error.args[0] if error.args else error)
  if isinstance(error, SyntaxError):
    return f'the configuration cannot be read: {error}'
  if isinstance(error, AttributeError | KeyError):
    # The message also lists all fields and their values: remove them.
    values = re.compile(
      r'Other fields present: .*?(?=Did you mean|$)', re.DOTALL
    )
    message = values.sub('', message)
    message = f'no such key in the configuration: {message}'
  else:
    message = f'the configuration cannot be made: {message}'
    if not isinstance(error, _USER_ERRORS):
      message += f' ({type(error).__name__})'
  package = os.path.dirname(files.__file__)
  for frame in reversed(frames):
    if 'site-packages' not in frame.filename and not frame.filename.startswith(
      (package, os.path.dirname(os.__file__))
    ):
      return f'{message} ({frame.filename}, line {frame.lineno})'
  return message


def say(text: str) -> None:
  """Prints a progress message to standard error; results go to stdout."""
  print(text, file=sys.stderr, flush=True)


def stats_cache() -> pathlib.Path | None:
  """Returns the folder for features of real images; None to keep none."""
  if _STATS_CACHE.value == 'none':
    return None
  if _STATS_CACHE.value:
    return pathlib.Path(_STATS_CACHE.value)
  try:
    return files.cache_folder() / 'statistics'
  except RuntimeError:  # The user has no home folder.
    return None


def check_action(action: str, actions: Sequence[str]) -> None:
  """Checks the positional argument that chooses what a command does.

  Args:
    action: The argument; empty if there is none.
    actions: The possible ones.

  Raises:
    ValueError: If it is none of them.
  """
  if action not in actions:
    raise ValueError(
      f'the action must be one of {", ".join(actions)}, got '
      f'{repr(action) if action else "none"}: --help shows how'
    )


def require(flag: flags.FlagHolder) -> Any:
  """Returns a flag's value.

  Raises:
    ValueError: If it is not set.
  """
  if not flag.value:
    raise ValueError(f'--{flag.name} is required: --help lists the options')
  return flag.value
