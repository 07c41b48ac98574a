"""Compares training on few images with and without adaptive augmentation.

  python scripts/study_augmentation.py --outdir=runs/augmentation

This command trains `configs/few_images.py` twice, in the subfolders `ada` and
`none`, measures every checkpoint, and writes `study.csv` and `study.png`. The
same command resumes an interrupted study. A discriminator that memorises its
images can distinguish them from unseen photographs: the difference between its
mean logits for the two sets measures overfitting.
"""

import csv
import io
import json
import pathlib
import subprocess
import sys
from typing import Any

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from absl import app, flags, logging

import sg3jax
from sg3jax import files
from sg3jax.data import sources
from sg3jax.eval.metrics import sliced_wasserstein
from sg3jax.eval.plots import grids

_OUTDIR = flags.DEFINE_string(
  'outdir', None, 'Folder for the study.', required=True
)
_KIMG = flags.DEFINE_float(
  'kimg', 50.0, 'Length of the runs in thousands of images.'
)

_MODES = ('none', 'ada')
_SAMPLES = 1000  # Unseen photographs and generated images per checkpoint.
_BATCH = 100


def train(mode: str, workdir: pathlib.Path) -> None:
  """Trains a run, or resumes it."""
  command = [
    *(sys.executable, '-m', 'sg3jax', 'train', '--config=few_images'),
    f'--workdir={workdir}',
    f'--config.train.augment.mode={mode}',
    f'--config.train.total_kimg={_KIMG.value}',
  ]
  subprocess.run(command, check=True)


def split(options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
  """Returns the photographs of a run, and `_SAMPLES` others; uint8."""
  data, resolution = options['data'], options['model']['resolution']
  every = sources.open_source(data['source'], resolution=resolution)
  some = sources.open_source(
    data['source'],
    resolution=resolution,
    max_images=data['max_images'],
    seed=options['seed'],
  )
  seen = np.stack([some[i]['image'] for i in range(len(some))])
  known = {image.tobytes() for image in seen}
  others = (every[i]['image'] for i in range(len(every)))
  unseen = np.stack([x for x in others if x.tobytes() not in known])
  rows = np.random.default_rng(0).permutation(len(unseen))[:_SAMPLES]
  return seen, unseen[rows]


def measure(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the measurements of every checkpoint of a run."""
  model = sg3jax.load_model(workdir)
  seen, unseen = split(model.options)
  distance = sliced_wasserstein.SlicedWasserstein(unseen)
  adapted = {}
  for line in (workdir / 'stats.jsonl').read_text().splitlines():
    stats = json.loads(line)
    kimg = round(stats['Progress/kimg']['mean'], 3)
    adapted[kimg] = stats['Progress/augment']['mean']
  rows = []
  for folder in sorted((workdir / 'checkpoints').glob('[0-9]*'), key=_step):
    # Use one model, hence one compilation, for all checkpoints.
    other = sg3jax.load_model(folder)
    model.variables = other.variables
    model.discriminator_variables = other.discriminator_variables
    fakes = generate(model)
    rows.append(
      {
        'kimg': other.kimg,
        'p': adapted[round(other.kimg, 3)],
        'seen': judge(model, seen),
        'unseen': judge(model, unseen),
        'fake': judge(model, fakes),
        'swd': distance(fakes)['swd'],
      }
    )
    print(workdir.name, {k: round(v, 3) for k, v in rows[-1].items()})
  return rows


def _step(folder: pathlib.Path) -> int:
  return int(folder.name)


def generate(model: sg3jax.Model) -> np.ndarray:
  """Returns `_SAMPLES` generated images, uint8."""
  z = sg3jax.model.seed_latents(list(range(_SAMPLES)), model.z_dim)
  images = [model(z[i : i + _BATCH]) for i in range(0, _SAMPLES, _BATCH)]
  return np.concatenate([grids.to_uint8(batch) for batch in images])


def judge(model: sg3jax.Model, images: np.ndarray) -> float:
  """Returns the mean logit of D for uint8 images."""
  x = images.astype(np.float32) / 127.5 - 1
  logits = [
    model.discriminate(x[i : i + _BATCH]) for i in range(0, len(x), _BATCH)
  ]
  return float(np.mean(np.concatenate(logits)))


def plot(study: dict[str, list[dict[str, float]]], path: pathlib.Path) -> None:
  """Plots p, the overfitting and the SWD over the course of training."""
  figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout='constrained')
  titles = (
    'augmentation probability p',
    'overfitting: mean D(training set)\nless mean D(unseen photographs)',
    'distance of generated images from\nunseen photographs (SWD x 1000)',
  )
  for mode, rows in study.items():
    kimg = [row['kimg'] for row in rows]
    values = (
      [row['p'] for row in rows],
      [row['seen'] - row['unseen'] for row in rows],
      [row['swd'] for row in rows],
    )
    for axis, y in zip(axes, values, strict=True):
      axis.plot(kimg, y, marker='.', label=f'augment.mode = {mode}')
  for axis, title in zip(axes, titles, strict=True):
    axis.set(title=title, xlabel='thousands of images shown')
    axis.grid(alpha=0.3)
  axes[0].legend(frameon=False)
  figure.savefig(path, dpi=110)
  plt.close(figure)


def main(_: list[str]) -> None:
  """Trains and measures both runs, and writes the results."""
  logging.set_verbosity(logging.WARNING)
  outdir = pathlib.Path(_OUTDIR.value)
  study = {}
  for mode in _MODES:
    train(mode, outdir / mode)
    study[mode] = measure(outdir / mode)
  rows = [{'mode': mode} | row for mode in study for row in study[mode]]
  table = io.StringIO()
  writer = csv.DictWriter(table, rows[0], lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  files.write_bytes(outdir / 'study.csv', table.getvalue().encode())
  plot(study, outdir / 'study.png')
  print(f'{outdir / "study.csv"}, {outdir / "study.png"}')


if __name__ == '__main__':
  app.run(main)
