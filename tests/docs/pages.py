"""Reads the Markdown pages: code blocks, commands, headings and links."""

import dataclasses
import pathlib
import re
import shlex
import unicodedata

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / 'docs'

PAGES = sorted([
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
  *DOCS.rglob('*.md'),
])  # fmt: skip

_FENCE = re.compile(r'(?P<indent> *)```(?P<language>\w*)$')
# A comment before a block, for the test that executes it.
_TEST = re.compile(r'<!-- test: (.*) -->$')
_PROGRAM = re.compile(r'(?:\$ )?(?:until )?(?:\S*/)?(sg3jax|python3?)$')


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of code.

  Attributes:
    language: The word behind the fence; empty for none, or indented code.
    text: Its lines.
    line: Number of its first line in the page, from 1.
    test: The text of the comment `<!-- test: ... -->` before it.
  """

  language: str
  text: str
  line: int
  test: str = ''


def blocks(path: pathlib.Path) -> list[Block]:
  """Returns the fenced and indented blocks of a page in order."""
  found, open_block, test, previous = [], None, '', ''
  for number, line in enumerate(path.read_text().splitlines(), 1):
    fence = _FENCE.match(line)
    if open_block is not None:
      if fence:
        found.append(dataclasses.replace(open_block, test=test))
        open_block, test = None, ''
      else:
        text = f'{open_block.text}{line}\n'
        open_block = dataclasses.replace(open_block, text=text)
    elif fence:
      open_block = Block(fence['language'], '', number + 1)
    elif match := _TEST.match(line):
      test = match[1]
    elif line.startswith('    ') and (not previous or found_indented(found)):
      found.append(Block('', f'{line[4:]}\n', number))
    previous = line.strip()
  assert open_block is None, f'{path.name}: a fence is not closed'
  return found


def found_indented(found: list[Block]) -> bool:
  """Returns whether the last block may go on: a command over two lines."""
  return bool(found) and found[-1].text.rstrip().endswith('\\')


def commands(text: str) -> list[list[str]]:
  """Returns the arguments of each command `sg3jax` or `python FILE`.

  Args:
    text: Lines of a shell, with or without a prompt; other lines, such as
      output, are left out.
  """
  found = []
  for line in text.replace('\\\n', ' ').splitlines():
    for part in re.split(r'&&|; do\b', line):
      words = part.split()
      if not any(_PROGRAM.match(' '.join(words[:n])) for n in (1, 2)):
        continue
      arguments = shlex.split(part, comments=True)
      while arguments[0] in ('$', 'until'):
        arguments = arguments[1:]
      found.append([pathlib.Path(arguments[0]).name, *arguments[1:]])
  return found


def slug(heading: str) -> str:
  """Returns the anchor of a heading, as the site and source viewers make it."""
  text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading)
  text = unicodedata.normalize('NFKD', text).encode('ascii', 'ignore').decode()
  return re.sub(r'[-\s]+', '-', re.sub(r'[^\w\s-]', '', text).strip().lower())


def _prose(path: pathlib.Path) -> str:
  """Returns a page without its fenced blocks."""
  lines, inside = [], False
  for line in path.read_text().splitlines():
    if _FENCE.match(line):
      inside = not inside
    elif not inside:
      lines.append(line)
  return '\n'.join(lines)


def anchors(path: pathlib.Path) -> set[str]:
  """Returns the anchors of a page."""
  return {slug(h) for h in re.findall(r'(?m)^#+ (.*)$', _prose(path))}


def links(path: pathlib.Path) -> list[str]:
  """Returns the targets of a page's links and pictures."""
  return re.findall(r'\]\(([^)\s]+)\)', _prose(path))


def inline_commands(path: pathlib.Path) -> list[str]:
  """Returns the commands in a page's running text and tables."""
  text = ' '.join(_prose(path).split())
  return re.findall(r'`(sg3jax [a-z][^`]*)`', text)
