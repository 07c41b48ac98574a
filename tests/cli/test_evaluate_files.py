"""`sg3jax evaluate --against`: images in files, without a network."""

import json
import re
import zipfile

import in_process
import numpy as np
import pytest
from PIL import Image

from sg3jax.cli import evaluate


def _write(folder, count, size=16, seed=0):
  folder.mkdir()
  rng = np.random.RandomState(seed)
  for i in range(count):
    pixels = rng.randint(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{i}.png')
  return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A folder of eight images and a zip of six larger ones."""
  root = tmp_path_factory.mktemp('images')
  data = _write(root / 'data', 8)
  larger = _write(root / 'larger', 6, size=32, seed=1)
  path = root / 'larger.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    for image in larger.iterdir():
      archive.write(image, image.name)
  return data, path


def test_files_of_other_sizes_are_compared(folders, tmp_path):
  data, against = folders
  args = (
    f'--data={data}', f'--against={against}', '--metrics=spectral,rcoverage',
    f'--outdir={tmp_path}', '--stats_cache=none',
    '--devices=1',
  )  # fmt: skip
  status, out = in_process.run(evaluate, *args)
  assert not status
  values = json.loads(out)
  assert set(values) == {'spectral', 'rcoverage'}
  line = json.loads((tmp_path / 'metric-spectral.jsonl').read_text())
  assert line['results']['spectral'] == values['spectral']
  assert (line['num_samples'], line['num_reals']) == (6, 8)
  assert line['rounding'] == 'none: uint8 files'
  assert in_process.run(evaluate, *args)[1] == out


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (['--network=run'], '--against replaces --network'),
    (['--outdir='], '--outdir is required'),
    (['--data='], '--data is required'),
    (['--against=nowhere'], '^--against must be .*does not exist'),
    (['--data=nowhere'], '^--data must be .*does not exist'),
    (['--metrics=pr50k3_full'], 'the weights of vgg16_fc2 must be in'),
    (['--outdir=/dev/null/x'], 'is a file: choose another folder'),
    (['--metrics=eqt'], 'eqt needs a generator, but there are only images'),
    (['--metrics=rdensity', '--samples=5'], 'must be at least 6 .*, got 5'),
    (['--metrics=rfd_per_class'], 'no labels|class'),
    (['--metrics=ridge'], 'metrics must be among'),
  ],
)
def test_mistakes_are_explained_in_one_line(folders, tmp_path, change, message):
  data, against = folders
  args = [
    f'--data={data}', f'--against={against}', '--metrics=spectral',
    f'--outdir={tmp_path}', '--stats_cache=none',
  ]  # fmt: skip
  found = in_process.error(evaluate, *args, *change)
  assert re.search(message, found), found


@pytest.mark.parametrize('count', [1, 0])
def test_one_or_no_image_is_too_few(folders, tmp_path, count):
  few = _write(tmp_path / 'few', count)
  found = in_process.error(
    evaluate, f'--data={few}', f'--against={folders[1]}', '--metrics=rfd',
    f'--outdir={tmp_path}', '--stats_cache=none',
  )  # fmt: skip
  assert ('at least 2' if count else 'no files') in found


def test_images_of_different_sizes_are_named(folders, tmp_path):
  odd = _write(tmp_path / 'odd', 3)
  Image.new('RGB', (24, 24)).save(odd / 'larger.png')
  found = in_process.error(
    evaluate, f'--data={odd}', f'--against={folders[1]}', '--metrics=spectral',
    f'--outdir={tmp_path}', '--stats_cache=none',
  )  # fmt: skip
  assert 'larger.png' in found
