"""Computes a report and writes it: one HTML page, and its pictures as files."""

import dataclasses
import datetime
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence

import jax

from sg3jax import files, text, version
from sg3jax.report import base, page

_SUFFIXES = ('.html', '.htm')


@dataclasses.dataclass(frozen=True)
class Output:
  """The files of a report.

  Attributes:
    page: The HTML file.
    folder: The folder of its pictures, beside it: `report_files` for
      `report.html`.
  """

  page: pathlib.Path
  folder: pathlib.Path


def check_output(path: str | pathlib.Path, *, overwrite: bool) -> Output:
  """Returns the files of a report, before anything is computed.

  Args:
    path: The HTML file.
    overwrite: Whether to replace an existing report.

  Raises:
    ValueError: If the path is not that of an HTML file, or the folder has files
      that are no pictures of a report.
    OSError: If a file exists and `overwrite` is False, or the folder cannot be
      written to.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() not in _SUFFIXES:
    raise ValueError(
      f'output must be an .html file, got {path}: its pictures are written to '
      'a folder beside it'
    )
  output = Output(path, path.with_name(f'{path.stem}_files'))
  files.check_folder(path.parent)
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a folder: choose another output')
  for existing in (output.page, output.folder):
    if existing.exists() and not overwrite:
      raise FileExistsError(
        f'{existing} exists: pass --overwrite or another --output'
      )
  if output.folder.exists():
    _check_pictures(output.folder)
  return output


def _check_pictures(folder: pathlib.Path) -> None:
  """Raises ValueError unless a folder has nothing but PNG files."""
  if not folder.is_dir():
    raise ValueError(f'{folder} must be a folder, got a file: move it away')
  for path in sorted(folder.iterdir()):
    if path.suffix != '.png' or not path.is_file():
      raise ValueError(
        f'{folder} must have only the pictures of an earlier report to be '
        f'replaced, got {path.name}: choose another --output'
      )


def analyse(
  context: base.Context,
  *,
  log: Callable[[str], None] = lambda line: None,
) -> list[tuple[base.Section, base.Findings]]:
  """Computes all sections.

  Args:
    context: The models and images to analyse.
    log: Called with a line of text about each section.
  """
  found = []
  sections = base.sections()
  for number, section in enumerate(sections, start=1):
    log(f'{"Section:":15} {number} of {len(sections)}, {section.title}')
    start = time.monotonic()
    with jax.set_mesh(context.subjects[0].images.mesh):
      findings = section.analyse(context)
    taken = text.format_duration(time.monotonic() - start)
    log(f'{"Done:":15} in {taken}')
    found.append((section, findings))
  return found


def write(
  output: Output,
  context: base.Context,
  found: Sequence[tuple[base.Section, base.Findings]],
) -> None:
  """Writes the page and its pictures, which replace an earlier report.

  Args:
    output: The files.
    context: The models and images that were analysed.
    found: The sections with what they have found.

  Raises:
    OSError: If the files cannot be written.
  """
  with files.naming_errors(output.folder):
    _write_pictures(output.folder, found)
  content = page.render(_title(context), _made(context), found)
  files.write_text(output.page, content)


def _write_pictures(
  folder: pathlib.Path,
  found: Sequence[tuple[base.Section, base.Findings]],
) -> None:
  folder.parent.mkdir(parents=True, exist_ok=True)
  # The folder gets its name when it is complete.
  with tempfile.TemporaryDirectory(
    prefix=f'.{folder.name}.', dir=folder.parent
  ) as temporary:
    new = pathlib.Path(temporary) / folder.name
    new.mkdir()
    for section, findings in found:
      for figure in (x for row in findings.figures for x in row):
        name = f'{section.name}-{_file_name(figure.name)}'
        while (new / f'{name}.png').exists():  # A similar model has it.
          name += '-'
        (new / f'{name}.png').write_bytes(figure.png)
    if folder.exists():
      shutil.rmtree(folder)
    new.rename(folder)


def _file_name(name: str) -> str:
  """Returns a name without characters that paths and shells treat specially."""
  return re.sub(r'[^\w.-]+', '-', name).strip('-')


def _title(context: base.Context) -> str:
  names = ', '.join(subject.name for subject in context.subjects)
  return f'Report on {names}'


def _made(context: base.Context) -> str:
  """Returns how the report was made."""
  reals = 'no real images'
  if context.reals:
    source = context.reals.source
    reals = f'real images {source.name} ({len(source)})'
  device = context.subjects[0].images.mesh.devices.flat[0]
  date = datetime.datetime.now(datetime.UTC)
  return (
    f'sg3jax {version.__version__}, {date:%Y-%m-%d}, seed {context.seed}, '
    f'spectra of {context.samples} images, {reals}, on {device.device_kind}.'
  )
