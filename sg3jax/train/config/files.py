"""Finds configuration files: this package's by name, others by path."""

import importlib.util
import inspect
import pathlib

import sg3jax
from sg3jax.types import Config


def locate(value: str) -> str:
  """Returns `FILE.py[:ARGUMENT]` for `NAME[:ARGUMENT]`, or a file unchanged.

  Raises:
    ValueError: If there is no such configuration. The message lists the
      available ones.
  """
  name, colon, argument = value.partition(':')
  package = pathlib.Path(sg3jax.__file__).parent
  # They are inside an installed package, but next to the package in a clone.
  folders = [package / 'configs', package.parent / 'configs']
  candidates = [folder / f'{name}.py' for folder in folders]
  if name.endswith('.py'):
    candidates = [pathlib.Path(name)]
  for path in candidates:
    if path.is_file():
      return f'{path}{colon}{argument}'
  names = sorted({p.stem for f in folders for p in f.glob('*.py')})
  raise ValueError(
    f'there is no configuration {name!r}: use {", ".join(names)} or '
    'the path of a file'
  )


def load(value: str) -> Config:
  """Returns the configuration given by `NAME[:ARGUMENT]` or a file.

  Raises:
    ValueError: If no configuration has that name, it takes no argument, or
      the argument is invalid.
  """
  path, _, argument = locate(value).partition(':')
  module_spec = importlib.util.spec_from_file_location('sg3jax_config', path)
  assert module_spec is not None
  assert module_spec.loader is not None
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise ValueError(f'{path} must define get_config() to be a configuration')
  if not argument:
    return module.get_config()
  if not inspect.signature(module.get_config).parameters:
    raise ValueError(
      f'the configuration {path} takes no argument: leave {argument!r} out'
    )
  return module.get_config(argument)
