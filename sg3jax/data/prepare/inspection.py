"""Describes a source of images: sizes, modes, classes, duplicates, damage."""

import collections
import dataclasses
import hashlib
import itertools
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt64
from PIL import Image, ImageOps

from sg3jax import files as files_lib
from sg3jax.data import report
from sg3jax.data.prepare import chosen_labels, conversion, pool, raw_sources
from sg3jax.data.prepare import options as options_lib

# Perceptual hashes of 64 bits that differ in at most this many are near
# duplicates.
NEAR_BITS = 4
_HASH_SIDE = 8
_SHEET_SIDE = 96
_MOST_SHOWN = 100


@dataclasses.dataclass(frozen=True)
class Look:
  """Properties of one image.

  Attributes:
    index: Its position in the source.
    error: Why it cannot be decoded; empty otherwise.
    size: Columns and rows, upright.
    mode: L, RGB or RGBA.
    notes: Keys of `conversion.NOTES`.
    pixels: Hash of its shape and pixels.
    bits: Its perceptual hash; None if it is flat.
    thumbnail: RGB pixels of `_SHEET_SIDE`, for a contact sheet; None if not
      wanted.
  """

  index: int
  error: str = ''
  size: tuple[int, int] = (0, 0)
  mode: str = ''
  notes: tuple[str, ...] = ()
  pixels: str = ''
  bits: int | None = None
  thumbnail: bytes | None = None


@dataclasses.dataclass(frozen=True)
class _Inspector:
  """Looks at images of a source; it can be pickled."""

  source: raw_sources.RawSource
  shown: frozenset[int]  # Images of the contact sheet.

  def __call__(self, index: int) -> Look:
    try:
      contents = self.source.read(index)
      # 16 bits are reported, so they are accepted here.
      options = options_lib.Options(depth16='reduce')
      image, notes = conversion.load(contents, options)
    except MemoryError:
      raise
    except Exception as error:
      if isinstance(error, OSError) and error.errno is not None:
        raise
      return Look(index, error=conversion.reason(error))
    digest = hashlib.sha256(f'{image.mode}{image.size}'.encode())
    digest.update(image.tobytes())
    thumbnail = None
    if index in self.shown:
      thumbnail = _thumbnail(image).tobytes()
    return Look(
      index,
      size=image.size,
      mode=image.mode,
      notes=notes,
      pixels=digest.hexdigest(),
      bits=perceptual_hash(image),
      thumbnail=thumbnail,
    )


def perceptual_hash(image: Image.Image) -> int | None:
  """Returns 64 bits that similar images share; None for a flat image.

  Each bit says whether one of 8 x 8 cells is brighter than its neighbour to
  the right (the difference hash). It does not change with the size, the
  brightness or the compression of an image.
  """
  size = (_HASH_SIDE + 1, _HASH_SIDE)
  small = image.convert('L').resize(size, Image.Resampling.BOX)
  cells = np.asarray(small, np.int16)
  if np.ptp(cells) < 4:  # Only noise would decide about the bits.
    return None
  brighter = cells[:, :-1] > cells[:, 1:]
  return int.from_bytes(np.packbits(brighter).tobytes(), 'big')


def _thumbnail(image: Image.Image) -> Image.Image:
  size = (_SHEET_SIDE, _SHEET_SIDE)
  if image.mode == 'RGBA':
    behind = Image.new('RGBA', image.size, (128, 128, 128, 255))
    image = Image.alpha_composite(behind, image)
  return ImageOps.pad(image.convert('RGB'), size, Image.Resampling.BOX)


