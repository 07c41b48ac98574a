"""Files that attack their reader: refused, in time, and never run."""

import builtins
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import time
import zipfile

import audit
import numpy as np
import official_writer as writer
import pytest

from sg3jax.interop.official import files
from sg3jax.interop.torch_pickle import records

# A reader that hangs is caught by its own limits long before this.
_SECONDS = 10.0


def _refused(data: bytes, match: str, kind=records.UnsafeCheckpointError):
  """Reads a file that must be refused; nothing may happen meanwhile."""
  start = time.perf_counter()
  with audit.recorded() as events, pytest.raises(kind, match=match) as caught:
    files.read_bytes(data)
  assert events == []
  assert time.perf_counter() - start < _SECONDS
  message = str(caught.value)
  assert len(message) < 400
  assert '\n' not in message


class _Reduce:
  def __init__(self, function, *args):
    self._call = (function, args)

  def __reduce__(self):
    return self._call


def test_the_ammunition_is_live(tmp_path):
  """The next test's files do what they say when an unpickler reads them."""
  target = tmp_path / 'made'
  data = pickle.dumps(_Reduce(os.mkdir, str(target)))
  with audit.recorded() as events:
    pickle.loads(data)
  assert target.is_dir()
  assert any(event.startswith('pickle.find_class') for event in events)
  target.rmdir()
  _refused(data, 'mkdir.*not among the names')
  assert not target.exists()


_ATTACKS = {
  'posix.system': (os.system, 'touch /tmp/never'),
  'subprocess.Popen': (subprocess.Popen, ['touch', '/tmp/never']),
  'builtins.eval': (eval, '1 + 1'),
  'builtins.exec': (exec, 'x = 1'),
  'builtins.getattr': (getattr, 'x', 'upper'),
  'builtins.__import__': (__import__, 'os'),
  'builtins.open': (open, '/etc/passwd'),
  'builtins.compile': (compile, '1', 'x', 'eval'),
  'builtins.globals': (globals,),
  'builtins.map': (map, len, ['x']),
  'builtins.bytearray': (builtins.bytearray, 1 << 40),
  'io.open_code': (io.open_code, '/etc/passwd'),
  'importlib.import_module': (__import__('importlib').import_module, 'os'),
  'numpy.load': (np.load, 'x.npy', None, True),
}


@pytest.mark.parametrize('name', _ATTACKS)
@pytest.mark.parametrize('protocol', [2, 4])
def test_functions_are_refused_by_name(name, protocol):
  evil = _Reduce(*_ATTACKS[name])
  attribute = name.rsplit('.')[-1].replace('open_code', 'open(_code)?')
  _refused(
    writer.dumps({'G': evil}, protocol), f"'[a-z_.]*{attribute}', which is not"
  )


def _raw(*opcodes: bytes) -> bytes:
  return b'\x80\x04' + b''.join(opcodes) + b'.'


def _global(module: str, name: str) -> bytes:
  return b'c' + f'{module}\n{name}\n'.encode()


@pytest.mark.parametrize(
  ('module', 'name'),
  [
    ('os', 'system'),
    ('collections', 'OrderedDict.fromkeys.__func__'),
    ('collections', 'namedtuple'),
    ('torch.storage', '_load_from_bytes.__globals__'),
    ('torch', 'load'),
    ('torch.hub', 'load'),
    ('torch.jit._pickle', 'check_module_initialized'),
    ('__torch', 'Net'),
    ('torch._utils', '_rebuild_tensor_v3'),
    ('torch_utils.persistence', 'import_hook'),
    ('numpy.core.multiarray', 'fromfile'),
    ('numpy.lib.npyio', 'load'),
    ('_codecs', 'decode'),
    ('dnnlib.util', 'open_url'),
    ('sg3jax.interop.torch_pickle.reader', 'read_checkpoint'),
    ('', ''),
    ('a' * 100, 'b'),
    ('\x1b[31m', 'x'),
  ],
)
def test_names_beside_the_allowed_ones_are_refused(module, name):
  _refused(_raw(_global(module, name)), 'asks for .*nothing of it was run')
  text = b''.join(
    b'\x8c' + bytes([len(t.encode())]) + t.encode() for t in (module, name)
  )
  _refused(_raw(text, b'\x93'), 'asks for .*nothing of it was run')


