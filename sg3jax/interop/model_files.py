"""Reads and writes this package's model files: arrays and a configuration.

    config.json         the configuration and where the model came from
    model.safetensors   all arrays: `generator_ema/params/.../weight`

Neither file can hold code. Arrays are mapped into memory, and only requested
ones are read. This module also writes exported files.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from sg3jax import files
from sg3jax.interop import schema
from sg3jax.interop.torch_pickle.records import CheckpointError, quoted
from sg3jax.trees import flatten, unflatten
from sg3jax.types import Tree
from sg3jax.version import __version__

ARRAYS = 'model.safetensors'
CONFIG = 'config.json'

ARRAY_SUFFIXES = ('.npz', '.safetensors')
PROGRAM_SUFFIX = '.stablehlo'
_FORMAT = 'sg3jax.model'
_VERSION = 1

# More than anyone trains.
_MAX_KIMG = 1e9


def is_model_folder(path: str | pathlib.Path) -> bool:
  """Returns whether a folder holds a model's files."""
  path = pathlib.Path(path)
  return (path / CONFIG).is_file() and (path / ARRAYS).is_file()


def check_is_new(path: str | pathlib.Path) -> None:
  """Checks that a folder is free to be written.

  Raises:
    FileExistsError: If it contains files, is a file, or is a link.
  """
  path = pathlib.Path(path)
  if path.is_symlink():  # A folder cannot replace a link atomically.
    raise FileExistsError(f'{path} is a link: choose another folder')
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f'{path} exists and is not empty: choose another folder'
    )
  files.check_folder(path)


def save(
  path: str | pathlib.Path,
  model: Mapping[str, Any],
  networks: Mapping[str, Tree],
  source: Mapping[str, Any],
) -> None:
  """Writes a model; the folder appears once it is complete.

  Args:
    path: The folder, which must be new or empty.
    model: The `model` part of the configuration.
    networks: Variables by name, from `schema.NETWORKS`.
    source: Where the model came from, for `config.json`.

  Raises:
    FileExistsError: If the folder contains files, or is a file.
  """
  path = pathlib.Path(path).absolute()
  check_is_new(path)
  config = {
    'format': _FORMAT,
    'version': _VERSION,
    'written_by': f'sg3jax {__version__}',
    'source': dict(source),
    'networks': sorted(networks),
    'options': {'model': dict(model)},
  }
  arrays = {
    f'{network}/{name}': np.asarray(array, order='C')
    for network, variables in networks.items()
    for name, array in flatten(variables).items()
  }
  with _naming_errors(path), _replacing_folder(path) as temporary:
    safetensors_numpy.save_file(arrays, temporary / ARRAYS)
    (temporary / CONFIG).write_text(json.dumps(config, indent=2) + '\n')
    # Both are created readable only by their owner.
    temporary.chmod(0o755)
    (temporary / ARRAYS).chmod(0o644)


@contextlib.contextmanager
def _replacing_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder to fill, which replaces `path` on success."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = pathlib.Path(
    tempfile.mkdtemp(prefix=f'.{path.name}-', dir=path.parent)
  )
  try:
    yield temporary
    os.replace(temporary, path)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise


@contextlib.contextmanager
def _naming_errors(path: pathlib.Path) -> Iterator[None]:
  """Turns all write errors into OSErrors that name the path."""
  try:
    with files.naming_errors(path):
      yield
  except safetensors.SafetensorError as error:
    raise files.write_error(path, error) from error


def load(
  path: str | pathlib.Path,
  networks: Iterable[str] = ('generator_ema', 'discriminator'),
) -> tuple[dict[str, Any], dict[str, Tree]]:
  """Reads a model.

  Args:
    path: The folder.
    networks: Names of the networks to read, if the model has them.

  Returns:
    The options and variables by network.

  Raises:
    CheckpointError: If a file is damaged or has a later version, or if the
      arrays do not fit the configuration.
  """
  path = pathlib.Path(path)
  options = read_config(path)['options']
  with _open_arrays(path / ARRAYS) as file:
    try:
      schema.check_design(options['model'])
      shapes = _shapes(file)
      shapes = {name: shapes[name] for name in networks if name in shapes}
      for network, found in shapes.items():
        schema.check_shapes(network, options['model'], found)
    except CheckpointError as error:
      raise CheckpointError(f'{path}: {error}') from error
    # Names match the design now, so no array name is a prefix of another.
    return options, {
      network: unflatten(
        {name: file.get_tensor(f'{network}/{name}') for name in found}
      )
      for network, found in shapes.items()
    }


