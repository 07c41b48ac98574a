"""Makes the demo model of the package from a run.

    sg3jax train --config=demo --workdir=runs/demo
    sg3jax evaluate --network=runs/demo --data=emoji:20000 --samples=2000 \
      --metrics=swd,rfd,spectral,eqt,eqt_frac,eqr
    python scripts/make_demo.py --run=runs/demo --machine='two CPU cores'

It writes `sg3jax/models/demo`: the moving average of the generator and the
discriminator, where they came from, their SHA-256, and the metric files of the
run. An existing demo model is replaced. So are the picture and the facts of its
model card, `docs/demo.md`. Commit all of them.
"""

import datetime
import hashlib
import json
import pathlib
import shutil
import tempfile
from typing import Any

import generated
import numpy as np
from absl import app, flags
from PIL import Image

from sg3jax import files, text
from sg3jax import model as model_lib
from sg3jax.data import emoji
from sg3jax.editing import surgery
from sg3jax.eval import run_files
from sg3jax.eval.metrics import base
from sg3jax.eval.plots import grids
from sg3jax.eval.result_page import values
from sg3jax.interop import model_files
from sg3jax.nets import abstract
from sg3jax.train import checkpoint as checkpoint_lib

_RUN = flags.DEFINE_string('run', 'runs/demo', 'The run folder.')

_MACHINE = flags.DEFINE_string(
  'machine', None, 'What it was trained on, for its card.', required=True
)

_ROOT = pathlib.Path(__file__).parents[1]
_MODEL = _ROOT / 'sg3jax' / 'models' / 'demo'
_CARD = _ROOT / 'docs' / 'demo.md'
_PICTURE = _ROOT / 'docs' / 'images' / 'demo.png'

# Columns and rows of the picture, and how much larger than life it is.
_GRID, _SCALE = (12, 4), 2


def main(argv: list[str]) -> None:
  """Writes the model, its picture and the facts of its card."""
  del argv
  run = pathlib.Path(_RUN.value)
  if not list(run.glob('metric-*.jsonl')):
    raise app.UsageError(f'{run} has no metric files: measure some first')
  _write_model(run)
  model = model_lib.load_model(_MODEL)
  _write_picture(model)
  files.write_text(
    _CARD, generated.replace(_CARD.read_text(), 'facts', facts(_MODEL))
  )
  for path in (*sorted(_MODEL.iterdir()), _PICTURE, _CARD):
    print(f'{path}: {path.stat().st_size:,} bytes')


def facts(folder: pathlib.Path) -> str:
  """Returns the facts of the model card, as Markdown tables.

  Args:
    folder: The folder of the model.
  """
  source = model_files.read_config(folder)['source']
  variables = surgery.read(folder).networks
  counts = {
    name: abstract.count(
      {p: a for p, a in arrays.items() if p.startswith('params/')}
    )
    for name, arrays in variables.items()
  }
  size = (folder / model_files.ARRAYS).stat().st_size
  about = {
    'images shown in training': f'{source["kimg"]:g} thousand (kimg)',
    'time': text.format_duration(3600 * source['hours']),
    'machine': source['machine'],
    'versions': ', '.join(f'{k} {v}' for k, v in source['versions'].items()),
    'command': f'`{source["command"]}`',
    'parameters': f'{counts["generator_ema"]:,} of the generator, '
    f'{counts["discriminator"]:,} of the discriminator',
    'file': f'{size:,} bytes, SHA-256 `{source["sha256"]}`',
  }
  rows = [{'fact': key, 'value': value} for key, value in about.items()]
  measured = [
    {'metric': row.title, 'value': row.value, 'meaning': row.words}
    for row in values.read(folder)
  ]
  return (
    f'{text.markdown(rows)}\n\n{text.markdown(measured)}\n\n'
    f'Measured with {_measurement(folder)}.'
  )


def _measurement(folder: pathlib.Path) -> str:
  """Returns the command and the date of the metric files."""
  lines = [
    next(iter(files.read_json_lines(path)))
    for path in sorted(folder.glob('metric-*.jsonl'))
  ]
  order = list(base.registry().values())
  names = [m.name for m in order if m.file in {x['metric'] for x in lines}]
  date = datetime.datetime.fromtimestamp(
    max(line['timestamp'] for line in lines), datetime.UTC
  )
  return (
    '`sg3jax evaluate --network=demo --data=emoji:20000 '
    f'--samples={max(line["num_samples"] for line in lines)} '
    f'--metrics={",".join(names)}` on {date:%Y-%m-%d}'
  )


def _write_model(run: pathlib.Path) -> None:
  """Writes the folder of the model, which appears once it is complete."""
  parts = surgery.read(run)
  with tempfile.TemporaryDirectory() as temporary:
    new = pathlib.Path(temporary) / _MODEL.name
    surgery.write(new, parts, _describe(run))
    _add_sum(new)
    for path in sorted(run.glob('metric-*.jsonl')):
      shutil.copy(path, new / path.name)
    if _MODEL.exists():
      shutil.rmtree(_MODEL)
    _MODEL.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(new, _MODEL)


def _describe(run: pathlib.Path) -> dict[str, Any]:
  """Returns where the model comes from."""
  step = model_lib.read_networks(run)[2]
  kimg = checkpoint_lib.load_nimg(run, step) / 1000
  tick = run_files.last_tick(run)
  measured = next(
    iter(files.read_json_lines(sorted(run.glob('metric-*.jsonl'))[0]))
  )
  return {
    'title': 'Demo model of sg3jax: a small StyleGAN3-T on emoji',
    'command': 'sg3jax train --config=demo --workdir=runs/demo '
    f'--config.train.total_kimg={kimg:g}',
    'kimg': kimg,
    'hours': round(tick['Timing/total_sec']['mean'] / 3600, 2),
    'device': measured['device'],
    'machine': _MACHINE.value,
    'versions': measured['versions'],
    'data': model_lib.read_options(run)['data']['source'],
    'licence': 'CC BY 4.0',
    'credits': emoji.CREDITS,
  }


def _add_sum(folder: pathlib.Path) -> None:
  """Adds the SHA-256 of the arrays to the configuration of a model."""
  content = (folder / model_files.ARRAYS).read_bytes()
  path = folder / model_files.CONFIG
  config = json.loads(path.read_text())
  config['source']['sha256'] = hashlib.sha256(content).hexdigest()
  path.write_text(json.dumps(config, indent=2) + '\n')


def _write_picture(model: model_lib.Model) -> None:
  columns, rows = _GRID
  images = [image for _, image in model.generate(range(columns * rows))]
  tiled = Image.fromarray(grids.tile(np.stack(images), _GRID))
  size = (tiled.width * _SCALE, tiled.height * _SCALE)
  grids.save_image(
    np.asarray(tiled.resize(size, Image.Resampling.NEAREST)), _PICTURE
  )


if __name__ == '__main__':
  app.run(main)