def test_allowed_names_cannot_be_chained():
  """No value of a file is callable, nor takes attributes."""
  ordered = _global('collections', 'OrderedDict')
  _refused(_raw(ordered, b')R)R'), 'calls a dict, which is not a function')
  _refused(_raw(b'\x8c\x01x)R'), "calls 'x', which is not a function")
  _refused(_raw(_global('torch', 'FloatStorage'), b')R'), 'not a function')
  # Instance attributes by BUILD: of a function, then of a text.
  _refused(_raw(ordered, b'}\x8c\x04callK\x01sb'), 'gives a Function a state')
  _refused(_raw(b'\x8c\x01x}b'), "gives 'x' a state")
  data = writer.dumps(writer.tensor(np.zeros(2, np.float32)))
  _refused(data[:-1] + b'}b.', 'gives a Tensor a state')


@pytest.mark.parametrize(
  'opcode', [b'i', b'o', b'\x92', b'\x82', b'I', b'F', b'S', b'V', b'P', b'2']
)
def test_opcodes_that_checkpoints_never_use(opcode):
  """Such as INST, OBJ, NEWOBJ_EX, EXT1 and those of protocol 0."""
  _refused(
    _raw(b'(', opcode, b'os\nsystem\n'), f'pickle opcode 0x{opcode.hex()}'
  )


def test_persistent_ids_lead_nowhere():
  _refused(_raw(b'\x8c\x01xQ'), 'outside of it by a persistent id')


# Deep, wide and self-multiplying values.


def _nested(depth: int) -> dict[str, bytes]:
  return {
    'marks': _raw(b'(' * depth, b't' * depth),
    'lists': _raw(b']' * depth, b'a' * (depth - 1)),
    'tuples': _raw(b'N', b'\x85' * depth),
    'dicts': _raw(b'}K\x01' * depth, b'N', b's' * depth),
  }


@pytest.mark.parametrize('kind', _nested(1))
def test_deep_values(kind):
  files.read_bytes(_nested(100)[kind])
  _refused(_nested(3000)[kind], 'nests values more than 200 deep')


def test_deep_keys_are_not_hashed():
  """The standard unpicklers crash here: a tuple's hash has no limit."""
  _refused(_raw(b'}N', b'\x85' * 20_000, b'Ns'), 'key must be .* got a tuple')
  # Doubling, sixty times: hashing would take 2^60 steps.
  doubled = b''.join(b'q%ch%c\x86' % (i, i) for i in range(60))
  _refused(_raw(b'}N', doubled, b'Ns'), 'key must be .* got a tuple')
  _refused(_raw(b'\x8f(N', doubled, b'\x90'), 'key must be .* got a tuple')


def test_billion_laughs_stay_small():
  """Ten references to ten references to ...: read as one object each."""
  laughs = (
    b'(' * 40
    + b'N'
    + b''.join(b'q%c' % i + b'h%c' % i * 9 + b't' for i in range(40))
  )
  value = files.read_bytes(_raw(laughs))
  assert len(value) == 10
  assert all(child is value[0] for child in value)


def test_keys_cannot_be_made_to_collide():
  """Multiples of 2^61 - 1 all have the hash 0."""
  number = ((1 << 61) - 1).to_bytes(9, 'little')
  _refused(_raw(b'}\x8a\x09', number, b'Ns'), 'a string or a small integer')


def test_opcodes_are_counted(monkeypatch):
  monkeypatch.setattr(records, 'MAX_OPCODES', 5000)
  _refused(_raw(b'(', b'N' * 6000, b't'), 'more than 5,000 pickle opcodes')


