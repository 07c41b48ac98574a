"""What the commands share: flags of the same name, parsing, error messages."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging
from jaxtyping import Float

from sg3jax.cli import compilation_cache
from sg3jax.data import labels as labels_lib
from sg3jax.data import report
from sg3jax.nets import factory

DEVICES = flags.DEFINE_integer(
  'devices', None, 'How many devices to use; all by default.', lower_bound=1
)
flags.DEFINE_alias('gpus', 'devices')
NETWORK = flags.DEFINE_string(
  'network',
  None,
  'A run folder (its newest checkpoint), RUN/checkpoints/STEP, '
  'RUN/checkpoints/best, or an imported model.',
)
PRECISION = flags.DEFINE_enum(
  'precision',
  'fp32',
  list(factory.PRECISIONS),
  'What the generator computes in; the 16-bit types store the four highest '
  'octaves of resolution.',
)
BATCH = flags.DEFINE_integer(
  'batch',
  None,
  'Images at a time; by default what fits the memory of the devices. evaluate '
  'needs a multiple of 4 for each device.',
  lower_bound=1,
)
_COMPILATION_CACHE = flags.DEFINE_string(
  'compilation_cache',
  None,
  'Folder where compiled programs are kept for the next command, or none; by '
  'default sg3jax/compiled in your cache folder, or what JAX has been told.',
)
OUTDIR = flags.DEFINE_string('outdir', None, 'Folder for the results.')
_HELP = frozenset(['--help', '--helpshort', '-help', '-h', '-?'])
_DEBUG = flags.DEFINE_bool('debug', False, 'Show the traceback of errors.')

# What wrong input raises. Anything else is a fault of ours: show it all.
_USER_ERRORS = (
  ValueError,
  OSError,
  ImportError,
  NotImplementedError,
  FloatingPointError,
)


def run(
  main: Callable[..., None],
  argv: list[str] | None = None,
  *,
  arguments: int = 0,
) -> None:
  """Parses the flags and runs a command; wrong input ends with one message.

  Args:
    main: The command. `--help` shows its module's docstring and flags.
    argv: The program's name and its arguments; those of the process if None.
    arguments: How many arguments without a name `main` takes.
  """

  def parse(args: list[str]) -> list[str]:
    if _HELP.intersection(args):
      module = main.__module__
      print(sys.modules[module].__doc__)
      print(flags.FLAGS.module_help(module).strip().partition('\n')[2])
      sys.exit()
    return _parse(args)

  def guarded(args: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      # Libraries report every step of theirs; ours are printed.
      logging.set_verbosity(logging.WARNING)
    try:
      values = args[1:]
      if len(values) > arguments:
        raise ValueError(
          f'unexpected argument {values[arguments]!r}: write options as '
          '--name=value'
        )
      if len(values) < arguments:
        raise ValueError('a FILE is required: --help shows how')
      compilation_cache.enable(_COMPILATION_CACHE.value)
      main(*values)
    except _USER_ERRORS as error:
      if _DEBUG.value:
        raise
      sys.exit(f'error: {error}\n(--debug shows where)')

  app.run(guarded, argv=argv, flags_parser=parse)


def _parse(args: list[str]) -> list[str]:
  """Parses flags; what is not understood ends with one line."""
  try:
    return flags.FLAGS(args)
  except flags.Error as error:
    # A configuration file's error comes with a traceback in between.
    lines = str(error).strip().splitlines()
    message = ' '.join(dict.fromkeys((lines[0], lines[-1])))
  except (AttributeError, KeyError) as error:
    # ml_collections wraps its message, which names a similar key, twice.
    while isinstance(error.args[0], Exception):
      error = error.args[0]
    message = f'no such key in the configuration: {error.args[0]}'
  message = ' '.join(message.split())
  sys.exit(f'error: {message} (--help lists the options)')


def say(text: str) -> None:
  """Prints a line about the work, beside the results on standard output."""
  print(text, file=sys.stderr, flush=True)


def require(flag: flags.FlagHolder) -> Any:
  """Returns a flag's value.

  Raises:
    ValueError: If it was not given.
  """
  if not flag.value:
    raise ValueError(f'--{flag.name} is required: --help lists the options')
  return flag.value


def parse_seeds(text: str) -> list[int]:
  """Returns the seeds of a list like `0,1,4-6`.

  Raises:
    ValueError: If it is not such a list.
  """
  seeds = []
  for part in text.split(','):
    match = re.fullmatch(r'\s*(\d+)(?:-(\d+))?\s*', part)
    if not match:
      raise ValueError(
        f'--seeds={text} is not understood at {part!r}: use numbers and ranges '
        'such as 0,1,4-6'
      )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
      raise ValueError(f'--seeds={text}: the range {part!r} runs backwards')
    seeds.extend(range(first, last + 1))
  return seeds


def make_label(
  chosen: str | None,
  numbers: Sequence[str] | None,
  label_dim: int,
  class_names: Sequence[str] | None = None,
) -> Float[np.ndarray, ' classes'] | None:
  """Returns the label that is asked for; None for unconditional networks.

  Args:
    chosen: A class, by its index or its name. A number is an index, even if it
      is the name of another class.
    numbers: A label itself, instead.
    label_dim: Features of the network's labels.
    class_names: Names of the classes, if they are known.

  Raises:
    ValueError: If a label is missing, or given without need, or out of range.
  """
  if not label_dim:
    for flag, value in (('class', chosen), ('label', numbers)):
      if value is not None:
        raise ValueError(f'--{flag} was given, but the network takes no labels')
    return None
  if numbers is None:
    index = _find_class(chosen, label_dim, class_names or ())
    return labels_lib.one_hot(index, label_dim)
  try:
    label = np.array([float(x) for x in numbers], np.float32)
  except ValueError:
    label = np.zeros(0, np.float32)
  is_whole = label.shape == (label_dim,) and np.all(np.isfinite(label))
  if chosen is not None or not is_whole:
    raise ValueError(
      f'--label={",".join(numbers)} is not understood: pass {label_dim} '
      'numbers X,Y,... and no --class'
    )
  return label


def _find_class(
  chosen: str | None, label_dim: int, class_names: Sequence[str]
) -> int:
  """Returns the index of a class given by index or name.

  Raises:
    ValueError: If there is no such class; the message names those there are.
  """
  if chosen is not None:
    is_index = chosen.isascii() and chosen.isdecimal()
    if is_index and len(chosen) < 10 and int(chosen) < label_dim:
      return int(chosen)
    if not is_index and chosen in class_names:
      return class_names.index(chosen)
  given = '' if chosen is None else f', and has no class --class={chosen}'
  named = f' (or its name: {report.examples(class_names)})'
  raise ValueError(
    f'the network is conditional{given}: pass --class=0 to '
    f'--class={label_dim - 1}{named if class_names else ""}, or --label with '
    f'{label_dim} numbers'
  )
