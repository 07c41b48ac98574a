"""Reads checkpoints of PyTorch without PyTorch, and without executing them.

There are three layouts, which the first bytes distinguish:

  pickle   one pickle, as the standard library writes it, in which each tensor's
           storage is a separate stream or zip
  stream   the format of `torch.save` before version 1.6: pickles of a magic
           number, a protocol, the machine, the value and the storages' names;
           then the storages
  zip      its current format: `NAME/data.pkl` and `NAME/data/KEY`. Archives of
           TorchScript are such zips too, with code that is not read
"""

import functools
import io
import pathlib
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from sg3jax.interop.torch_pickle import foreign, machine, symbols
from sg3jax.interop.torch_pickle.records import (
  MAX_FILE_BYTES,
  MAX_NESTING,
  Budget,
  CheckpointError,
  Module,
  ScriptObject,
  Storage,
  UnsafeCheckpointError,
  is_size,
  quoted,
)

_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_PROTOCOL = 1001
_ZIP_MAGIC = b'PK\x03\x04'

# Maximum bytes of a zip's directory. `zipfile` creates an object for each
# member, which takes at least 46 bytes there, before members can be counted.
# Networks have about 500 members of 100 bytes.
_MAX_DIRECTORY = 2 << 20

_FindGlobal = Callable[[str, str], Any]

_NO_NAMES: symbols.Names = {}


def read_file(path: pathlib.Path) -> bytes:
  """Returns the bytes of a file.

  Raises:
    FileNotFoundError: If there is no such file.
    CheckpointError: If it is not a file, or too large.
  """
  if not path.exists():
    raise FileNotFoundError(f'there is no file {path}')
  if not path.is_file():
    raise CheckpointError(f'{path} must be a file')
  with path.open('rb') as file:
    # Read into memory: a mapped file that shrinks would crash the process.
    data = file.read(MAX_FILE_BYTES + 1)
  if len(data) > MAX_FILE_BYTES:
    raise CheckpointError(f'{path} is larger than {MAX_FILE_BYTES >> 30} GiB')
  return data


def read_bytes(data: bytes, names: symbols.Names = _NO_NAMES) -> Any:
  """Reads a checkpoint.

  Nothing in it is executed: names are looked up in a table of inert substitutes
  (`symbols`), and everything else is refused.

  Args:
    data: The bytes of the file.
    names: Names that the checkpoint may use besides those of Python, NumPy and
      PyTorch, and functions that return the records for their calls.

  Returns:
    Its value: dictionaries, lists, strings, numbers, and the records `Module`,
    `ScriptObject`, `Tensor` and `NumpyArray` of `interop.torch_pickle.records`.

  Raises:
    CheckpointError: If it is damaged, too large or has an unknown layout.
    UnsafeCheckpointError: If it requests something that no checkpoint needs.
  """
  if not data:
    raise CheckpointError('the file is empty: download it again')
  budget = Budget.of_file(len(data))
  load_storage = functools.partial(_load_storage, budget)
  find = symbols.find_in(
    symbols.allowed_symbols(budget, load_storage, names), has_scripts=True
  )
  value = _read_torch(memoryview(data), find, budget, plain=True)
  _check_nesting(value)
  return value


def _load_storage(budget: Budget, data: memoryview) -> Storage:
  """Reads an embedded file that contains one storage."""
  value = _read_torch(data, symbols.find_in(symbols.STORAGE_TYPES), budget)
  if not isinstance(value, Storage):
    raise CheckpointError('a part of the checkpoint holds no storage')
  return value


def _check_nesting(value: Any) -> None:
  """Refuses values nested so deep that recursion might overflow the stack."""
  level, seen = [(value,)], set()
  for _ in range(MAX_NESTING):
    # Compare identities, so that shared parts are visited once.
    children = {id(c): c for item in level for c in _children(item)}
    level = [children[key] for key in children.keys() - seen]
    seen |= children.keys()
    if not level:
      return
  raise UnsafeCheckpointError(
    f'the checkpoint nests values more than {MAX_NESTING} deep'
  )


def _children(value: Any) -> Iterable[Any]:
  """Returns those parts of a value that can have parts themselves."""
  if isinstance(value, Module | ScriptObject):
    return (value.state,)
  parts = value.values() if isinstance(value, dict) else value
  kinds = dict | list | tuple | Module | ScriptObject
  return [part for part in parts if isinstance(part, kinds)]


def _read_torch(
  data: memoryview, find: _FindGlobal, budget: Budget, *, plain: bool = False
) -> Any:
  """Reads a zip, a stream or, if allowed, a plain pickle."""
  if data[:4] == _ZIP_MAGIC:
    return _read_zip(data, find, budget)
  if data[:1] != b'\x80':
    raise CheckpointError(foreign.describe(bytes(data[:512])))
  value, end = machine.run(data, 0, find, None, budget)
  if isinstance(value, int) and value == _MAGIC:
    return _read_stream(data, end, find, budget)
  if not plain:
    raise CheckpointError('a part of the checkpoint must be a PyTorch stream')
  _check_end(data, end)
  return value


def _check_end(data: memoryview, end: int) -> None:
  if end != len(data):
    raise CheckpointError(
      f'{len(data) - end} bytes follow the end of the checkpoint'
    )


class _Storages:
  """The storages that persistent ids refer to."""

  def __init__(self):
    self.by_key: dict[str, Storage] = {}

  def load(self, key: Any) -> Storage:
    """Returns the storage for ('storage', type, key, location, numel, ...)."""
    if not (
      type(key) is tuple
      and 5 <= len(key) <= 6
      and key[0] == 'storage'
      and isinstance(key[1], symbols.Type)
      and key[1].dtype is not None
      and type(key[2]) is str
      and is_size(key[4])
      and (len(key) == 5 or key[5] is None)
    ):
      raise UnsafeCheckpointError(
        'the checkpoint refers by a persistent id to something that is no '
        'storage'
      )
    storage = self.by_key.setdefault(key[2], Storage(key[1].dtype, key[4]))
    if (storage.dtype, storage.numel) != (key[1].dtype, key[4]):
      raise CheckpointError(
        f'the storage {quoted(key[2])} of the checkpoint is declared twice'
      )
    return storage