def inspect(
  spec: str,
  *,
  labels: str = 'auto',
  max_images: int | None = None,
  sheet: str | pathlib.Path | None = None,
  sheet_images: int = 64,
  workers: int | None = None,
) -> dict[str, Any]:
  """Decodes the images of a source and describes them.

  Args:
    spec: The source, see `raw_sources.open_raw`.
    labels: The labels, see `chosen_labels.choose`.
    max_images: Number of images to look at, from the first; None for all.
    sheet: Path of a PNG file with small copies of images spread over the
      source, which must not exist; None for none.
    sheet_images: Number of images on it.
    workers: Number of processes; by default, one for each CPU core.

  Returns:
    A dict that JSON can represent.

  Raises:
    OSError: If a file cannot be read, or the sheet exists or cannot be written.
    ValueError: If the source is not usable.
  """
  if sheet is not None and pathlib.Path(sheet).exists():
    raise FileExistsError(f'{sheet} exists: choose another path')
  if sheet is not None and pathlib.Path(sheet).suffix != '.png':
    raise ValueError(f'the contact sheet must end in .png, got {sheet}')
  if max_images is not None and max_images < 1:
    raise ValueError(f'max_images must be at least 1, got {max_images}')
  source = raw_sources.open_raw(spec)
  chosen = chosen_labels.choose(source, labels)
  count = min(len(source.names), max_images or len(source.names))
  places = np.linspace(0, count - 1, min(sheet_images, count)).round()
  shown = frozenset(places.astype(int).tolist() if sheet else ())
  looks = list(
    pool.ordered_map(
      _Inspector(source, shown),
      range(count),
      workers or pool.default_workers(),
    )
  )
  if sheet is not None:
    _write_sheet(pathlib.Path(sheet), looks)
  return _describe(source, chosen, looks)


def _describe(
  source: raw_sources.RawSource,
  chosen: chosen_labels.Chosen,
  looks: Sequence[Look],
) -> dict[str, Any]:
  names = source.names
  good = [look for look in looks if not look.error]
  sizes = collections.Counter(f'{w}x{h}' for w, h in (x.size for x in good))
  exact = _groups((look.pixels, look.index) for look in good)
  near = near_duplicates(good)
  notes = collections.Counter(key for look in good for key in look.notes)
  return {
    'images': len(looks),
    'usable': len(good),
    'damaged': [[names[x.index], x.error] for x in looks if x.error],
    'sizes': dict(sizes.most_common(_MOST_SHOWN)),
    'distinct_sizes': len(sizes),
    'modes': dict(collections.Counter(look.mode for look in good)),
    'properties': dict(notes),
    'duplicates': [[names[i] for i in group] for group in exact],
    'near_duplicates': [[names[i], names[j], bits] for i, j, bits in near],
    'classes': _histogram(chosen, len(looks)),
    'notes': [*source.notes, *chosen.notes],
  }


def _groups(pairs: Iterable[tuple[Any, int]]) -> list[list[int]]:
  """Returns the groups of two or more indices with equal keys."""
  found: dict[Any, list[int]] = {}
  for key, index in pairs:
    found.setdefault(key, []).append(index)
  return [group for group in found.values() if len(group) > 1]


def near_duplicates(looks: Sequence[Look]) -> list[tuple[int, int, int]]:
  """Returns pairs of similar images that are not equal.

  If two hashes differ in at most `NEAR_BITS` bits, at least one of
  `NEAR_BITS + 1` parts is equal in both: only images that share a part are
  compared, so the time does not grow with the square of their number.

  Returns:
    The indices of two images, and the number of bits in which they differ. An
    image is compared with the first of several equal ones.
  """
  first = {}
  for look in looks:
    if look.bits is not None:
      first.setdefault(look.pixels, look)
  chosen = list(first.values())
  hashes = np.array([look.bits for look in chosen], np.uint64)
  pairs: dict[tuple[int, int], int] = {}
  edges = np.linspace(0, 64, NEAR_BITS + 2).round().astype(int).tolist()
  for low, high in itertools.pairwise(edges):
    mask = np.uint64(2 ** (high - low) - 1)
    part = (hashes >> np.uint64(low)) & mask
    order = np.argsort(part, kind='stable')
    cuts = np.flatnonzero(np.diff(part[order])) + 1
    for group in np.split(order, cuts):
      _compare(hashes, group, pairs)
  return [
    (chosen[i].index, chosen[j].index, bits)
    for (i, j), bits in sorted(pairs.items())
  ]


