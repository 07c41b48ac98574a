"""Renders a report as one HTML page that needs no other file."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from sg3jax import text
from sg3jax.pages import rendering
from sg3jax.report import base


def render(
  title: str,
  made: str,
  found: Sequence[tuple[base.Section, base.Findings]],
) -> str:
  """Returns the page.

  Args:
    title: Its title.
    made: A sentence about how it was made.
    found: The sections in order, with what they have found.
  """
  return rendering.render(
    'sg3jax.report',
    'page.html.j2',
    title=title,
    made=made,
    sections=[_section(section, findings) for section, findings in found],
  )


def _section(section: base.Section, findings: base.Findings) -> dict[str, Any]:
  return {
    'name': section.name,
    'title': section.title,
    'about': section.about,
    'notes': findings.notes,
    'tables': [_table(table) for table in findings.tables],
    'figures': [
      [_figure(section, figure) for figure in row] for row in findings.figures
    ],
  }


def _table(table: base.Table) -> dict[str, Any]:
  names = text.columns(table.rows)
  return {
    'caption': table.caption,
    'columns': [
      {
        'name': name,
        'numeric': all(
          isinstance(row.get(name), int | float | None) for row in table.rows
        ),
      }
      for name in names
    ],
    'rows': [[_cell(row.get(name)) for name in names] for row in table.rows],
  }


def _cell(value: Any) -> str:
  # `text.cell` escapes for Markdown; Jinja escapes text for HTML.
  if isinstance(value, str):
    return value
  return '–' if value is None else text.cell(value)  # noqa: RUF001


def _figure(section: base.Section, figure: base.Figure) -> dict[str, Any]:
  with Image.open(io.BytesIO(figure.png)) as image:
    width, height = image.size
  return {
    'title': figure.title,
    'caption': figure.caption,
    'source': rendering.inlined(figure.png, 'png'),
    'width': width,
    'height': height,
    'alt': ': '.join(filter(None, (section.title, figure.title))),
  }