def test_copies_are_counted(monkeypatch):
  """Few bytes must not copy a large value again and again."""
  monkeypatch.setattr(records, 'MAX_OPCODES', 5000)
  members = b'](' + b'\x8c\x01x' * 2000 + b'eq\x00'
  make_set = _global('builtins', 'set') + b'q\x01'
  call = b'h\x01h\x00\x85R'
  _refused(
    _raw(members, make_set, b'(', call * 50, b't'),
    'more than 5,000 pickle opcodes',
  )
  text = b'X' + struct.pack('<I', 1 << 20) + b'a' * (1 << 20) + b'q\x00'
  encode = _global('_codecs', 'encode') + b'q\x01'
  call = b'h\x01h\x00\x8c\x06latin1\x86R'
  _refused(_raw(text, encode, b'(', call * 50, b't'), '4 times over')


def test_the_memo_is_no_array():
  """The C unpickler makes one as long as the largest index."""
  assert files.read_bytes(_raw(b'Nr\xff\xff\xff\x7f')) is None


@pytest.mark.parametrize(
  'opcodes',
  [
    b'B\xff\xff\xff\xff', b'X\xff\xff\xff\xff',
    b'\x8e' + b'\xff' * 8, b'\x8d' + b'\xff' * 8, b'\x96' + b'\xff' * 8,
    b'\x8a\xff', b'C\xff', b'c' + b'x' * 300,
  ],
)  # fmt: skip
def test_declared_lengths_are_checked(opcodes):
  _refused(_raw(opcodes), 'truncated|no end', records.CheckpointError)


@pytest.mark.parametrize(
  'opcodes', [b'', b'R', b't', b'a', b'h\x07', b'NN', b'(', b'\x85', b'Q', b'b']
)
def test_damaged_stacks(opcodes):
  _refused(_raw(opcodes), 'pickle of the checkpoint|persistent|lacks|calls',
           records.CheckpointError)  # fmt: skip


# Tensors and arrays that are not what they say.


def _tensor(**lies) -> bytes:
  return writer.dumps(writer.tensor(np.zeros(4, np.float32), **lies))


@pytest.mark.parametrize(
  'lies',
  [
    {'shape': (5,)},
    {'shape': (0, 1 << 47, 1 << 47), 'strides': (1, 1, 1)},
    {'offset': 1},
    {'strides': (2,)},
    {'shape': (1 << 40,), 'strides': (0,)},
    {'shape': (1 << 30, 1 << 30), 'strides': (0, 0)},
    {'shape': (2, 4), 'strides': (0, 1)},
    {'shape': (1 << 200,)},
    {'offset': -1},
    {'strides': (-1,)},
    {'shape': (4, 1)},
    {'shape': (True,)},
    {'shape': ('x',)},
    {'shape': (1,) * 9, 'strides': (1,) * 9},
    {'shape': None},
    {'offset': None},
  ],
)
def test_tensors_stay_in_their_storage(lies):
  _refused(_tensor(**lies), 'tensor of|a call in', records.CheckpointError)


def _blob(stream: bytes) -> bytes:
  return writer.dumps(writer.Call('torch.storage', '_load_from_bytes', stream))


@pytest.mark.parametrize(
  'lies',
  [
    {'numel': 5, 'stored_numel': 4},
    {'numel': 3},
    {'numel': 5},
    {'numel': 1 << 40},
    {'numel': 1 << 60},
    {'stored_numel': -1},
    {'stored_numel': 1 << 62},
  ],
)
def test_storages_have_the_bytes_they_declare(lies):
  stream = writer.storage_stream(np.zeros(4, np.float32), **lies)
  _refused(
    _blob(stream), 'truncated|follow|no storage', records.CheckpointError
  )


def test_files_within_the_file_hold_storages_only():
  """Within, fewer names are known than without, and no further files."""
  inner = _blob(writer.storage_stream(np.zeros(4, np.float32)))
  _refused(_blob(inner), '_load_from_bytes.*not among')
  _refused(_blob(pickle.dumps(_Reduce(os.system, 'true'))), 'system.*not among')
  _refused(_blob(b'\x80\x04N.'), 'PyTorch stream', records.CheckpointError)
  _refused(_blob(b''), 'no checkpoint', records.CheckpointError)
  stream = writer.storage_stream(np.zeros(4, np.float32))
  _refused(_blob(stream + b'\0'), '1 bytes follow', records.CheckpointError)
  foreign = stream.replace(b'little_endian', b'little_indian')
  _refused(_blob(foreign), 'big-endian', records.CheckpointError)


