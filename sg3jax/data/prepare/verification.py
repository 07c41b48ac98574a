"""Verifies that a dataset is complete and can be trained on."""

import dataclasses
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

from sg3jax.data import archives, decoding, files, report
from sg3jax.data import labels as labels_lib
from sg3jax.data.prepare import pool, raw_sources


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The result of a verification.

  Attributes:
    images: Number of images.
    faults: Sentences about what is wrong; empty if nothing is.
    facts: Sentences about what is right.
  """

  images: int
  faults: tuple[str, ...]
  facts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Checker:
  """Decodes images; it can be pickled.

  The result for an image is its fault, its shape and the hash of its file.
  """

  source: raw_sources.Files

  def __call__(self, index: int) -> tuple[str, tuple[int, ...], str]:
    name = self.source.names[index]
    try:
      data = self.source.read(index)
      pixels, _ = decoding.decode(data, name)
    except MemoryError:
      raise
    except Exception as error:
      if isinstance(error, OSError) and error.errno is not None:
        raise
      return f'{report.printable(name)} cannot be decoded ({error})', (), ''
    return '', pixels.shape, hashlib.sha256(data).hexdigest()


def verify(path: str | pathlib.Path, workers: int | None = None) -> Verdict:
  """Decodes all images of a dataset, and checks its labels and metadata.

  Args:
    path: A folder, zip file or folder of ArrayRecord files that training reads.
    workers: Number of processes; by default, one for each CPU core.

  Raises:
    OSError: If the disk or the network fails to deliver a file.
    ValueError: If the path is not a dataset at all.
  """
  path = pathlib.Path(path).expanduser()
  archive = archives.open_archive(path)
  source = raw_sources.Files(archive)
  names = sorted(source.names)  # The order in which training reads them.
  source.names = names
  results = list(
    pool.ordered_map(
      _Checker(source), range(len(names)), workers or pool.default_workers()
    )
  )
  faults = [fault for fault, _, _ in results if fault]
  shapes = {
    name: shape
    for name, (fault, shape, _) in zip(names, results, strict=True)
    if not fault
  }
  facts = [f'{report.count(len(shapes), "image")} decoded']
  faults += _check_shapes(shapes, facts)
  everything = archive.names()
  faults += _check_labels(archive, everything, names, facts)
  digest = hashlib.sha256()
  for name, (_, _, sha256) in zip(names, results, strict=True):
    digest.update(f'{name} {sha256}\n'.encode(errors='surrogatepass'))
  faults += _check_preparation(
    archive, everything, shapes, len(names), digest.hexdigest(), facts
  )
  _note_compression(path, facts)
  return Verdict(len(names), tuple(faults), tuple(facts))


def _check_shapes(
  shapes: Mapping[str, tuple[int, ...]], facts: list[str]
) -> list[str]:
  """Returns faults: images that are not square or differ from the first."""
  if not shapes:
    return ['no image can be decoded']
  first = next(iter(shapes.values()))
  if first[0] != first[1]:
    return [f'images must be square, got {decoding.describe(first)}']
  odd = [name for name, shape in shapes.items() if shape != first]
  if odd:
    return [
      f'{report.count(len(odd), "image")} must have '
      f'{decoding.describe(first)} like the first: {report.examples(odd)}'
    ]
  facts.append(decoding.describe(first))
  return []


def _read(archive: Any, name: str) -> bytes:
  with archive.open(name) as file:
    return file.read()


def _check_labels(
  archive: Any, everything: list[str], names: list[str], facts: list[str]
) -> list[str]:
  if labels_lib.FILE not in everything:
    facts.append(f'no {labels_lib.FILE}, so no labels')
    return []
  where = f'{labels_lib.FILE} in {archive.path}'
  try:
    text = _read(archive, labels_lib.FILE)
    if not labels_lib.describe_unused(text, where, names):
      facts.append('no labels')
      return []
    labels = labels_lib.read(text, where, names)
  except ValueError as error:
    return [str(error)]
  counts = labels.class_counts()
  if counts is None:
    facts.append(f'labels are vectors of {labels.dim} numbers')
    return []
  empty = int((counts == 0).sum())
  without = f', {empty} of them without images' if empty else ''
  facts.append(f'labels of {report.count(labels.dim, "class")}{without}')
  return []


def _check_preparation(
  archive: Any,
  everything: list[str],
  shapes: Mapping[str, tuple[int, ...]],
  count: int,
  digest: str,
  facts: list[str],
) -> list[str]:
  """Returns how the dataset differs from what was prepared."""
  if files.PREPARATION not in everything:
    facts.append(f'no {files.PREPARATION}, so its files cannot be compared')
    return []
  try:
    about = json.loads(_read(archive, files.PREPARATION))
    expected = (about['images'], about['resolution'], about['channels'])
    expected_digest = about['images_sha256']
  except (KeyError, RecursionError, TypeError, ValueError) as error:
    return [f'{files.PREPARATION} is damaged ({error!r})']
  first = next(iter(shapes.values()), (0, 0, 0))
  found = (count, first[0], first[2])
  faults = [
    f'{what} must be {was} as prepared, got {now}'
    for what, was, now in zip(
      ('the number of images', 'the resolution', 'the number of channels'),
      expected,
      found,
      strict=True,
    )
    if was != now
  ]
  if not faults and digest != expected_digest:
    faults.append('names or files of images have changed since preparation')
  if not faults:
    facts.append(
      'names and files are as prepared '
      f'(transform {about.get("transform")}, filter {about.get("filter")})'
    )
  return faults


def _note_compression(path: pathlib.Path, facts: list[str]) -> None:
  """Notes whether a zip file is compressed, which only makes it slower."""
  if path.is_file():
    with zipfile.ZipFile(path) as file:
      packed = [
        info.filename
        for info in file.infolist()
        if info.compress_type != zipfile.ZIP_STORED
      ]
    if packed:
      number = report.count(len(packed), 'file')
      facts.append(f'{number} compressed in the zip, which reads more slowly')
