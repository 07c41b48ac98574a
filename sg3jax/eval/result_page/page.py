"""Writes `index.html` of a run folder: what the run did, at a glance.

The page is made from the other files of the folder and needs none of them: it
can be copied or sent. Only a very large clip stays beside it.
"""

import json
import pathlib
import shlex
import shutil
import sys
from typing import Any

from sg3jax import files, text
from sg3jax.eval import run_files
from sg3jax.eval.result_page import pictures, values
from sg3jax.pages import rendering
from sg3jax.version import __version__

FILE = 'index.html'

# Cells of the two large grids, and of each of the small ones over time.
_LARGE, _SMALL = (8, 4), (4, 2)
_MOMENTS = 5


def write(run: pathlib.Path) -> pathlib.Path:
  """Writes the page of a run, in whatever state it is, and returns its path.

  Args:
    run: The run folder.

  Raises:
    OSError: If a file cannot be read or written.
    ValueError: If the options of the run are not JSON.
  """
  content = rendering.render(
    'sg3jax.eval.result_page', 'page.html.j2', **_describe(run)
  )
  files.write_text(run / FILE, content)
  return run / FILE


def _describe(run: pathlib.Path) -> dict[str, Any]:
  """Returns the values of the template."""
  options = json.loads((run / 'training_options.json').read_text())
  resolution = options['model']['resolution']
  moments = pictures.chosen_snapshots(run, _MOMENTS)
  reals = run / 'reals.png'
  tick = run_files.last_tick(run)
  kimg, seconds = (
    tick.get(name, {}).get('mean', 0.0)
    for name in ('Progress/kimg', 'Timing/total_sec')
  )
  total = options['train']['total_kimg']
  return {
    'name': run.absolute().name,
    'is_complete': kimg >= total,
    'kimg': f'{kimg:g}',
    'total': f'{total:g}',
    'time': text.format_duration(seconds),
    'source': options['data']['source'],
    'resolution': resolution,
    'pixelated': pictures.is_pixelated(resolution),
    'reals': pictures.cut_grid(reals, resolution, *_LARGE)
    if reals.exists()
    else None,
    'fakes': pictures.cut_grid(moments[-1][1], resolution, *_LARGE)
    if moments
    else None,
    'moments': [
      {
        'kimg': 'before training'
        if path.name == run_files.FIRST
        else f'{at} kimg',
        'picture': pictures.cut_grid(path, resolution, *_SMALL),
      }
      for at, path in moments
    ],
    'clip': pictures.inline_file(run / 'equivariance.webp'),
    'curves': pictures.inline_file(run / 'curves.png'),
    'values': values.read(run),
    'commands': commands(run, options),
    'made': f'sg3jax {__version__}',
  }


def commands(
  run: pathlib.Path, options: dict[str, Any]
) -> list[tuple[str, str]]:
  """Returns what to do next, each with a command to copy.

  Args:
    run: The run folder, as the user named it: commands name it in the same way.
    options: The options of the run.
  """
  start = program()
  network = shlex.quote(str(run))
  name = run.absolute().name
  data = shlex.quote(str(options['data']['source']))
  sheet, walk, report = (
    shlex.quote(f'{name}-{what}')
    for what in ('sheet', 'walk.webp', 'report.html')
  )
  return [
    (
      'See twelve images that the grids do not show',
      f'{start} generate --network={network} --seeds=0-11 --grid=4x3 '
      f'--outdir={sheet}',
    ),
    (
      'Walk through the images in a clip',
      f'{start} video --network={network} --seeds=0-3 --output={walk}',
    ),
    (
      'Analyse the model: spectra, sticking texture, nearest real images',
      f'{start} report {network} --data={data} --output={report}',
    ),
  ]


def program() -> str:
  """Returns how to start this package in a shell, wherever it is installed."""
  if shutil.which('sg3jax'):
    return 'sg3jax'
  return f'{shlex.quote(sys.executable)} -m sg3jax'
