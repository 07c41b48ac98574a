"""Our own files of a trained model: safetensors and a configuration.

    config.json         the configuration and where the model came from
    model.safetensors   all arrays: `generator_ema/params/.../weight`

Neither can hold code. Arrays are mapped into memory and only those read that
are asked for. Exported files are written here too.
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


def is_model_folder(path: str | pathlib.Path) -> bool:
  """Returns whether a folder holds a model's files."""
  path = pathlib.Path(path)
  return (path / CONFIG).is_file() and (path / ARRAYS).is_file()


def check_is_new(path: str | pathlib.Path) -> None:
  """Checks that a folder can be written to.

  Raises:
    FileExistsError: If it has files, or is one, or a link.
  """
  path = pathlib.Path(path)
  if path.is_symlink():  # No folder can take its place at once.
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
  """Writes a model; the folder appears when it is complete.

  Args:
    path: The folder: a new or an empty one.
    model: The `model` part of the configuration.
    networks: Variables by name: of `schema.NETWORKS`.
    source: Where it came from, for `config.json`.

  Raises:
    FileExistsError: If the folder has files, or is one.
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
    # Both are made for their owner alone.
    temporary.chmod(0o755)
    (temporary / ARRAYS).chmod(0o644)


@contextlib.contextmanager
def _replacing_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder to fill, which takes the place of `path` if all is well."""
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
  """Makes errors of writing name the path; as OSError, whoever raises them."""
  try:
    with files.naming_errors(path):
      yield
  except safetensors.SafetensorError as error:
    raise OSError(f'{path} cannot be written: {error}') from error


def load(
  path: str | pathlib.Path,
  networks: Iterable[str] = ('generator_ema', 'discriminator'),
) -> tuple[dict[str, Any], dict[str, Tree]]:
  """Reads a model.

  Args:
    path: The folder.
    networks: Which networks to read, as far as the model has them.

  Returns:
    The options and variables by network.

  Raises:
    CheckpointError: If a file is damaged, of a later version, or if the arrays
      do not fit the configuration.
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
    # Names are those of the design now: no array is in the place of a folder.
    return options, {
      network: unflatten(
        {name: file.get_tensor(f'{network}/{name}') for name in found}
      )
      for network, found in shapes.items()
    }


def _shapes(file: Any) -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns shapes by network and path; no array is read yet."""
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
  """Checks that a file can be written.

  Args:
    path: The file.
    suffixes: How its name may end.

  Raises:
    ValueError: If the name ends otherwise.
    FileExistsError: If the file exists, be it as a link to nothing.
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
    ValueError: If the name ends otherwise.
    FileExistsError: If the file exists.
  """
  check_is_new_file(path, ARRAY_SUFFIXES)
  path = pathlib.Path(path)
  with _naming_errors(path), files.replacing(path) as temporary:
    if temporary.suffix == '.npz':
      np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
    else:
      safetensors_numpy.save_file(dict(arrays), temporary)
      temporary.chmod(0o644)  # It is made for its owner alone.


def save_program(
  path: str | pathlib.Path, program: bytes, about: Mapping[str, Any]
) -> pathlib.Path:
  """Writes a program as `.stablehlo`, and its description as JSON.

  Args:
    path: The file; the JSON beside it is called the same with `.json` behind.
    program: As `stablehlo.export_program` made it.
    about: The description that came with it.

  Returns:
    The path of the JSON, which also has the program's SHA-256.

  Raises:
    ValueError: If the name ends otherwise.
    FileExistsError: If one of the two files exists.
  """
  path = pathlib.Path(path)
  about_path = path.with_name(f'{path.name}.json')
  check_is_new_file(path, [PROGRAM_SUFFIX])
  check_is_new_file(about_path, ['.json'])
  digest = hashlib.sha256(program).hexdigest()
  text = json.dumps({**about, 'sha256': digest}, indent=2) + '\n'
  # The program last: where it is, the other is too.
  with files.naming_errors(path):
    files.write_bytes(about_path, text.encode())
    files.write_bytes(path, program)
  return about_path


def read_config(path: str | pathlib.Path) -> dict[str, Any]:
  """Reads the configuration of a model's folder.

  Returns:
    `options`, with a part `model`, and `source`, where the model came from.

  Raises:
    CheckpointError: If it is damaged or of a later version.
  """
  path = pathlib.Path(path) / CONFIG
  try:
    config = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise CheckpointError(f'{path} must be JSON: {error}') from error
  if not isinstance(config, dict) or config.get('format') != _FORMAT:
    raise CheckpointError(
      f'{path} must be the configuration of a model of sg3jax, and is not'
    )
  version = config.get('version')
  if version != _VERSION:
    # Other values may be as large as the file, or too deep to print.
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


@contextlib.contextmanager
def _open_arrays(path: pathlib.Path) -> Iterator[Any]:
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      yield file
  except safetensors.SafetensorError as error:
    raise CheckpointError(f'{path} is damaged: {error}') from error