def test_arrays_of_objects_are_refused():
  """An object array's bytes are a pickle of their own to NumPy."""
  evil = np.array([_Reduce(os.system, 'true')], dtype=object)
  _refused(pickle.dumps({'a': evil}), "plain numbers, .* 'O8'|system")
  _refused(pickle.dumps(np.array(['text'])), "plain numbers, .* 'U4'")
  _refused(pickle.dumps(np.zeros(1, 'f4,i4')), "plain numbers, .* 'V8'")


def test_array_shapes_are_checked():
  for protocol in (4, 5):
    data = pickle.dumps(np.zeros(77, np.uint8), protocol=protocol)
    longer = data.replace(b'KM\x85', b'KN\x85')
    assert longer != data
    _refused(longer, 'has 77 bytes, but declares 78', records.CheckpointError)


def test_empty_arrays_have_no_huge_shapes():
  data = pickle.dumps(np.zeros((0, 70, 71), np.uint8), protocol=4)
  assert files.read_bytes(data).numpy().shape == (0, 70, 71)
  huge = b'\x8a\x07' + (1 << 47).to_bytes(7, 'little')
  longer = data.replace(b'KF', huge).replace(b'KG', huge)
  frame = struct.pack('<BQ', 0x95, len(longer) - 11)
  _refused(
    longer[:2] + frame + longer[11:], 'invalid shape', records.CheckpointError
  )


def test_what_follows_the_end_is_refused():
  data = writer.dumps({'G': None})
  _refused(data + b'x', '1 bytes follow', records.CheckpointError)
  _refused(data + data, 'bytes follow', records.CheckpointError)


@pytest.mark.parametrize('start', [b'\x93NUMPY', b'\x1f\x8b', b'PK\x05\x06'])
def test_other_formats(start):
  _refused(start + bytes(99), 'no checkpoint of', records.CheckpointError)
  _refused(b'\x80\x00.', 'protocol 0', records.CheckpointError)
  _refused(b'\x80\x06N.', 'protocol 6', records.CheckpointError)


# Zips.


def _zip(members: dict[str, bytes], **options) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    for name, data in members.items():
      archive.writestr(name, data, **options)
  return file.getvalue()


_NOTHING = {'net/data.pkl': b'\x80\x02N.'}


@pytest.mark.parametrize(
  'name', ['../evil', '/etc/evil', 'net/../../evil', 'C:evil', '\\evil']
)
def test_zip_members_do_not_leave_the_zip(name):
  assert files.read_bytes(_zip(_NOTHING)) is None
  _refused(_zip(_NOTHING | {name: b'x'}), 'member that leaves it')


def test_zip_bombs():
  bomb = _zip(
    _NOTHING | {'net/data/0': bytes(50 << 20)},
    compress_type=zipfile.ZIP_DEFLATED,
  )
  assert len(bomb) < 100_000
  _refused(bomb, 'compressed or encrypted')
  # Two entries of the directory that share one member's bytes, or a name.
  shared = bytearray(_zip(_NOTHING | {'net/data/0': bytes(10_000)}))
  directory = shared.rindex(b'PK\x01\x02')
  end = shared.rindex(b'PK\x05\x06')
  entry = bytes(shared[directory:end])
  twin = entry.replace(b'net/data/0', b'net/data/1')
  for extra, match in ((twin, 'share their bytes'), (entry, 'share|same name')):
    count, size = struct.unpack_from('<HI', shared, end + 10)
    tail = bytearray(shared[end:])
    struct.pack_into('<HHI', tail, 8, count + 1, count + 1, size + len(entry))
    _refused(bytes(shared[:end]) + extra + bytes(tail), match)


