"""Commands with the model that comes with the package, in an empty folder."""

import json
import pathlib

import in_process
import pytest
from PIL import Image

import sg3jax
from sg3jax.cli import evaluate, generate

_FOLDER = pathlib.Path(sg3jax.__file__).parent / 'models' / 'demo'


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """The current folder, empty."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.slow
def test_it_generates_and_is_measured(elsewhere):
  before = {path: path.read_bytes() for path in _FOLDER.iterdir()}
  status, _ = in_process.run(
    generate, '--network=demo', '--seeds=0-3', '--grid=2x2', '--outdir=sheet',
  )  # fmt: skip
  assert status in (0, None)
  with Image.open(elsewhere / 'sheet' / 'grid.png') as sheet:
    assert sheet.size == (64, 64)
  status, out = in_process.run(
    evaluate, '--network=demo', '--metrics=spectral', '--data=emoji:64',
    '--samples=64', '--stats_cache=none',
  )  # fmt: skip
  assert status in (0, None)
  value = json.loads(out.splitlines()[-1])['spectral']
  path = elsewhere / 'demo-metrics' / 'metric-spectral.jsonl'
  (line,) = map(json.loads, path.read_text().splitlines())
  assert line['results']['spectral'] == pytest.approx(value)
  # The installed package is left as it was.
  assert before == {path: path.read_bytes() for path in _FOLDER.iterdir()}
