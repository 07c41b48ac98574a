"""Labels of a dataset to be prepared: from the source, folders or a list."""

import csv
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sg3jax.data import archives, report
from sg3jax.data import labels as labels_lib
from sg3jax.data.prepare import raw_sources

_NAME_COLUMNS = ('name', 'filename', 'file_name', 'file', 'image', 'path')
_MAX_CLASSES = 2**20


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The labels of a source.

  Attributes:
    values: A class number, a list of floats, or None if missing, for each
      image; or None without labels.
    class_names: The names of the classes, in order; None if they have none.
    notes: Sentences about labels that exist and are not used.
  """

  values: list[int | list[float] | None] | None
  class_names: tuple[str, ...] | None = None
  notes: tuple[str, ...] = ()


def choose(source: raw_sources.RawSource, choice: str) -> Chosen:
  """Returns the labels of a source.

  Args:
    source: The images.
    choice: `auto`, the labels that the source has; `none`; `folders`, one class
      for each subfolder; or a `.csv` or `.json` file.

  Raises:
    OSError: If a file cannot be read.
    ValueError: If the labels are invalid or of different kinds.
  """
  notes: tuple[str, ...] = ()
  if choice == 'none':
    return Chosen(None)
  if choice == 'folders':
    try:
      labels = labels_lib.from_folders(source.names, 'the source')
    except ValueError as error:
      raise ValueError(
        'labels can be folders only if each image is in a subfolder that is '
        'named after its class (five digits only divide a large set), got '
        f'{report.examples(source.names)}: pass a .csv or .json file, or none'
      ) from error
    return Chosen(labels.values.tolist(), labels.class_names)
  if choice != 'auto':
    raw, class_names, notes = _from_file(pathlib.Path(choice), source.names)
  else:
    raw = source.labels()
    class_names = source.class_names
    if raw is None:
      return Chosen(None, None, _unused_folders(source.names))
  values, class_names = _uniform(raw, class_names, source.names)
  return Chosen(values, class_names, notes)


def _unused_folders(names: Sequence[str]) -> tuple[str, ...]:
  found = labels_lib.describe_unused(None, 'the source', names)
  return (f'{found}: set labels to folders to use them',) if found else ()


def _from_file(
  path: pathlib.Path, names: Sequence[str]
) -> tuple[list[Any], tuple[str, ...] | None, tuple[str, ...]]:
  """Returns labels for the images, class names, and notes."""
  path = path.expanduser()
  if path.suffix.lower() not in ('.csv', '.json') or not path.is_file():
    raise ValueError(
      'labels must be auto, none, folders, or an existing .csv or .json file, '
      f'got {str(path)!r}'
    )
  read = _read_csv if path.suffix.lower() == '.csv' else _read_json
  table, class_names = read(path)
  labels = [table.get(archives.normalize(name)) for name in names]
  if all(label is None for label in labels):
    raise ValueError(
      f'{path} has no label for any of the images: write their names relative '
      f'to the root of the source, such as {report.printable(names[0])}'
    )
  unknown = sorted(table.keys() - set(names))
  notes: tuple[str, ...] = ()
  if unknown:
    notes = (
      f'{report.count(len(unknown), "label")} in {path} for images that do not '
      f'exist: {report.examples(unknown)}',
    )
  return labels, class_names, notes


def _read_csv(path: pathlib.Path) -> tuple[dict[str, Any], None]:
  """Reads rows of a name and a class, or of a name and several numbers."""
  try:
    # The mark at the beginning of files that Excel writes is not a character.
    text = path.read_text(encoding='utf-8-sig')
    rows = [row for row in csv.reader(text.splitlines()) if row]
  except (UnicodeError, csv.Error) as error:
    raise ValueError(f'{path} is not valid CSV in UTF-8 ({error})') from error
  if rows and rows[0][0].strip().lower() in _NAME_COLUMNS:
    rows = rows[1:]
  table: dict[str, Any] = {}
  for row in rows:
    name, *cells = (cell.strip() for cell in row)
    if not cells or len(cells) != len(rows[0]) - 1:
      raise ValueError(
        f'rows in {path} must have a name and {max(1, len(rows[0]) - 1)} '
        f'values, got {",".join(row)!r}'
      )
    _add(table, name, _parse_cells(cells), path)
  return table, None


def _parse_cells(cells: Sequence[str]) -> Any:
  """Returns a class number, a class name or a list of floats."""
  if len(cells) == 1:
    text = cells[0]
    if not text:
      return None
    return int(text) if text.isdecimal() and len(text) < 8 else text
  try:
    return [float(cell) for cell in cells]
  except ValueError:
    return list(cells)  # Refused later, together with the name of the image.


def _read_json(
  path: pathlib.Path,
) -> tuple[dict[str, Any], tuple[str, ...] | None]:
  """Reads `{"labels": [[NAME, LABEL], ...]}` or `{NAME: LABEL, ...}`."""
  try:
    contents = json.loads(path.read_bytes())
  except (RecursionError, ValueError) as error:
    raise ValueError(f'{path} is not valid JSON ({error})') from error
  entries = contents
  class_names = None
  if isinstance(contents, dict) and isinstance(contents.get('labels'), list):
    entries, class_names = contents['labels'], contents.get('class_names')
  if isinstance(entries, dict):
    entries = list(entries.items())
  table: dict[str, Any] = {}
  for entry in entries if isinstance(entries, list) else [entries]:
    if not (isinstance(entry, list | tuple) and len(entry) == 2):
      raise ValueError(
        f'{path} must be {{NAME: LABEL, ...}} or {{"labels": [[NAME, LABEL], '
        f'...]}}, got {str(entry)[:80]}'
      )
    _add(table, str(entry[0]), entry[1], path)
  return table, None if class_names is None else tuple(map(str, class_names))


def _add(
  table: dict[str, Any], name: str, label: Any, path: pathlib.Path
) -> None:
  key = archives.normalize(name)
  if key in table:
    raise ValueError(
      f'{path} lists {report.printable(name)} more than once: remove all but '
      'one of the entries'
    )
  table[key] = label


def _uniform(
  labels: Sequence[Any],
  class_names: tuple[str, ...] | None,
  names: Sequence[str],
) -> tuple[list[int | list[float] | None], tuple[str, ...] | None]:
  """Checks labels and numbers classes that are given by their names."""
  kinds: dict[str, int] = {}
  for i, label in enumerate(labels):
    if label is not None:
      kinds.setdefault(_kind(label, names[i]), i)
  if len(kinds) > 1:
    (kind, i), (other, j) = list(kinds.items())[:2]
    raise ValueError(
      f'labels must be of one kind, got {kind} for '
      f'{report.printable(names[i])}, but {other} for '
      f'{report.printable(names[j])}'
    )
  if 'a class name' in kinds:
    order = class_names or labels_lib.class_order(
      label for label in labels if label is not None
    )
    index: Mapping[str, int] = {name: i for i, name in enumerate(order)}
    missing = {label for label in labels if label not in index} - {None}
    if missing:
      raise ValueError(
        '"class_names" must contain all classes, got none of '
        f'{report.examples(sorted(missing))}'
      )
    return [None if x is None else index[x] for x in labels], tuple(order)
  if 'a class number' in kinds:
    largest = max(label for label in labels if label is not None)
    if class_names is not None and largest >= len(class_names):
      raise ValueError(
        f'"class_names" must have more than {largest} names, one for each '
        f'class, got {len(class_names)}'
      )
    return list(labels), class_names
  return [None if x is None else [float(v) for v in x] for x in labels], None


def _kind(label: Any, name: str) -> str:
  """Returns the kind of a label as a phrase."""
  match label:
    case bool():
      pass
    case int() if 0 <= label < _MAX_CLASSES:
      return 'a class number'
    case str():
      return 'a class name'
    case [_, *_] if all(
      isinstance(v, int | float)
      and not isinstance(v, bool)
      and math.isfinite(v)
      for v in label
    ):
      return f'a vector of {len(label)} numbers'
  raise ValueError(
    'labels must be class numbers from 0, class names or lists of finite '
    f'numbers, got {str(label)[:80]} for {report.printable(name)}'
  )