def _read_stream(
  data: memoryview, position: int, find: _FindGlobal, budget: Budget
) -> Any:
  """Reads a stream after its magic number."""
  storages = _Storages()

  protocol, position = machine.run(data, position, find, None, budget)
  system, position = machine.run(data, position, find, None, budget)
  if type(protocol) is not int or protocol != _STREAM_PROTOCOL:
    raise CheckpointError('a stream of the checkpoint has another version')
  if type(system) is not dict or system.get('little_endian') is not True:
    raise CheckpointError('the checkpoint was written by a big-endian machine')
  value, position = machine.run(data, position, find, storages.load, budget)
  keys, position = machine.run(data, position, find, None, budget)
  if type(keys) is not list or not all(type(key) is str for key in keys):
    raise CheckpointError('a stream of the checkpoint does not name its parts')
  unread = dict(storages.by_key)
  for key in keys:
    storage = unread.pop(key, None)
    if storage is None:
      raise CheckpointError(
        f'the storage {quoted(key)} of the checkpoint is not declared'
      )
    header = bytes(data[position : position + 8])
    start = position + 8
    position = start + storage.numel * storage.dtype.itemsize
    if (
      position > len(data) or int.from_bytes(header, 'little') != storage.numel
    ):
      raise CheckpointError(
        'the checkpoint is truncated, or a storage lacks its declared size'
      )
    storage.fill(data[start:position])
  if unread:
    raise CheckpointError('a storage that the checkpoint declares is missing')
  _check_end(data, position)
  return value


def _read_zip(data: memoryview, find: _FindGlobal, budget: Budget) -> Any:
  """Reads a zip: `NAME/data.pkl` and its storages."""
  check_directory(data)
  try:
    # Broken archives make `zipfile` raise several kinds of errors.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      return _read_archive(archive, len(data), find, budget)
  except CheckpointError:
    raise
  except (
    zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError,
    IndexError, NotImplementedError, OverflowError, RuntimeError,
  ) as error:  # fmt: skip
    raise CheckpointError('the zip of the checkpoint is damaged') from error


def check_directory(data: memoryview) -> None:
  """Refuses directories so long that opening the zip might fill the memory."""
  end = len(data) - 22
  # A comment would move the record, but PyTorch writes none.
  if end < 0 or data[end : end + 4] != b'PK\5\6' or data[end + 20 :] != b'\0\0':
    raise CheckpointError(
      'the zip of the checkpoint is damaged: it does not end with its directory'
    )
  (size,) = struct.unpack_from('<I', data, end + 12)
  if data[max(end - 20, 0) : end][:4] == b'PK\6\7':  # Zip64 has a second one.
    (large,) = struct.unpack_from('<Q', data, end - 12)
    if large != end - 76 or data[large : large + 4] != b'PK\6\6':
      raise CheckpointError(
        'the zip of the checkpoint is damaged: its two ends do not agree'
      )
    (size,) = struct.unpack_from('<Q', data, large + 40)
  if size > _MAX_DIRECTORY:
    raise UnsafeCheckpointError(
      f'the directory of the zip has {size:,} bytes, more than '
      f'{_MAX_DIRECTORY >> 20} MiB: no checkpoint has so many members'
    )


def _read_archive(
  archive: zipfile.ZipFile, limit: int, find: _FindGlobal, budget: Budget
) -> Any:
  roots = [
    name.removesuffix('data.pkl')
    for name in archive.namelist()
    if re.fullmatch(r'[^/]+/data\.pkl', name)
  ]
  if len(roots) != 1:
    raise CheckpointError(foreign.describe_zip(archive.namelist()))
  root = roots[0]
  _check_members(archive.infolist(), limit, f'{root}code/')
  names = frozenset(archive.namelist())
  order = root + 'byteorder'
  if order in names and archive.read(order) != b'little':
    raise CheckpointError('the checkpoint was written by a big-endian machine')
  storages = _Storages()
  pickled = memoryview(archive.read(root + 'data.pkl'))
  value, end = machine.run(pickled, 0, find, storages.load, budget)
  _check_end(pickled, end)
  for key, storage in storages.by_key.items():
    name = f'{root}data/{key}'
    if name not in names:
      raise CheckpointError(
        f'the storage {quoted(key)} that the checkpoint declares is missing'
      )
    storage.fill(archive.read(name))
  return value


def _check_members(
  members: list[zipfile.ZipInfo], limit: int, unread: str
) -> None:
  """Refuses names outside the archive, and compressed or shared members.

  Args:
    members: All members.
    limit: The size of the archive.
    unread: A folder whose members are not read and may be compressed.
  """
  total = 0
  for member in members:
    name = member.filename
    if (
      name.startswith('/')
      or '\\' in name
      or ':' in name
      or '..' in name.split('/')
    ):
      raise UnsafeCheckpointError(
        f'the zip has a member that leaves it: {quoted(name)}'
      )
    if name.startswith(unread):
      continue
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
      raise UnsafeCheckpointError(
        f'the member {quoted(name)} of the zip is compressed or encrypted, '
        'which PyTorch never does'
      )
    total += member.file_size
  if total > limit:
    raise UnsafeCheckpointError('members of the zip share their bytes')
  if len({member.filename for member in members}) != len(members):
    raise UnsafeCheckpointError('the zip has two members with the same name')
