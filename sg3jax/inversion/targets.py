"""Reads the photographs to project, in the shape of a model's images."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from sg3jax import files
from sg3jax.data import decoding, report

_MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}


@dataclasses.dataclass(frozen=True)
class Targets:
  """Photographs to project.

  Attributes:
    names: A name for each, from its file, without the suffix.
    images: The images [n, h, w, c], float32 in [-1, 1].
    notes: Sentences about what was changed or skipped.
  """

  names: tuple[str, ...]
  images: Float[np.ndarray, 'n h w c']
  notes: tuple[str, ...]


def read(path: str | pathlib.Path, resolution: int, channels: int) -> Targets:
  """Reads one photograph or all those in a folder.

  Photographs are turned upright by their orientation tag, cropped to their
  central square, and resized with a Lanczos filter. Alignment, such as placing
  the eyes of faces, is left to the user. Colours become grey by luma weights;
  transparent parts become white for a model without alpha; and images without
  alpha become opaque for a model with it.

  Args:
    path: A file or a folder, whose files are read in the order of their names.
    resolution: Pixels per side of the model's images.
    channels: Channels of the model's images: 1, 3 or 4.

  Raises:
    FileNotFoundError: If there is no such file or folder.
    ValueError: If there are no images, or one cannot be read.
  """
  path = files.local_path(path)
  if not path.exists():
    raise FileNotFoundError(
      f'{path} does not exist: pass an image file, or a folder of them'
    )
  paths, notes = [path], []
  if path.is_dir():
    found = sorted(p for p in path.iterdir() if not p.name.startswith('.'))
    paths = [p for p in found if p.name.lower().endswith(decoding.SUFFIXES)]
    others = [p.name for p in found if p not in paths]
    if others:
      notes.append(
        f'{report.count(len(others), "file")} skipped: '
        f'{report.examples(others)}'
      )
  if not paths:
    raise ValueError(
      f'{path} must contain files that end in {", ".join(decoding.SUFFIXES)}, '
      'got none'
    )
  names = [p.stem for p in paths]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(
        f'files must have different names without their suffixes, got several '
        f'of {report.printable(name)} in {path}: rename one of them'
      )
  images = []
  for file in paths:
    image, changes = _read_image(file, resolution, channels)
    images.append(image)
    if changes:
      notes.append(f'{report.printable(file.name)}: {", ".join(changes)}')
  return Targets(tuple(names), np.stack(images), tuple(notes))


def _read_image(
  path: pathlib.Path, resolution: int, channels: int
) -> tuple[Float[np.ndarray, 'h w c'], list[str]]:
  """Returns an image in [-1, 1], and phrases about what was changed.

  Raises:
    ValueError: If the file is damaged or of a kind that is not supported.
    OSError: If the system cannot read it.
  """
  where = report.printable(str(path))
  try:
    with open(path, 'rb') as file:
      header = decoding.read_header(file, where)
      file.seek(0)
      with Image.open(file) as opened:
        turned = ImageOps.exif_transpose(opened)
        image = (opened if turned is None else turned).convert(header.mode)
  except decoding.UnusableError:
    raise
  except Exception as error:  # Decoders raise almost anything.
    raise decoding.unreadable(where, error) from error
  changes = []
  if 'animated' in header.unread:
    changes.append('only the first image of the animation is read')
  if any(kind.startswith('turned') for kind in header.unread):
    changes.append('turned upright')
  image = _convert(image, _MODES[channels], changes)
  side = min(image.size)
  if image.size != (side, side):
    changes.append(
      f'cropped from {image.width}x{image.height} to its central square'
    )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
  if side != resolution:
    verb = 'reduced' if side > resolution else 'enlarged'
    changes.append(f'{verb} from {side} to {resolution} pixels')
    image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
  pixels = np.asarray(image, np.float32).reshape(
    resolution, resolution, channels
  )
  return pixels / np.float32(127.5) - 1, changes


def _convert(image: Image.Image, mode: str, changes: list[str]) -> Image.Image:
  """Returns an image in a mode, and adds phrases about what that changed."""
  if image.mode == mode:
    return image
  if image.mode == 'RGBA':
    changes.append('transparent parts are shown on white')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image).convert('RGB')
  if mode == 'L' and image.mode != 'L':
    changes.append('colours become grey')
  return image.convert(mode)
