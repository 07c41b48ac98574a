"""Identifies files that are not checkpoints, and suggests a remedy.

People rename files, and servers may return something other than the file. The
first bytes show what it is.
"""

from sg3jax.interop.torch_pickle.records import quoted

_UNPACK = 'unpack it and import what is in it'
_DOWNLOAD = 'download the checkpoint itself'

# The first bytes of a file, what it is, and the remedy.
_BEGINNINGS = (
  (b'\x1f\x8b', 'a gzip file', _UNPACK),
  (b'BZh', 'a bzip2 file', _UNPACK),
  (b'\xfd7zXZ\0', 'an xz file', _UNPACK),
  (b'\x28\xb5\x2f\xfd', 'a Zstandard file', _UNPACK),
  (b'7z\xbc\xaf\x27\x1c', 'a 7-Zip archive', _UNPACK),
  (b'Rar!', 'a RAR archive', _UNPACK),
  (b'PK\5\6', 'an empty zip', _DOWNLOAD),
  (b'\x93NUMPY', 'a single NumPy array', 'import a checkpoint with all arrays'),
  (b'\x89HDF', 'an HDF5 file', 'convert it to a state dictionary of PyTorch'),
  (b'\x89PNG', 'a PNG image', _DOWNLOAD),
  (b'\xff\xd8\xff', 'a JPEG image', _DOWNLOAD),
  (b'%PDF', 'a PDF document', _DOWNLOAD),
)

# The same for texts, in lower case and without leading whitespace.
_TEXTS = (
  (
    b'version https://git-lfs',
    'a Git LFS pointer, which stands for the file',
    'fetch the file with git lfs pull',
  ),
  (b'<!doctype html', 'an HTML page', _DOWNLOAD + ', not the page about it'),
  (b'<html', 'an HTML page', _DOWNLOAD + ', not the page about it'),
  (b'<', 'an XML or HTML text', _DOWNLOAD),
  (b'{', 'a JSON text', _DOWNLOAD),
  (b'[', 'a JSON text', _DOWNLOAD),
)


def describe(data: bytes) -> str:
  """Returns an error message for a file that is not a checkpoint.

  Args:
    data: The first few hundred bytes of the file.
  """
  for beginning, what, remedy in _BEGINNINGS:
    if data.startswith(beginning):
      return _message(what, remedy)
  if data[257:262] == b'ustar':
    return _message('a tar archive', _UNPACK)
  if data[8:9] == b'{' and not any(data[5:8]):
    return _message('a damaged safetensors file', 'download it again')
  text = data.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
  for beginning, what, remedy in _TEXTS:
    if text.startswith(beginning):
      return _message(what, remedy)
  if text and all(byte >= 32 or byte in b'\t\n\r' for byte in text):
    return _message('a text', _DOWNLOAD)
  return (
    'the file is no checkpoint of PyTorch: it starts with the bytes '
    f'{data[:4].hex(" ")}'
  )


def describe_zip(names: list[str]) -> str:
  """Returns an error message for a zip that is not a checkpoint.

  Args:
    names: The names of its members.
  """
  shown = ', '.join(quoted(name) for name in names[:3]) or 'nothing'
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return (
    'the file is a zip, but no checkpoint of PyTorch: it has no single '
    f'NAME/data.pkl, but {shown}{more}. If the checkpoint is among them, '
    f'{_UNPACK}'
  )


def _message(what: str, remedy: str) -> str:
  return f'the file is {what}, no checkpoint of PyTorch: {remedy}'
