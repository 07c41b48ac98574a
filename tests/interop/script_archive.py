"""Writes archives in TorchScript's structure, without PyTorch."""

import io
import struct
import zipfile

import numpy as np


class _Pickler:
  """Writes what TorchScript's own pickler would: protocol 2, no memo."""

  def __init__(self):
    self.out = bytearray(b'\x80\x02')
    self.storages: list[bytes] = []

  def text(self, value: str):
    data = value.encode()
    self.out += b'X' + struct.pack('<I', len(data)) + data

  def name(self, module: str, name: str):
    self.out += f'c{module}\n{name}\n'.encode()

  def integer(self, value: int):
    self.out += b'J' + struct.pack('<i', value)

  def tensor(self, array: np.ndarray):
    kinds = {'f4': 'FloatStorage', 'f2': 'HalfStorage', 'i8': 'LongStorage'}
    self.name('torch._utils', '_rebuild_tensor_v2')
    self.out += b'(('
    self.text('storage')
    self.name('torch', kinds[array.dtype.str[1:]])
    self.text(str(len(self.storages)))
    self.text('cpu')
    self.integer(array.size)
    self.out += b'tQ'
    self.storages.append(array.tobytes())
    self.integer(0)
    for sizes in (array.shape, [s // array.itemsize for s in array.strides]):
      self.out += b'('
      for size in sizes:
        self.integer(size)
      self.out += b't'
    self.out += b'\x89'
    self.name('collections', 'OrderedDict')
    self.out += b')RtR'

  def integers(self, values: list[int]):
    """A list with the tag of its type."""
    self.name('torch.jit._pickle', 'restore_type_tag')
    self.out += b'(]('
    for value in values:
      self.integer(value)
    self.out += b'e'
    self.text('List[int]')
    self.out += b'tR'

  def module(self, class_name: str, attributes: dict):
    self.name(*class_name.rsplit('.', 1))
    self.out += b')\x81}('
    for name, value in attributes.items():
      self.text(name)
      self.value(name, value)
    self.out += b'ub'

  def value(self, name: str, value):
    if isinstance(value, dict):
      mangled = f'__torch__.torch.nn.___torch_mangle_{len(self.out)}'
      self.module(f'{mangled}.Part', value)
    elif isinstance(value, np.ndarray):
      self.tensor(np.ascontiguousarray(value))
    elif isinstance(value, list):
      self.integers(value)
    else:
      self.out += b'\x88' if value else b'\x89'


def archive(tensors: dict[str, np.ndarray]) -> bytes:
  """Returns an archive of a module with tensors by dotted name."""
  root: dict = {'training': False, 'sizes': [299, 299]}
  for name, array in tensors.items():
    *folders, leaf = name.split('.')
    node = root
    for folder in folders:
      node = node.setdefault(folder, {'training': False})
    node[leaf] = array
  pickler = _Pickler()
  pickler.module('__torch__.network.Network', root)
  pickler.out += b'.'
  code = 'class Network(Module):\n' + '  x : int\n' * 100
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as written:
    written.writestr('net/data.pkl', bytes(pickler.out))
    written.writestr(
      'net/code/__torch__/network.py', code, zipfile.ZIP_DEFLATED
    )
    for i, data in enumerate(pickler.storages):
      written.writestr(f'net/data/{i}', data)
    written.writestr('net/constants.pkl', b'\x80\x02).')
    written.writestr('net/version', b'3\n')
  return file.getvalue()
