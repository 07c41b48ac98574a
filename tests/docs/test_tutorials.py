"""Executes the tutorials in one folder, as a reader would, but smaller.

A comment `<!-- test: ... -->` before a block gives flags that are added to its
first command here, the name of the file that the block is, or `skip`.
"""

import pathlib
import sys
import time

import in_process
import numpy as np
import pages
import photographs
import pytest

from sg3jax.cli import main

sys.path.append(str(pathlib.Path(__file__).parents[1] / 'interop'))
import official_networks

_FOLDER = pages.DOCS / 'tutorials'
_TINY = pathlib.Path(__file__).parents[1] / 'cli' / 'tiny_run.py'
# In the order of what they need of each other.
_ORDER = (
  'own-network', 'own-equivariance', 'first-run', 'project-and-animate',
  'own-photographs', 'transfer', 'labels', 'pod', 'sweep',
)  # fmt: skip
# Instead of the configurations of the pages. What is large otherwise, such as a
# number of samples, has a smaller value in a comment of the page.
_SMALL = {
  'quickstart': [f'--config={_TINY}', '--config.data.source=embedded:64'],
  'stylegan3_t': [f'--config={_TINY}'],
}


def test_every_tutorial_is_executed():
  assert sorted(path.stem for path in _FOLDER.glob('*.md')) == sorted(_ORDER)


def _small(arguments: list[str], added: list[str]) -> list[str]:
  """Returns the arguments of a command with the smallest configuration."""
  found = []
  for word in arguments:
    flag, _, value = word.partition('=')
    name = value.partition(':')[0] if flag == '--config' else ''
    found += _SMALL.get(name, [word])
  return found + added


class _Reader:
  """Executes the blocks of a page one after the other.

  Attributes:
    names: What the Python blocks of the page have defined.
  """

  def __init__(self, cli):
    self._cli = cli
    self.names: dict = {}

  def execute(self, block: pages.Block) -> None:
    """Executes one block; raises whatever it raises."""
    if block.language == 'python':
      exec(compile(block.text, f'line {block.line}', 'exec'), self.names)
    elif block.language == 'toml':
      text = block.text.replace("'stylegan3_t:64'", f"'{_TINY}'")
      pathlib.Path(block.test).write_text(text)
    elif block.language == 'sh' and block.test != 'skip':
      added = block.test.split()
      for _, command, *arguments in pages.commands(block.text):
        self._run(command, _small(arguments, added))
        added = []

  def _run(self, command: str, arguments: list[str]) -> None:
    if command == 'sweep':  # Ray wants a process of its own.
      status, _, message = self._cli(command, *arguments)
    else:
      status, message = in_process.run(main.load(command), *arguments)
    assert status in (0, None), f'{status} {message}'


def _write_photographs() -> None:
  """Writes what a reader has: photographs, pets, a portrait, a checkpoint."""
  rng = np.random.RandomState(0)

  def write(path: str, size: tuple[int, int], mode: str = 'RGB') -> None:
    photographs.write(path, photographs.draw(rng, size, mode))

  for i in range(12):
    write(f'photos/{i:02d}.jpg', (24 + i, 20))
    write(f'squares/{i:02d}.png', (16, 16), 'L')  # Like the checkpoint's.
    write(f'pets/{("cat", "dog")[i % 2]}/{i:02d}.png', (20, 20 + i))
  pathlib.Path('photos/broken.jpg').write_bytes(b'no image')
  write('portrait.png', (40, 50))
  pathlib.Path('network.pkl').write_bytes(official_networks.checkpoint('small'))


@pytest.mark.slow
@pytest.mark.usefixtures('shared_programs')
def test_tutorials_work_from_first_to_last(cli, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  _write_photographs()
  for page in _ORDER:
    reader = _Reader(cli)
    for block in pages.blocks(_FOLDER / f'{page}.md'):
      start = time.monotonic()
      try:
        reader.execute(block)
      except BaseException as error:
        error.add_note(f'{page}.md, line {block.line}:\n{block.text}')
        raise
      print(f'{page}:{block.line} {time.monotonic() - start:.1f} s')
    if page == 'own-equivariance':  # The page states these values.
      values = reader.names['values']
      assert values['pointwise'] == pytest.approx(44.3, abs=0.1)
      assert values['alias_free'] == pytest.approx(71.7, abs=0.1)
  for result in (
    'sheet/grid.png', 'walk.webp', 'portrait.webp', 'cats/grid.png',
    'g_ema.npz', 'sweeps/layers/analyse/table.md',
  ):  # fmt: skip
    assert pathlib.Path(result).exists()
