"""Makes the demo model of the package from a run.

    sg3jax train --config=demo --workdir=runs/demo
    sg3jax evaluate --network=runs/demo --data=emoji:20000 --samples=2000 \
      --metrics=eqt,eqt_frac,eqr,swd,rfd,rprecision,spectral
    python scripts/make_demo.py --run=runs/demo

It writes `sg3jax/models/demo`: the moving average of the generator and the
discriminator, where they came from, their SHA-256, and the metric files of the
run. An existing demo model is replaced.
"""

import hashlib
import json
import pathlib
import shutil
import tempfile
from typing import Any

from absl import app, flags

from sg3jax import files, launch
from sg3jax import model as model_lib
from sg3jax.data import emoji
from sg3jax.editing import surgery
from sg3jax.interop import model_files

_RUN = flags.DEFINE_string('run', 'runs/demo', 'The run folder.')
_OUTPUT = flags.DEFINE_string(
  'output',
  str(pathlib.Path(launch.__file__).parent / 'models' / 'demo'),
  'The folder to write.',
)


def main(argv: list[str]) -> None:
  """Writes the model."""
  del argv
  run, output = pathlib.Path(_RUN.value), pathlib.Path(_OUTPUT.value)
  parts = surgery.read(run)
  with tempfile.TemporaryDirectory() as temporary:
    new = pathlib.Path(temporary) / output.name
    surgery.write(new, parts, _describe(run))
    _add_sum(new)
    for path in sorted(run.glob('metric-*.jsonl')):
      shutil.copy(path, new / path.name)
    if output.exists():
      shutil.rmtree(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(new, output)
  for path in sorted(output.iterdir()):
    print(f'{path}: {path.stat().st_size:,} bytes')


def _describe(run: pathlib.Path) -> dict[str, Any]:
  """Returns where the model comes from."""
  options = model_lib.read_options(run)
  ticks = list(files.read_json_lines(run / 'stats.jsonl'))
  kimg = model_lib.load_model(run).kimg
  reached = [t for t in ticks if t['Progress/kimg']['mean'] <= kimg]
  measured = [
    next(iter(files.read_json_lines(path)))
    for path in sorted(run.glob('metric-*.jsonl'))
  ]
  return {
    'title': 'Demo model of sg3jax: a small StyleGAN3-T on emoji',
    'command': 'sg3jax train --config=demo --workdir=runs/demo '
    f'--config.train.total_kimg={kimg:g}',
    'kimg': kimg,
    'hours': round(reached[-1]['Timing/total_sec']['mean'] / 3600, 2),
    'device': measured[0]['device'] if measured else None,
    'versions': measured[0]['versions'] if measured else None,
    'data': options['data']['source'],
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


if __name__ == '__main__':
  app.run(main)