def _compare(
  hashes: UInt64[np.ndarray, ' n'],
  group: np.ndarray,
  pairs: dict[tuple[int, int], int],
) -> None:
  """Adds the pairs of a group that are similar."""
  for position, i in enumerate(group[:-1].tolist()):
    others = group[position + 1 :]
    bits = np.bitwise_count(hashes[others] ^ hashes[i])
    for k in np.flatnonzero(bits <= NEAR_BITS).tolist():
      j = int(others[k])
      pairs[min(i, j), max(i, j)] = int(bits[k])


def _histogram(
  chosen: chosen_labels.Chosen, count: int
) -> dict[str, int] | None:
  """Returns the number of images of each class; None without classes."""
  if chosen.values is None:
    return None
  values = chosen.values[:count]
  if any(isinstance(value, list) for value in values):
    return None
  counts = collections.Counter(value for value in values)
  names = chosen.class_names
  found = [int(str(v)) for v in counts if v is not None]
  number = len(names) if names else max(found, default=-1) + 1
  histogram = {names[i] if names else str(i): counts[i] for i in range(number)}
  if counts[None]:
    histogram['(no label)'] = counts[None]
  return histogram


def _write_sheet(path: pathlib.Path, looks: Sequence[Look]) -> None:
  """Writes small copies of images, in the order of the source."""
  shown = [look.thumbnail for look in looks if look.thumbnail is not None]
  if not shown:
    raise ValueError('no image can be decoded, so there is no contact sheet')
  columns = math.ceil(math.sqrt(len(shown)))
  rows = math.ceil(len(shown) / columns)
  sheet = Image.new('RGB', (columns * _SHEET_SIDE, rows * _SHEET_SIDE))
  for i, data in enumerate(shown):
    cell = Image.frombytes('RGB', (_SHEET_SIDE, _SHEET_SIDE), data)
    row, column = divmod(i, columns)
    sheet.paste(cell, (column * _SHEET_SIDE, row * _SHEET_SIDE))
  with files_lib.naming_errors(path), files_lib.replacing(path) as temporary:
    sheet.save(temporary)


def summary(found: dict[str, Any]) -> list[str]:
  """Returns what `inspect` found as lines of text."""
  damaged, sizes = found['damaged'], found['sizes']
  lines = [f'images        {found["images"]:,}, {found["usable"]:,} usable']
  for name, reason in damaged[:10]:
    lines.append(f'damaged       {report.printable(name)}: {reason}')
  if len(damaged) > 10:
    lines.append(f'damaged       and {len(damaged) - 10:,} more')
  shown = [f'{size} ({n:,})' for size, n in list(sizes.items())[:8]]
  more = found['distinct_sizes'] - len(shown)
  shown += [f'{more:,} other sizes'] if more > 0 else []
  lines.append(f'sizes         {", ".join(shown)}')
  modes = [f'{mode} ({n:,})' for mode, n in found['modes'].items()]
  lines.append(f'modes         {", ".join(modes)}')
  for key, n in found['properties'].items():
    phrase = conversion.NOTES[key]
    lines.append(f'of these      {report.count(n, "image")} {phrase}')
  for group in found['duplicates'][:10]:
    lines.append(f'equal         {report.examples(group)}')
  for one, other, bits in found['near_duplicates'][:10]:
    pair = report.examples([one, other])
    lines.append(f'similar       {pair} ({report.count(bits, "bit")} of 64)')
  lines.append(
    f'duplicates    {report.count(len(found["duplicates"]), "group")} of equal '
    f'images, {report.count(len(found["near_duplicates"]), "pair")} of similar '
    'ones'
  )
  if found['classes'] is not None:
    for name, n in list(found['classes'].items())[:20]:
      label = report.printable(name)
      lines.append(f'class         {label}: {report.count(n, "image")}')
    if len(found['classes']) > 20:
      lines.append(f'class         and {len(found["classes"]) - 20:,} more')
  lines += [f'note          {note}' for note in found['notes']]
  return lines
