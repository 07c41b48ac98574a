"""The whole proof, small, on a CPU."""

import json
import pathlib
import subprocess
import sys

import pytest
from conftest import SCRIPTS

pytestmark = pytest.mark.slow

STAGES = {
  'machine', 'check', 'bench', 'train', 'operators', 'generate', 'check-large',
  'bench-large', 'depthwise', 'depthwise-large',
}  # fmt: skip


def prove(folder: pathlib.Path, *options: str):
  return subprocess.run(
    [
      sys.executable,
      SCRIPTS / 'prove_hardware.py',
      f'--output={folder}',
      *options,
    ],
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )


def test_a_tiny_proof_has_every_stage(tmp_path):
  process = prove(tmp_path, '--tiny')
  assert process.returncode == 0, process.stdout + process.stderr
  (session,) = json.loads((tmp_path / 'results.json').read_text())['sessions']
  assert session['stages'].keys() == STAGES
  for name, stage in session['stages'].items():
    assert stage['rows'], name
    assert 'error' not in stage
    for row in stage['rows']:
      assert 'error' not in row
      assert row.get('ok', True)
  assert '## Training' in (tmp_path / 'results.md').read_text()


def test_without_a_device_it_says_so(tmp_path):
  process = prove(tmp_path, '--stages=machine')
  assert process.returncode == 1
  assert 'JAX must see a GPU or a TPU' in process.stdout


def test_unknown_stages_are_named(tmp_path):
  process = prove(tmp_path, '--stages=check,speed')
  assert process.returncode == 1
  assert 'got speed' in process.stderr
  assert not (tmp_path / 'results.json').exists()