def _shapes(file: Any) -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns shapes by network and path, without reading any array."""
  shapes: dict[str, dict[str, tuple[int, ...]]] = {}
  for name in file.keys():  # noqa: SIM118
    network, _, path = name.partition('/')
    if network not in schema.NETWORKS:
      raise CheckpointError(f'{quoted(name)} is an array of no network')
    array = file.get_slice(name)
    if array.get_dtype() != 'F32':
      raise CheckpointError(
        f'the array {quoted(name)} is {array.get_dtype()}, not float32'
      )
    shapes.setdefault(network, {})[path] = tuple(array.get_shape())
  if 'generator_ema' not in shapes:
    raise CheckpointError('there is no generator_ema')
  return shapes


def check_is_new_file(
  path: str | pathlib.Path, suffixes: Sequence[str]
) -> None:
  """Checks that a file is free to be written.

  Args:
    path: The file.
    suffixes: Allowed suffixes of its name.

  Raises:
    ValueError: If the suffix is different.
    FileExistsError: If the file exists, even as a broken link.
  """
  path = pathlib.Path(path)
  if path.suffix not in suffixes:
    raise ValueError(
      f'{path} must end in {", ".join(suffixes[:-1])} or {suffixes[-1]}'
    )
  if path.exists() or path.is_symlink():
    raise FileExistsError(f'{path} exists: choose another name')
  files.check_folder(path.parent)


def save_arrays(
  path: str | pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> None:
  """Writes arrays by name as `.npz` or `.safetensors`.

  Raises:
    ValueError: If the suffix is different.
    FileExistsError: If the file exists.
  """
  check_is_new_file(path, ARRAY_SUFFIXES)
  path = pathlib.Path(path)
  with _naming_errors(path), files.replacing(path) as temporary:
    if temporary.suffix == '.npz':
      np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
    else:
      safetensors_numpy.save_file(dict(arrays), temporary)
      temporary.chmod(0o644)  # It is created readable only by its owner.


def save_program(
  path: str | pathlib.Path, program: bytes, about: Mapping[str, Any]
) -> pathlib.Path:
  """Writes a program as `.stablehlo`, and its description as JSON.

  Args:
    path: The file. The JSON file has the same name with `.json` appended.
    program: The program from `stablehlo.export_program`.
    about: The description returned with it.

  Returns:
    The path of the JSON file, which also has the program's SHA-256.

  Raises:
    ValueError: If the suffix is different.
    FileExistsError: If one of the two files exists.
  """
  path = pathlib.Path(path)
  about_path = path.with_name(f'{path.name}.json')
  check_is_new_file(path, [PROGRAM_SUFFIX])
  check_is_new_file(about_path, ['.json'])
  digest = hashlib.sha256(program).hexdigest()
  text = json.dumps({**about, 'sha256': digest}, indent=2) + '\n'
  # Write the program last, so that it never exists without its description.
  with files.naming_errors(path):
    files.write_bytes(about_path, text.encode())
    files.write_bytes(path, program)
  return about_path


def read_config(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the configuration in a model's folder.

  Returns:
    A mapping with `options`, which has a `model` part, and `source`, which
    states where the model came from.

  Raises:
    CheckpointError: If it is damaged or has a later version.
  """
  path = pathlib.Path(path) / CONFIG
  try:
    config = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise CheckpointError(f'{path} must be JSON: {error}') from error
  if not isinstance(config, dict) or config.get('format') != _FORMAT:
    raise CheckpointError(
      f'{path} must be the configuration of a model of sg3jax'
    )
  version = config.get('version')
  if version != _VERSION:
    # Other values may be as large as the file, or nested too deep to print.
    shown = version if isinstance(version, int) else quoted(version)
    raise CheckpointError(
      f'{path} must be of version {_VERSION}, got {shown}: read it with the '
      'sg3jax that wrote it, or a later one'
    )
  options = config.get('options')
  if not isinstance(options, dict) or not isinstance(
    options.get('model'), dict
  ):
    raise CheckpointError(f'{path} has no options of a model')
  return config


def read_kimg(path: str | pathlib.Path) -> float:
  """Reads how many thousands of images a model was shown; 0 if unknown.

  Args:
    path: The model's folder.

  Raises:
    CheckpointError: If its configuration is damaged.
  """
  source = read_config(path).get('source')
  kimg = source.get('kimg') if isinstance(source, dict) else None
  if isinstance(kimg, int | float) and 0 <= kimg <= _MAX_KIMG:
    return float(kimg)
  return 0.0


@contextlib.contextmanager
def _open_arrays(path: pathlib.Path) -> Iterator[Any]:
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      yield file
  except safetensors.SafetensorError as error:
    raise CheckpointError(f'{path} is damaged: {error}') from error
