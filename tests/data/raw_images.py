"""Images of all kinds, for the tests of preparation."""

import gzip
import io
import json
import struct

import numpy as np
from PIL import Image

from sg3jax.data.prepare import options as options_lib
from sg3jax.data.prepare import run


def waves(index, width, height, channels=3):
  """Returns smooth pixels, uint8 [h, w, c], that differ for each index."""
  random = np.random.RandomState(index)
  y, x = np.mgrid[0:height, 0:width]
  rates = random.uniform(0.02, 0.2, [2, channels])
  angle = x[..., None] * rates[0] + y[..., None] * rates[1] + index
  return np.rint(127.5 + 127 * np.sin(angle)).astype(np.uint8)


def encoded(image, kind='png', **options):
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def turned(image):
  """Returns a JPEG file that is upright only after a turn to the right."""
  tags = Image.Exif()
  tags[0x0112] = 6
  return encoded(image.transpose(Image.Transpose.ROTATE_90), 'jpeg', exif=tags)


def write_mixed(folder, count):
  """Writes images of ten kinds; every 13th is damaged.

  Returns:
    The number of damaged ones.
  """
  damaged = 0
  for i in range(count):
    width, height = 40 + 7 * (i % 9), 40 + 11 * (i % 7)
    kind, convert = _KINDS[i % 10]
    data = convert(Image.fromarray(waves(i, width, height)))
    if i % 13 == 5:
      damaged += 1
      data = data[: len(data) // 3]
    path = folder / f'class{i % 3}' / f'{i:05d}.{kind}'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return damaged


def with_alpha(image):
  image = image.copy()
  alpha = np.full([image.height, image.width], 255, np.uint8)
  alpha[: image.height // 2] = 100
  image.putalpha(Image.fromarray(alpha))
  return image


_KINDS = (
  ('png', encoded),
  ('jpg', lambda image: encoded(image, 'jpeg')),
  ('webp', lambda image: encoded(image, 'webp')),
  ('bmp', lambda image: encoded(image, 'bmp')),
  ('tif', lambda image: encoded(image, 'tiff')),
  ('gif', lambda image: encoded(image.convert('P'), 'gif')),
  ('png', lambda image: encoded(image.convert('L'))),
  ('png', lambda image: encoded(with_alpha(image))),
  ('jpg', turned),
  ('jpg', lambda image: encoded(image.convert('CMYK'), 'jpeg')),
)


def idx(values, compress=False):
  """Returns a file in MNIST's format."""
  header = struct.pack(
    f'>{1 + values.ndim}I', 0x800 + values.ndim, *values.shape
  )
  data = header + values.astype(np.uint8).tobytes()
  return gzip.compress(data) if compress else data


def png(i, side=16, channels=3):
  pixels = waves(i, side, side, channels)
  return encoded(Image.fromarray(np.squeeze(pixels)))


def write(folder, names, labels=None):
  for i, name in enumerate(names):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(i))
  if labels is not None:
    text = json.dumps({'labels': labels})
    (folder / 'dataset.json').write_text(text)
  return folder


def prepare(source, dest, **arguments):
  fields = {
    name: arguments.pop(name)
    for name in ('width', 'height', 'channels')
    if name in arguments
  }
  return run.prepare(
    str(source),
    dest,
    options_lib.Options(**fields),
    **{'workers': 1, 'log': lambda _: None} | arguments,
  )
