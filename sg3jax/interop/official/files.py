"""Reads files of official networks without executing them.

    pickle, zip, stream   of PyTorch: whole modules or their state dictionaries
    .npz, .safetensors    state dictionaries, as `sg3jax export` writes them

The contents determine the layout, not the name of the file.
"""

import hashlib
import io
import math
import pathlib
import re
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from sg3jax.interop.torch_pickle import reader, symbols
from sg3jax.interop.torch_pickle.records import (
  CheckpointError,
  NumpyArray,
  is_shape,
  quoted,
)

# Names in the official code that its pickles need.
NAMES: symbols.Names = {
  ('dnnlib.util', 'EasyDict'): symbols.dictionary,
  (
    'torch_utils.persistence',
    '_reconstruct_persistent_obj',
  ): symbols.module,
}

_ZIP_MAGIC = b'PK\x03\x04'

# Maximum number of arrays: no network has more.
_MAX_ARRAYS = 10_000

# Weights hardly compress. A larger ratio is an attempt to fill the memory.
_SMALL, _MOST_COMPRESSED = 1 << 26, 20

# The header that `numpy.save` writes for arrays of numbers.
_NPY_HEADER = re.compile(
  rb"\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), "
  rb"'shape': \(((?:[0-9]{1,15},? ?)*)\), \} *\n"
)
_MAX_HEADER = 1 << 12

_SAFETENSORS_DTYPES = {
  'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': ml_dtypes.bfloat16,
  'I64': '<i8', 'I32': '<i4', 'I16': '<i2', 'I8': 'i1', 'U8': 'u1', 'BOOL': '?',
}  # fmt: skip


def read(path: str | pathlib.Path) -> tuple[Any, str]:
  """Reads a file.

  Args:
    path: The file.

  Returns:
    Its value from `read_bytes`, and the SHA-256 of the bytes that were read.

  Raises:
    FileNotFoundError: If there is no such file.
    CheckpointError: If it is damaged, too large or has an unknown layout.
    UnsafeCheckpointError: If it requests something that no checkpoint needs.
  """
  path = pathlib.Path(path)
  data = reader.read_file(path)
  try:
    return read_bytes(data), hashlib.sha256(data).hexdigest()
  except CheckpointError as error:
    raise type(error)(f'{path}: {error}') from error


def read_bytes(data: bytes) -> Any:
  """Reads the bytes of a file; raises the same errors as `read`.

  Returns:
    Dictionaries, lists, strings, numbers, and the records `Module`, `Tensor`
    and `NumpyArray` of `interop.torch_pickle.records`; for a file of arrays, a
    dictionary of `NumpyArray`.
  """
  if _is_safetensors(data):
    return _read_safetensors(data)
  if data[:4] == _ZIP_MAGIC and _is_npz(data):
    return _read_npz(data)
  return reader.read_bytes(data, NAMES)


def _is_safetensors(data: bytes) -> bool:
  """Returns whether a file begins with the length of a JSON text, then it."""
  size = int.from_bytes(data[:8], 'little')
  return len(data) > 9 and data[8:9] == b'{' and size <= len(data) - 8


def _read_safetensors(data: bytes) -> dict[str, NumpyArray]:
  try:
    entries = safetensors.deserialize(data)
  except safetensors.SafetensorError as error:
    raise CheckpointError(
      f'the safetensors file is damaged ({str(error)[:100]}): download it again'
    ) from error
  arrays = {}
  for name, entry in entries[: _MAX_ARRAYS + 1]:
    dtype = _SAFETENSORS_DTYPES.get(entry['dtype'])
    if dtype is None:
      raise CheckpointError(
        f'the array {quoted(name)} has the dtype {quoted(entry["dtype"])}'
      )
    flat = np.frombuffer(bytes(entry['data']), dtype)
    arrays[name] = NumpyArray(flat.reshape(entry['shape']))
  return _counted(arrays)


def _is_npz(data: bytes) -> bool:
  """Returns whether all members of a zip are named like NumPy's arrays."""
  try:
    reader.check_directory(memoryview(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      names = archive.namelist()
  except (
    CheckpointError, zipfile.BadZipFile, ValueError, OSError,
    NotImplementedError,
  ):  # fmt: skip
    return False  # The reader of zips reports what is wrong.
  return bool(names) and all(name.endswith('.npy') for name in names)


def _read_npz(data: bytes) -> dict[str, NumpyArray]:
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      members = archive.infolist()
      size = sum(member.file_size for member in members)
      most = max(_SMALL, _MOST_COMPRESSED * len(data))
      if size > most or len(members) > _MAX_ARRAYS:
        raise CheckpointError('the .npz file is larger than any network')
      return {
        member.filename.removesuffix('.npy'): _read_npy(archive.read(member))
        for member in members
      }
  except CheckpointError:
    raise
  except (
    zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError,
    NotImplementedError, OverflowError, RuntimeError, TypeError,
  ) as error:  # fmt: skip
    raise CheckpointError(
      f'the .npz file is damaged ({str(error)[:100]}): write it again'
    ) from error


def _read_npy(data: bytes) -> NumpyArray:
  """Reads one array; refuses objects, which only a pickle can hold.

  NumPy would parse the untrusted header with Python's compiler.
  """
  if data[:6] != b'\x93NUMPY' or data[6:7] not in (b'\1', b'\2', b'\3'):
    raise ValueError('an array does not begin like one of NumPy')
  start = 10 if data[6:7] == b'\1' else 12
  end = start + int.from_bytes(data[8:start], 'little')
  match = _NPY_HEADER.fullmatch(data[start : min(end, start + _MAX_HEADER)])
  if match is None:
    raise ValueError('an array has no header of plain numbers')
  dtype = np.dtype(match[1].decode())
  shape = tuple(int(size) for size in match[3].split(b',') if size.strip())
  if not is_shape(shape):
    raise ValueError('an array has an impossible shape')
  flat = np.frombuffer(data, dtype, math.prod(shape), end)
  return NumpyArray(
    flat.reshape(shape, order='F' if match[2] == b'True' else 'C')
  )


def _counted(arrays: dict[str, NumpyArray]) -> dict[str, NumpyArray]:
  if len(arrays) > _MAX_ARRAYS:
    raise CheckpointError('the file has more arrays than any network')
  return arrays