def _long_zip(count: int, is_zip64: bool) -> bytes:
  """Returns a zip with this many empty members more."""
  data = _zip(_NOTHING)
  end = data.rindex(b'PK\x05\x06')
  count_before, size, start = struct.unpack_from('<HII', data, end + 10)
  entries = b''.join(
    b'PK\x01\x02' + struct.pack('<24xH16x', 8) + b'%08d' % i
    for i in range(count)
  )
  count, size = count + count_before, size + len(entries)
  large = b''
  if is_zip64:
    place = end + len(entries)
    large = b'PK\x06\x06' + struct.pack(
      '<QHHIIQQQQ', 44, 45, 45, 0, 0, count, count, size, start
    )
    large += b'PK\x06\x07' + struct.pack('<IQI', 0, place, 1)
    count, size, start = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
  tail = struct.pack('<HHHHIIH', 0, 0, count, count, size, start, 0)
  return data[:end] + entries + large + b'PK\x05\x06' + tail


@pytest.mark.parametrize('is_zip64', [False, True])
def test_long_directories_are_not_opened(is_zip64, monkeypatch):
  assert files.read_bytes(_long_zip(3, is_zip64)) is None
  data = _long_zip(50_000, is_zip64)
  monkeypatch.setattr(zipfile, 'ZipFile', None)
  _refused(
    data, 'directory of the zip has 2,700,0[0-9]+ bytes, more than 2 MiB'
  )


def test_ends_of_zips_agree():
  """The members that are counted are those that `zipfile` opens."""
  comment = bytearray(_zip(_NOTHING) + b'x')
  comment[-3] = 1  # The comment's length.
  _refused(bytes(comment), 'not end with its', records.CheckpointError)
  moved = bytearray(_long_zip(3, True))
  moved[-22 - 12] ^= 1
  _refused(bytes(moved), 'ends do not agree', records.CheckpointError)


def test_damaged_zips():
  data = bytearray(_zip(_NOTHING | {'net/byteorder': b'little'}))
  data[data.index(b'\x80\x02N.') + 2] = ord('x')
  _refused(bytes(data), 'zip .* is damaged', records.CheckpointError)  # CRC
  big = _zip(_NOTHING | {'net/byteorder': b'big'})
  _refused(big, 'big-endian', records.CheckpointError)
  two = _zip(_NOTHING | {'other/data.pkl': b'\x80\x02N.'})
  _refused(two, 'no single', records.CheckpointError)


def test_zip_pickles_are_read_by_the_same_machine():
  evil = pickle.dumps(_Reduce(os.system, 'true'), protocol=2)
  _refused(_zip({'net/data.pkl': evil}), 'system.*not among')
  missing = pickle.dumps(None, protocol=2)[:-2] + (
    b'(\x8c\x07storage' + _global('torch', 'FloatStorage')
    + b'\x8c\x06../../\x8c\x03cpuK\x04tQ.'
  )  # fmt: skip
  _refused(
    _zip({'net/data.pkl': missing}),
    r"storage '\.\./\.\./' .* is missing",
    records.CheckpointError,
  )


# Byte flips.


@pytest.mark.slow
def test_fuzzed_checkpoints_are_harmless():
  """Ten thousand damaged files: each is read or refused, in time and memory.

  What is read is converted, or refused then. In a process of its own, with an
  audit hook and half a gigabyte of memory.
  """
  script = pathlib.Path(__file__).parent / 'fuzz.py'
  package = pathlib.Path(files.__file__).parents[3]
  process = subprocess.run(
    [sys.executable, script, '10000'],
    env=os.environ | {'PYTHONPATH': package.as_posix()},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert process.returncode == 0, process.stderr
  read, refused, converted, slowest = process.stdout.split()
  assert int(read) + int(refused) == 10_000
  # Flips within numbers of tensors are no damage that can be seen.
  assert int(refused) > 3_000
  # Those of networks, some of which say of themselves what they are not.
  assert 0 < int(converted) < int(read)
  assert float(slowest) < _SECONDS
