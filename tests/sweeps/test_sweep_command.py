"""`sg3jax sweep` in processes of its own, on a Ray of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import sweep_files
from PIL import Image

pytest.importorskip('ray', reason="needs pip install 'sg3jax[sweep]'")


def _start(path, outdir, *args):
  return subprocess.Popen(
    [sys.executable, '-m', 'sg3jax', 'sweep', f'--file={path}',
     f'--outdir={outdir}', *args],
    env=os.environ
    | {
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(path.with_name('cache')),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip


def _finish(process):
  out, error = process.communicate(timeout=400)
  return process.returncode, out, error


def _sweep(path, outdir, *args):
  return _finish(_start(path, outdir, *args))


def _records(folder):
  return {
    path.stem: (json.loads(path.read_text()), path.stat().st_mtime_ns)
    for path in (folder / 'results').glob('*.json')
  }


@pytest.mark.slow
def test_an_interrupted_analysis_goes_on(tmp_path):
  path = sweep_files.write(
    tmp_path, '[axes]\nmodel.synthesis.filter_size = [4, 6, 8, 10]'
  )
  outdir, args = tmp_path / 'out', ('--sweep_metrics=eqt', '--sweep_samples=4')
  process = _start(path, outdir, *args)
  for line in process.stdout:
    if line.startswith('[1/4]'):
      break
  process.send_signal(signal.SIGINT)
  status, out, error = _finish(process)
  assert status == 75, error
  assert 'run the same command again' in out
  first = _records(outdir / 'analyse')
  done = {name for name, (r, _) in first.items() if r['status'] == 'done'}
  assert 1 <= len(done) < 4

  status, out, error = _sweep(path, outdir, *args)
  assert status == 0, error
  assert f'4 points, {4 - len(done)} to run' in out
  assert '\n4 done\n' in out
  second = _records(outdir / 'analyse')
  for name in done:
    assert second[name] == first[name]
  assert all(r['figures']['eqt_db'] > 0 for r, _ in second.values())
  assert {p.name for p in (outdir / 'analyse').iterdir()} >= {
    'table.csv', 'table.json', 'table.md', 'plot-filter_size.png',
  }  # fmt: skip


@pytest.mark.exhaustive  # A minute.
@pytest.mark.slow
def test_an_interrupted_training_goes_on(tmp_path):
  data = tmp_path / 'data'
  data.mkdir()
  rng = np.random.RandomState(0)
  for i in range(8):
    image = rng.randint(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(image).save(data / f'{i}.png')
  path = sweep_files.write(
    tmp_path,
    f"""
    [base]
    data.source = '{data}'
    train.total_kimg = 0.8
    # Makes no clip at the end.
    model.generator = 'stylegan2'
    model.stylegan2.channel_base = 64
    model.stylegan2.channel_max = 8
    log.metrics = ['swd']
    log.metric_samples = 8
    [[points]]
    name = 'only'
    """,
  )
  outdir = tmp_path / 'out'
  run = outdir / 'train' / 'runs' / 'only'
  process = _start(path, outdir, '--mode=train')
  while not (run / 'stats.jsonl').exists():
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.1)
  process.send_signal(signal.SIGTERM)
  status, _, error = _finish(process)
  assert status == 75, error
  # Ray interrupts the worker.
  assert 'Stopped:        by SIGINT' in (run / 'log.txt').read_text()
  assert list((run / 'checkpoints').iterdir())

  status, _, error = _sweep(path, outdir, '--mode=train')
  assert status == 0, error
  assert 'Resuming:       from step' in (run / 'log.txt').read_text()
  ((record, _),) = _records(outdir / 'train').values()
  assert record['status'] == 'done'
  assert record['figures']['kimg'] == 0.8
  assert record['figures']['swd'] > 0
  assert record['figures']['sec_per_kimg'] > 0


def _fails(*args):
  status, out, error = _sweep(*args)
  assert status == 1
  assert error.startswith('error: ')
  assert 'Traceback' not in out + error
  return error


def test_impossible_points_are_refused_together(tmp_path):
  path = sweep_files.write(
    tmp_path, "[axes]\nmodel.synthesis.margin = [-1, -2, 'two', 3]"
  )
  outdir = tmp_path / 'out'
  error = _fails(path, outdir)
  assert 'error: 3 of 4 points cannot run:\n  margin=-1: margin + 1' in error
  assert '\n  margin=two: model.synthesis.margin must be an integer' in error
  assert '--skip_invalid' in error
  assert not outdir.exists()


def test_a_training_without_images_is_refused(tmp_path):
  path = sweep_files.write(tmp_path, '')
  error = _fails(path, tmp_path / 'out', '--mode=train')
  assert 'must name the training images' in error


def test_list_shows_what_there_is_and_runs_nothing(tmp_path):
  path = sweep_files.write(tmp_path, 'seeds = [0, 1]')
  status, out, error = _sweep(path, tmp_path / 'out', '--list')
  assert status == 0, error
  assert out.splitlines()[2].split()[1] == 'seed=0'
  assert '\n2 not run\n' in out
