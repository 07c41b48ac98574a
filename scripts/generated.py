"""Replaces the parts of documents that scripts generate."""


def replace(text: str, name: str, content: str) -> str:
  """Returns a document with new content between its two marks.

  Args:
    text: The document.
    name: The name in the marks, `<!-- NAME -->` and `<!-- /NAME -->`.
    content: The content, which blank lines separate from the marks.

  Raises:
    ValueError: If a mark is missing, since the rest of the document would be
      lost.
  """
  marks = (f'<!-- {name} -->', f'<!-- /{name} -->')
  before, first, rest = text.partition(marks[0])
  _, last, after = rest.partition(marks[1])
  if not first or not last:
    raise ValueError(f'the document must have the marks {" and ".join(marks)}')
  return '\n\n'.join((before + first, content, last + after))
