"""Records the data of a run when it begins, and compares them on resume.

    data.json   the number of images, hashes of their names and labels, and
                the classes

An older run without this file gets it when it is resumed.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from sg3jax import files
from sg3jax.data import report, sources
from sg3jax.train.checkpoint import reader

FILE = 'data.json'


def describe(source: sources.ImageSource) -> dict[str, Any]:
  """Returns the record of a source.

  Returns:
    A mapping with `images`, their number; `images_sha256`, the source's
    fingerprint or None; `label_dim`; `labels_sha256`, None without labels; and
    `class_names` in order, None without names.
  """
  names = sources.class_names(source)
  labels_hash = None
  if source.label_dim:
    values = source.labels().values
    labels_hash = hashlib.sha256(values.tobytes()).hexdigest()
  return {
    'images': len(source),
    'images_sha256': sources.fingerprint(source),
    'label_dim': source.label_dim,
    'labels_sha256': labels_hash,
    'class_names': None if names is None else list(names),
  }


def check(
  workdir: pathlib.Path,
  source: sources.ImageSource,
  *,
  allow_config_change: bool,
) -> list[str]:
  """Compares the data with those that the run in a folder has used so far.

  Args:
    workdir: The run folder.
    source: The training images of this session.
    allow_config_change: Whether they may differ.

  Returns:
    The differences, one line each; empty for a new run.

  Raises:
    ValueError: If the data differ but may not, or `data.json` is damaged.
  """
  path = workdir / FILE
  if path.exists():
    changes = _difference(_read(path), describe(source))
  elif reader.has_checkpoint(workdir):
    # The run predates data.json, and some data were read differently then.
    changes = [f'data: {change}' for change in sources.changes(source)]
  else:
    changes = []
  if changes and not allow_config_change:
    raise ValueError(
      f'{workdir} holds a run on other data: {"; ".join(changes)}. Restore the '
      'data to continue, or use another workdir; or set allow_config_change '
      'to continue with the new data'
    )
  return changes


def record(workdir: pathlib.Path, source: sources.ImageSource) -> None:
  """Writes `data.json`, unless it is already up to date.

  On several hosts only the first process writes.

  Raises:
    OSError: If it cannot be written.
  """
  path = workdir / FILE
  now = describe(source)
  if jax.process_index() == 0 and not (path.exists() and _read(path) == now):
    files.write_text(path, json.dumps(now, indent=2) + '\n')


def with_class_names(
  options: Mapping[str, Any], source: sources.ImageSource
) -> dict[str, Any]:
  """Returns a run's options with the names of its classes, for checkpoints."""
  names = sources.class_names(source)
  return dict(options) | ({} if names is None else {'class_names': list(names)})


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    recorded = json.loads(path.read_text(encoding='utf-8'))
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f'{path} must be valid JSON ({error}): restore it, or remove it to '
      'continue with the data as they are now'
    ) from error
  if not isinstance(recorded, dict):
    raise ValueError(
      f'{path} must be a JSON object: restore it, or remove it to continue '
      'with the data as they are now'
    )
  return recorded


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Returns a line for each difference between two records."""

  def differs(key: str) -> bool:
    return old.get(key) != new[key]

  lines = []
  if differs('images'):
    lines.append(f'data: {_change(old.get("images"), new["images"])}')
  elif differs('images_sha256'):
    lines.append('data: as many images, but with other names or in other order')
  if differs('label_dim'):
    lines.append(
      f'data: labels of {new["label_dim"]} features, where there were '
      f'{old.get("label_dim")}'
    )
  if differs('class_names'):
    lines.append(
      f'data: {_class_change(old.get("class_names"), new["class_names"])}'
    )
  # Other images have other labels, which need no separate line.
  if differs('labels_sha256') and not lines:
    lines.append('data: other labels of the same images')
  return lines


def _change(old: Any, new: int) -> str:
  if not isinstance(old, int):
    return f'{new:,} images, where the record has {old!r}'
  sign = 'more' if new > old else 'fewer'
  return (
    f'{report.count(new, "image")}, {abs(new - old):,} {sign} than the '
    f'{old:,} before'
  )


def _class_change(recorded: Any, new: list[str] | None) -> str:
  old = recorded if isinstance(recorded, list) else []
  gone = [str(name) for name in old if name not in (new or ())]
  added = [name for name in new or () if name not in old]
  parts = [
    f'classes {word}: {report.examples(names)}'
    for word, names in (('removed', gone), ('added', added))
    if names
  ]
  return ', '.join(parts) or 'the same classes in another order'
