"""Renders HTML pages that need no other file and no network.

A room's templates lie beside its modules. They can include `style.css` of this
folder, which adapts to dark screens, phones and paper.
"""

import base64
from typing import Any

import jinja2

_HERE = 'sg3jax.pages'


def render(package: str, template: str, **values: Any) -> str:
  """Returns a page.

  Args:
    package: Import name of the package that contains the template.
    template: Name of the template's file. Text is escaped for HTML, and a name
      that has no value is an error.
    **values: Values by the names in the template.
  """
  environment = jinja2.Environment(
    loader=jinja2.ChoiceLoader(
      [jinja2.PackageLoader(package, ''), jinja2.PackageLoader(_HERE, '')]
    ),
    autoescape=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  return environment.get_template(template).render(**values)


def inlined(content: bytes, kind: str) -> str:
  """Returns the address of a picture that contains the picture itself.

  Args:
    content: The content of the file.
    kind: The format, as in `image/png`: png or webp.
  """
  return f'data:image/{kind};base64,{base64.b64encode(content).decode("ascii")}'
