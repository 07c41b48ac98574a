"""Executes the commands of the README and the pages on models, but smaller.

Each page has a folder with what its commands need, and they run in its order.
The commands of the tutorials run in `test_tutorials.py`. Training, sweeps,
reports and the viewer have tests of their own, so that here their flags are
only parsed, in `test_commands.py`.
"""

import collections
import pathlib
import shutil
import sys
import time

import in_process
import numpy as np
import pages
import photographs
import pytest

import sg3jax
from sg3jax.cli import main, train

sys.path.append(str(pathlib.Path(__file__).parents[1] / 'interop'))
import official_networks

_TINY = pathlib.Path(__file__).parents[1] / 'cli' / 'tiny_run.py'
_DEMO = pathlib.Path(sg3jax.__file__).parent / 'models' / 'demo'

_RUN = {
  'generate', 'evaluate', 'video', 'project', 'directions', 'surgery',
  'data', 'import', 'export', 'spec', 'doctor',
}  # fmt: skip

# A command without one of these is only a part of one.
_COMPLETE = ('--network', '--low', '--data', '--source', '--config', '--output')

# What is left out, with the reason.
_LEFT = (
  'g_ema.pt',  # The configuration beside it is the reader's.
  'FILE',  # It has no name.
  'network.pkl --output=models/afhq',  # As that of docs/checkpoints.md.
  # These take long, and differ little from those of the README.
  '--network=runs/quickstart --target=photos',
  '--network=demo --data=emoji:20000',
  # This takes long, and tests/eval measures it.
  '--metrics=eqs,eqsa',
)

# Flags that follow those of a page and make the work small.
_SMALL = {
  'evaluate': ['--samples=16', '--batch=16', '--outdir=measured'],
  'video': ['--w_frames=2'],
  'project': ['--steps=2', '--refine_steps=1', '--loss=pyramid'],
  'prepare': ['--resolution=32x32', '--on_error=skip'],
}

# Arguments in the pages, and what stands for them here.
_INSTEAD = {
  '--data=embedded': '--data=embedded:64',
  '--data=emoji': '--data=emoji:64',
  '--against=others.zip': '--against=images.zip',
  '--data=emoji:20000': '--data=emoji:64',
  '--low=runs/quickstart/checkpoints/756': '--low=runs/trained/checkpoints/2',
  'stylegan3-t-ffhq-1024x1024.pkl': 'network.pkl',
  # The models of these have two layers.
  '--layer=5': '--layer=1',
  '--ramp=3': '--ramp=1',
}

# Models of the size of the demo's, by the names that the pages give them.
_MODELS = (
  'runs/quickstart', 'runs/t', 'runs/t/checkpoints/best', 'runs/stylegan2',
  'runs/demo',
)  # fmt: skip


def _commands():
  """Returns the commands to execute, by page."""
  found = collections.defaultdict(list)
  for path in pages.PAGES:
    if path.parent.name == 'tutorials':
      continue
    shown = [
      *(words for b in pages.blocks(path) for words in pages.commands(b.text)),
      *(
        w for text in pages.inline_commands(path) for w in pages.commands(text)
      ),
    ]
    for program, command, *arguments in shown:
      line = ' '.join(arguments)
      if (
        program == 'sg3jax'
        and command in _RUN
        and (any(text in line for text in _COMPLETE) or command == 'doctor')
        and not any(text in line for text in (*_LEFT, '...'))
      ):
        found[path.name].append((command, arguments))
  return dict(found)


_COMMANDS = _commands()


def _small(command: str, arguments: list[str]) -> list[str]:
  """Returns the arguments of a command that does little."""
  found = [_INSTEAD.get(word, word) for word in arguments]
  if command == 'surgery' and arguments[0] in ('average', 'blend'):
    # These take checkpoints of one run.
    found = [w.replace('runs/quickstart', 'runs/trained') for w in found]
  if '--labels=folders' in found:
    found = [w.replace('--source=photos', '--source=pets') for w in found]
  action = arguments[0] if command == 'data' else command
  return found + _SMALL.get(action, [])


def _write_files() -> None:
  """Writes what a reader has: photographs, a checkpoint, a camera's path."""
  rng = np.random.RandomState(0)
  for i in range(4):
    photo = photographs.draw(rng, (40 + i, 36))
    for folder in ('photos', f'pets/{("cat", "dog")[i % 2]}'):
      photographs.write(f'{folder}/{i:02d}.png', photo)
  pathlib.Path('network.pkl').write_bytes(official_networks.checkpoint('small'))
  pathlib.Path('path.txt').write_text('0 0 0 1\n0.2 0 30 1.5\n')


def _fill_folder() -> None:
  """Fills the current folder with all that the pages speak of."""
  _write_files()
  for name in _MODELS:
    shutil.copytree(_DEMO, name, ignore=shutil.ignore_patterns('metric-*'))
  status, message = in_process.run(
    train, f'--config={_TINY}', '--workdir=runs/trained',
    '--config.data.source=embedded:64', '--config.train.total_kimg=0.032',
    '--config.log.ticks_per_snapshot=1', '--config.model.resolution=32',
  )  # fmt: skip
  assert status in (0, None), message
  # A model of two layers, since measurements of layers take long.
  shutil.copytree('runs/trained', 'runs/t256')


def _make_room(arguments: list[str]) -> None:
  """Removes what an earlier command of the page wrote under the same name."""
  for word in arguments:
    flag, _, name = word.partition('=')
    path = pathlib.Path(name)
    if flag in ('--outdir', '--output') and path.is_dir():
      shutil.rmtree(path)
    elif flag in ('--output', '--sheet', '--dest'):
      path.unlink(missing_ok=True)


def test_commands_are_found():
  assert len(_COMMANDS) > 10
  assert sum(map(len, _COMMANDS.values())) > 40


@pytest.mark.slow
@pytest.mark.usefixtures('shared_programs')
def test_commands_of_all_pages_work(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  folder = tmp_path / 'reader'
  folder.mkdir()
  monkeypatch.chdir(folder)
  _fill_folder()
  for page, commands in _COMMANDS.items():
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / page))
    start = time.monotonic()
    for command, arguments in commands:
      arguments = _small(command, arguments)
      _make_room(arguments)
      status, _ = in_process.run(main.load(command), *arguments)
      line = f'{page}: sg3jax {command} {" ".join(arguments)}'
      assert status in (0, None), f'{line}: {status}'
    print(f'{page}: {time.monotonic() - start:.1f} s')
