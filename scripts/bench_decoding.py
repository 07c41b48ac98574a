"""Measures how many images a processor core reads, decodes and batches.

  python scripts/bench_decoding.py --images_per_second=2300

This command writes photographs as ArrayRecord shards, reads them through the
training's loader, mirrored, and prints images per second of processor time at
256 and 1024 pixels, beside the cores that a run with this many images per
second needs. `sg3jax train --plan --topology=...` estimates the latter.
Processor time, unlike time, does not depend on what else the machine does.
With `--readers=N`, it also prints images per second of time with as many
threads, and with as many processes of one thread; these need an idle machine.
The photographs come with `pip install 'sg3jax[photos]'`.
"""

import io
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from PIL import Image

from sg3jax import text
from sg3jax.data import loader, sources

_IMAGES = flags.DEFINE_integer('images', 64, 'Number of images.', lower_bound=8)
_BATCHES = flags.DEFINE_integer(
  'batches', 24, 'Number of batches of 8 images to read.', lower_bound=1
)
_NEEDED = flags.DEFINE_float(
  'images_per_second', None, 'Images that a run needs in a second.'
)
_READERS = flags.DEFINE_integer(
  'readers', None, 'Threads or processes that read at once.', lower_bound=1
)

_TILE = 256
_BATCH = 8
# PNG as `sg3jax data prepare` writes it, and JPEG as photographs come.
_FORMATS = {'png': {}, 'jpeg': {'quality': 95}}


def photographs(size: int, number: int) -> list[np.ndarray]:
  """Returns mosaics of photographs of 256 pixels, uint8 [size, size, 3].

  A photograph that was enlarged would be easier to decode than a real one.
  """
  side = size // _TILE
  source = sources.open_source(
    f'embedded:{min(number * side**2, 4000)}', resolution=_TILE
  )
  tiles = [source[i % len(source)]['image'] for i in range(number * side**2)]
  rows = [
    np.concatenate(tiles[i : i + side], axis=1)
    for i in range(0, len(tiles), side)
  ]
  return [np.concatenate(rows[i : i + side]) for i in range(0, len(rows), side)]


def measure(
  folder: pathlib.Path,
  size: int,
  batches: int,
  clock: Callable[[], float],
  threads: int = 0,
  processes: int = 0,
) -> float:
  """Returns images per second of a clock, by the training's loader.

  Args:
    folder: The shards.
    size: Rows and columns of an image.
    batches: Number of batches to read.
    clock: Returns seconds, of time or of processor time.
    threads: Number of threads that read, in each process.
    processes: Number of processes that read; with 0, this one does.
  """
  source = sources.open_source(str(folder), resolution=size)
  with loader.make_loader(
    source,
    batch_size=_BATCH,
    seed=0,
    mirror=True,
    num_threads=threads,
    num_processes=processes,
  ) as rows:
    for _ in range(threads + processes + 1):  # Some read while others start.
      next(rows)
    start = clock()
    for _ in range(batches):
      next(rows)
    return batches * _BATCH / (clock() - start)


def write(
  folder: pathlib.Path, images: Sequence[np.ndarray], kind: str
) -> float:
  """Writes a shard; returns the mean kB of an image."""
  writer = array_record_module.ArrayRecordWriter(
    str(folder / 'images-00000-of-00001.array_record'), 'group_size:1'
  )
  size = 0
  for image in images:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **_FORMATS[kind])
    size += file.tell()
    writer.write(file.getvalue())
  writer.close()
  return size / len(images) / 1000


def main(argv: Sequence[str]) -> None:
  """Measures, and prints a table."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  rows = []
  for size in (256, 1024):
    images = photographs(size, max(_IMAGES.value // (size // _TILE), 8))
    for kind in _FORMATS:
      with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kilobytes = write(folder, images, kind)
        batches = max(_BATCHES.value // (size // _TILE), 4)
        rate = measure(folder, size, batches, time.process_time)
        readers = {}
        if count := _READERS.value:
          readers = {
            f'{count} threads': (count, 0),
            f'{count} processes': (1, count),
          }
        rates = {
          name: round(
            measure(folder, size, 4 * batches, time.perf_counter, *options)
          )
          for name, options in readers.items()
        }
      row = {
        'pixels': size,
        'format': kind,
        'kB an image': round(kilobytes),
        'images/s a core': round(rate),
        **rates,
      }
      if _NEEDED.value:
        row['cores needed'] = math.ceil(_NEEDED.value / rate)
      rows.append(row)
  print(text.markdown(rows))


if __name__ == '__main__':
  app.run(main)
