"""Messages on the page of troubles, against those that commands print."""

import os
import pickle
import shutil

import in_process
import numpy as np
import pages
import pytest
from PIL import Image

from sg3jax.cli import data, export, import_, train

_PAGE = (pages.DOCS / 'troubleshooting.md').read_text()
_TINY = pages.ROOT / 'tests' / 'cli' / 'tiny_run.py'


class _Evil:
  def __reduce__(self):
    return os.system, ('true',)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
  """A folder with the images that the page speaks of."""
  monkeypatch.chdir(tmp_path)
  for name, shape in (
    ('images', (16, 16, 3)), ('wide', (16, 24, 3)), ('big', (32, 32, 3)),
    ('mixed', (16, 16, 3)), ('odd', (16, 16, 3)),
  ):  # fmt: skip
    (tmp_path / name).mkdir()
    for i in range(8):
      Image.fromarray(np.full(shape, i, np.uint8)).save(f'{name}/{i:02d}.png')
  Image.fromarray(np.zeros((16, 16), np.uint8)).save('mixed/05.png')
  for path in (tmp_path / 'odd').iterdir():
    path.unlink()
  shutil.copy('images/00.png', 'odd/a.png')
  (tmp_path / 'odd' / 'bad.png').write_bytes(b'no image')
  (tmp_path / 'evil.pkl').write_bytes(pickle.dumps({'G_ema': _Evil()}))


_TRAIN = (train, f'--config={_TINY}', '--workdir=run')


@pytest.mark.parametrize(
  'arguments',
  [
    (train, '--config=quickstart', '--cfg=stylegan3-t'),
    (*_TRAIN, '--config.data.source=images', '--workdir=gs://bucket/run'),
    (*_TRAIN, '--config.data.source=wide'),
    (*_TRAIN, '--config.data.source=mixed'),
    (*_TRAIN, '--config.data.source=big'),
    (import_, 'evil.pkl', '--output=model'),
    (export, '--network=run', '--output=g.onnx'),
    (
      data, 'prepare', '--source=odd', '--dest=odd.zip', '--resolution=16x16',
      '--workers=1',
    ),
  ],
  ids=['options', 'bucket', 'wide', 'mixed', 'big', 'pickle', 'onnx', 'odd'],
)  # fmt: skip
def test_the_page_has_the_message(arguments):
  command, *rest = arguments
  message, _ = in_process.run(command, *rest)
  assert isinstance(message, str)
  line = message.removesuffix('\n(--debug shows where)')
  assert line.startswith('error: ')
  assert f'\n{line}\n' in _PAGE
