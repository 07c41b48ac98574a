"""Describes the sections of a report, and keeps a registry of them.

A section is one function with a description, in its own file of the folder
`sections`:

    @base.register('brightness', title='Brightness', place=90, about='...')
    def analyse(context: base.Context) -> base.Findings:
      rows = [{'model': s.name, 'mean': ...} for s in context.subjects]
      return base.Findings(tables=[base.Table('Grey levels.', rows)])

It computes on the subjects of the context and returns tables and pictures. The
modules of the folder are imported when the registry is read.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sg3jax.report import features as features_lib
from sg3jax.report import reals as reals_lib
from sg3jax.report import subjects as subjects_lib

_FOLDER = 'sg3jax.report.sections'


@dataclasses.dataclass(frozen=True)
class Figure:
  """A picture of the report.

  Attributes:
    name: Name of its file, without the suffix; unique within its section.
    png: Content of the PNG file.
    caption: Description of it, with every number needed to read it.
    title: Heading above it, such as the name of the model.
  """

  name: str
  png: bytes
  caption: str
  title: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of the report.

  Attributes:
    caption: Description of its rows.
    rows: Values by column; see `text.markdown`.
  """

  caption: str
  rows: Sequence[Mapping[str, Any]]


@dataclasses.dataclass
class Findings:
  """The content of a section.

  Attributes:
    tables: Tables, above the pictures.
    figures: Rows of pictures; those of a row are side by side.
    notes: Sentences about what is missing, and why.
  """

  tables: list[Table] = dataclasses.field(default_factory=list)
  figures: list[list[Figure]] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Context:
  """The models, data and options of a report.

  Attributes:
    subjects: The models.
    reals: The real images; None without data.
    seed: The first seed of latents, and the seed of all other choices.
    samples: Number of images for statistics.
    searched: Maximum number of real images to search for neighbours.
    features: The features in which images are compared.
  """

  subjects: Sequence[subjects_lib.Subject]
  reals: reals_lib.Reals | None
  seed: int
  samples: int
  searched: int
  features: features_lib.Features


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the report.

  Attributes:
    name: Its name, for files and links.
    title: Its heading.
    place: Sections are in ascending order of this number.
    about: A paragraph that explains what is shown, and how to read it.
    analyse: Computes the findings.
  """

  name: str
  title: str
  place: int
  about: str
  analyse: Callable[[Context], Findings]


_SECTIONS: dict[str, Section] = {}


def register(
  name: str, *, title: str, place: int, about: str
) -> Callable[[Callable[[Context], Findings]], Callable[[Context], Findings]]:
  """Returns a decorator that registers a function as a section.

  Args:
    name: Name of the section; see `Section` for all arguments.
    title: Heading.
    place: Its place in the order.
    about: Description of its contents.
  """

  def add(
    analyse: Callable[[Context], Findings],
  ) -> Callable[[Context], Findings]:
    _SECTIONS[name] = Section(name, title, place, about, analyse)
    return analyse

  return add


def sections() -> list[Section]:
  """Returns all sections in order."""
  package = importlib.import_module(_FOLDER)
  for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f'{package.__name__}.{module.name}')
  return sorted(_SECTIONS.values(), key=lambda section: section.place)
