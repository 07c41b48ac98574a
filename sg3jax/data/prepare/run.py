"""Prepares a dataset: reads any images, writes those that training reads.

Work in progress is in the folder `DEST.partial`. Whatever interrupts it, the
same call continues, and the result has the same bytes as without interruption
and with any number of processes.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import PIL

from sg3jax import files as files_lib
from sg3jax import text
from sg3jax.data import array_records, files, report
from sg3jax.data import labels as labels_lib
from sg3jax.data.prepare import (
  chosen_labels,
  conversion,
  images,
  pool,
  raw_sources,
  writers,
)
from sg3jax.data.prepare import options as options_lib

ON_ERROR = ('stop', 'skip')

_SUFFIXES = ('.zip', array_records.SUFFIX)
_PROGRESS_SEC = 10.0


@dataclasses.dataclass(frozen=True)
class Report:
  """The result of `prepare`.

  Attributes:
    images: Number of images written.
    side: Rows and columns of the images.
    channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    notes: Sentences about conversions, labels and files that were not read.
    skipped: The names of images that were not written, and the reasons.
    rate: Images per second of this call; 0 if it processed none.
  """

  images: int
  side: int
  channels: int
  notes: tuple[str, ...]
  skipped: tuple[tuple[str, str], ...]
  rate: float


@dataclasses.dataclass(frozen=True)
class _Job:
  """The task of a run: to prepare the first `count` images of a source."""

  source: raw_sources.RawSource
  labels: chosen_labels.Chosen
  options: options_lib.Options
  count: int
  dest: pathlib.Path
  shard_images: int


def prepare(
  spec: str,
  dest: str | pathlib.Path,
  options: options_lib.Options,
  *,
  labels: str = 'auto',
  max_images: int | None = None,
  on_error: str = 'stop',
  workers: int | None = None,
  shard_images: int = 1000,
  log: Callable[[str], None] = print,
  should_stop: Callable[[], bool] = lambda: False,
) -> Report | None:
  """Prepares a dataset, or continues to.

  Args:
    spec: The source, see `raw_sources.open_raw`.
    dest: A path that ends in `.zip` or `.array_record` and does not exist.
    options: Options that crop, resize and convert images.
    labels: `auto`, `none`, `folders` or a file, see `chosen_labels.choose`.
    max_images: Number of images to consider, from the first; None for all.
    on_error: `stop` at the first image that cannot be used, or `skip` such
      images and report them.
    workers: Number of processes; by default, one for each CPU core.
    shard_images: Number of source images for each ArrayRecord file.
    log: Receives lines of progress.
    should_stop: Returns whether to stop soon; called after each image.

  Returns:
    A report, or None if stopped.

  Raises:
    OSError: If a file cannot be read or written.
    ImportError: If a package that the source needs is missing.
    ValueError: If an option, the source, a label or, with `stop`, an image is
      not usable.
  """
  dest = pathlib.Path(dest).expanduser()
  _check_arguments(dest, on_error, max_images, shard_images)
  options_lib.check(options)
  source = raw_sources.open_raw(spec)
  chosen = chosen_labels.choose(source, labels)
  count = min(len(source.names), max_images or len(source.names))
  job = _Job(source, chosen, options, count, dest, shard_images)
  has_label = _labelled(job, on_error)
  partial = dest.with_name(f'{dest.name}.partial')
  with files_lib.naming_errors(dest):
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
      _check_plan(partial, _plan(job))
      result = _work(
        job,
        images.Preparer(source, options, has_label),
        partial,
        workers=workers or pool.default_workers(),
        on_error=on_error,
        log=log,
        should_stop=should_stop,
      )
    if result is not None:
      shutil.rmtree(partial)
  return result


def _work(
  job: _Job,
  preparer: images.Preparer,
  partial: pathlib.Path,
  *,
  on_error: str,
  **arguments: Any,
) -> Report | None:
  """Writes the dataset from where its writer stopped; None if stopped again."""
  writer = writers.open_writer(partial, job.dest, job.shard_images)
  try:
    shape = _shape(preparer, job.count, on_error)
    preparer = dataclasses.replace(preparer, shape=shape)
    rate = _write(preparer, writer, job.count, on_error=on_error, **arguments)
    if rate is None:
      return None
    result, texts = _conclude(job, writer.entries, shape, rate)
    writer.finish(texts, job.dest)
    return result
  finally:
    writer.close()
    if not writer.entries:  # There is nothing to continue.
      shutil.rmtree(partial)


def _check_arguments(
  dest: pathlib.Path, on_error: str, max_images: int | None, shard_images: int
) -> None:
  if dest.suffix not in _SUFFIXES:
    raise ValueError(
      f'dest must end in {" or ".join(_SUFFIXES)}, got {str(dest)!r}: choose '
      'a zip file, or a folder of ArrayRecord files for very large sets'
    )
  if dest.exists():
    raise FileExistsError(
      f'{dest} exists: choose another dest, or remove it first'
    )
  if on_error not in ON_ERROR:
    raise ValueError(
      f'on_error must be one of {", ".join(ON_ERROR)}, got {on_error}'
    )
  for name, value in (('max_images', max_images), ('shard', shard_images)):
    if value is not None and value < 1:
      raise ValueError(f'{name} must be at least 1, got {value}')
  files_lib.check_folder(dest.parent)


@contextlib.contextmanager
def _locked(partial: pathlib.Path):
  try:
    lock = files_lib.lock(partial / 'lock')
  except files_lib.LockedError as error:
    raise ValueError(
      f'{partial} is in use by {error}: wait for it, or choose another dest'
    ) from error
  with lock:
    yield


def _labelled(job: _Job, on_error: str) -> tuple[bool, ...] | None:
  """Returns which images have a label, or None if all or none need one."""
  values = job.labels.values
  if values is None:
    return None
  flags = tuple(value is not None for value in values[: job.count])
  if all(flags):
    return None
  missing = [job.source.names[i] for i, flag in enumerate(flags) if not flag]
  if on_error == 'stop':
    raise ValueError(
      f'all images or none must have a label, got '
      f'{report.count(len(missing), "image")} without one '
      f'({report.examples(missing)}): add labels, skip these images with '
      'on_error=skip, or ignore all labels with labels=none'
    )
  return flags


def _plan(job: _Job) -> dict[str, Any]:
  """Returns what determines the bytes of the result."""
  names = '\0'.join(job.source.names[: job.count])
  labels = json.dumps([job.labels.values, job.labels.class_names])
  return {
    'version': 1,
    **job.options.asdict(),
    'number of images': job.count,
    'names of images': _hash(names),
    'labels': _hash(labels),
    'shard': job.shard_images if job.dest.suffix != '.zip' else None,
    'version of Pillow': PIL.__version__,
  }


def _hash(string: str) -> str:
  return hashlib.sha256(string.encode(errors='surrogatepass')).hexdigest()


def _check_plan(partial: pathlib.Path, plan: Mapping[str, Any]) -> None:
  """Compares a plan to that of the work in progress, or stores it.

  Raises:
    ValueError: If they differ.
  """
  path = partial / 'plan.json'
  if not path.exists():
    files_lib.write_text(path, json.dumps(plan))
    return
  old = json.loads(path.read_text())
  differing = [
    f'{key} ({old.get(key)}, now {plan.get(key)})'
    if 'of images' not in key and key != 'labels'
    else key
    for key in dict.fromkeys([*old, *plan])
    if old.get(key) != plan.get(key)
  ]
  if differing:
    raise ValueError(
      f'{partial} was begun with other options or data, which differ in '
      f'{", ".join(differing)}: repeat the earlier command to continue, or '
      f'remove {partial} to begin again'
    )


def _shape(
  preparer: images.Preparer, count: int, on_error: str
) -> tuple[int, int]:
  """Returns the side and channels of all images.

  They are those of the options, or else of the first image that can be used.
  """
  options = preparer.options
  if options.side is not None and options.channels is not None:
    return options.side, options.channels
  reason = ''
  for index in range(count):
    outcome = preparer(index)
    if outcome.png is not None:
      image, _ = conversion.load(outcome.png, options)
      return image.width, len(image.getbands())
    reason = outcome.error
    if on_error == 'stop':
      raise _unusable(preparer, outcome)
  raise ValueError(
    f'none of the {count} images can be used: {preparer.source.names[0]}: '
    f'{reason}'
  )


def _unusable(preparer: images.Preparer, outcome: images.Outcome) -> ValueError:
  name = report.printable(preparer.source.names[outcome.index])
  return ValueError(
    f'{name} (image {outcome.index}) cannot be used: {outcome.error}; '
    'on_error=skip skips such images and reports them'
  )


def _write(
  preparer: images.Preparer,
  writer: writers.Writer,
  count: int,
  *,
  workers: int,
  on_error: str,
  log: Callable[[str], None],
  should_stop: Callable[[], bool],
) -> float | None:
  """Writes the images that are not written yet.

  Returns:
    Images per second, or None if stopped.
  """
  begin = len(writer.entries)
  there = f', {begin:,} of which are there already' if begin else ''
  log(f'{text.counted(count, "image")} to prepare{there}')
  start = reported = time.monotonic()
  todo = range(begin, count)
  with contextlib.closing(
    pool.ordered_map(preparer, todo, workers)
  ) as outcomes:
    for outcome in outcomes:
      if outcome.error and on_error == 'stop':
        raise _unusable(preparer, outcome)
      writer.add(outcome)
      done = len(writer.entries)
      if should_stop() and done < count:
        return None
      now = time.monotonic()
      if now - reported > _PROGRESS_SEC:
        rate = (done - begin) / (now - start)
        left = text.format_duration((count - done) / rate)
        log(f'{done:,} of {count:,} images, {rate:.1f} per second, {left} left')
        reported = now
  seconds = time.monotonic() - start
  return len(todo) / seconds if todo and seconds else 0.0


def _conclude(
  job: _Job,
  entries: Sequence[Mapping[str, Any]],
  shape: tuple[int, int],
  rate: float,
) -> tuple[Report, dict[str, str]]:
  """Returns the report, and the text files of the dataset by their names."""
  kept = [i for i, entry in enumerate(entries) if 'error' not in entry]
  skipped = tuple(
    (job.source.names[i], entry['error'])
    for i, entry in enumerate(entries)
    if 'error' in entry
  )
  if not kept:
    name, reason = skipped[0]
    raise ValueError(
      f'none of the {job.count} images can be used: {name}: {reason}'
    )
  counts = collections.Counter(n for i in kept for n in entries[i]['notes'])
  digest = hashlib.sha256()
  for i in kept:
    digest.update(f'{writers.image_name(i)} {entries[i]["sha256"]}\n'.encode())
  side, channels = shape
  about = {
    'version': 1,
    **job.options.asdict(),
    'resize': 'rows, then columns',
    'resolution': side,
    'channels': channels,
    'images': len(kept),
    'source_images': job.count,
    'images_sha256': digest.hexdigest(),
    'pillow': PIL.__version__,
    'conversions': dict(sorted(counts.items())),
    'skipped': skipped,
  }
  result = Report(
    images=len(kept),
    side=side,
    channels=channels,
    notes=(*_describe(job, counts), *_label_notes(job, kept)),
    skipped=skipped,
    rate=rate,
  )
  texts = {
    labels_lib.FILE: json.dumps(_dataset(job, kept)),
    files.PREPARATION: json.dumps(about, indent=2) + '\n',
  }
  return result, texts


def _describe(job: _Job, counts: Mapping[str, int]) -> list[str]:
  notes = [*job.source.notes, *job.labels.notes]
  for key, phrase in conversion.NOTES.items():
    if counts.get(key):
      notes.append(f'{report.count(counts[key], "image")} {phrase}')
  return notes


def _label_notes(job: _Job, kept: Sequence[int]) -> list[str]:
  """Returns sentences about the classes, and about those without images."""
  values = job.labels.values
  if values is None:
    return ['no labels']
  used = [values[i] for i in kept]
  if not isinstance(used[0], int):
    return ['labels are vectors']
  counts = collections.Counter(used)
  names = job.labels.class_names
  number = len(names) if names else max(int(str(v)) for v in counts) + 1
  notes = [f'{number} classes']
  empty = [
    names[i] if names else str(i) for i in range(number) if i not in counts
  ]
  if empty:
    notes.append(
      f'{report.count(len(empty), "class")} without images: '
      f'{report.examples(empty)}'
    )
  return notes


def _dataset(job: _Job, kept: Sequence[int]) -> dict[str, Any]:
  """Returns the contents of dataset.json."""
  names = [writers.image_name(i) for i in kept]
  values, class_names = job.labels.values, job.labels.class_names
  contents: dict[str, Any] = {'labels': None}
  if values is not None:
    contents['labels'] = [
      [name, values[i]] for name, i in zip(names, kept, strict=True)
    ]
  if values is not None and class_names:
    contents['class_names'] = list(class_names)
  if job.dest.suffix == array_records.SUFFIX:
    contents['names'] = names  # The order of the records.
  return contents
