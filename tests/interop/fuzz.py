"""Reads damaged checkpoints; a process of its own, for `test_hostile.py`.

    python fuzz.py COUNT

Prints how many were read, how many refused, how many of those read could be
converted, and the slowest's seconds. Ends with an error if reading a file makes
Python do anything, or if it or conversion raises another error or wants more
memory.
"""

import io
import random
import resource
import sys
import time
import zipfile

import audit
import numpy as np
import official_networks
import official_writer as writer
import safetensors.numpy
import script_archive

from sg3jax.interop.official import convert, files
from sg3jax.interop.torch_pickle import records

_MEMORY = 1 << 29  # Bytes of address space beyond what has been loaded.


def checkpoints() -> list[bytes]:
  """Returns small whole files of every layout, with networks and without."""
  weight = np.arange(12, dtype=np.float32).reshape(3, 4)
  layer = writer.module(
    'Layer', {'weight': weight}, {'filter': None}, {}, size=np.array([3, 4])
  )
  net = writer.module(
    'Net', {}, {'w_avg': weight[0]}, {'layer': layer}, z_dim=4, gain=2.5
  )
  options = writer.EasyDict(path='x.zip', resolution=32)
  value = {'G': net, 'augment_pipe': None, 'training_set_kwargs': options}
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('net/data.pkl', writer.dumps(value, 2))
    archive.writestr('net/byteorder', b'little')
  arrays = official_networks.official_arrays('skip', 'generator_ema')
  npz = io.BytesIO()
  np.savez(npz, **arrays)
  return [
    writer.dumps(value, 4),
    writer.dumps(value, 3),
    file.getvalue(),
    official_networks.checkpoint('small'),
    official_networks.checkpoint('resnet'),
    writer.dumps({'g_ema': writer.state_dict(arrays)}),
    safetensors.numpy.save(arrays),
    npz.getvalue(),
    script_archive.archive({'layer.weight': weight, 'layer.bias': weight[0]}),
  ]


def mutated(data: bytes, rng: random.Random) -> bytes:
  """Returns the bytes with some changed, cut out, doubled or swapped."""
  result = bytearray(data)
  for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
    position = rng.randrange(len(result))
    length = rng.choice((1, 2, 4, 8, 64))
    match rng.randrange(5):
      case 0:
        result[position] ^= 1 << rng.randrange(8)
      case 1:
        result[position] = rng.randrange(256)
      case 2:
        del result[position : position + length]
      case 3:
        result[position:position] = result[position : position + length]
      case 4:
        size = len(result[position : position + length])
        result[position : position + size] = b'\xff' * size
    if not result:
      return b'\x80'
  return bytes(result)


def main() -> None:
  """Fuzzes."""
  count = int(sys.argv[1])
  wholes = checkpoints()
  for whole in wholes:
    value = files.read_bytes(whole)  # Imports what it needs; is indeed whole.
    # The networks of others are none of ours.
    if isinstance(value, dict) and 'G' not in value:
      convert.convert(value)
  with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
  limit = used + _MEMORY
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  rng = random.Random(0)
  read = refused = converted = 0
  slowest = 0.0
  for i in range(count):
    data = mutated(wholes[i % len(wholes)], rng)
    start = time.perf_counter()
    value = None
    with audit.recorded() as events:
      try:
        value = files.read_bytes(data)
        read += 1
      except records.CheckpointError:
        refused += 1
    try:
      convert.convert(value)
      converted += 1
    except records.CheckpointError:
      pass
    slowest = max(slowest, time.perf_counter() - start)
    if events:
      sys.exit(f'mutation {i} did {events}')
  print(read, refused, converted, f'{slowest:.3f}')


if __name__ == '__main__':
  main()
