"""The table of layers finds the layer that breaks equivariance."""

import json
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from sg3jax import launch
from sg3jax import model as model_lib
from sg3jax.eval import results
from sg3jax.eval.metrics import layer_equivariance
from sg3jax.eval.plots import equivariance as plots
from sg3jax.nets import layer_spec
from sg3jax.train import config as config_lib
from sg3jax.train import sharding
from sg3jax.train.config import files as config_files
from sg3jax.train.step import build

_TINY = pathlib.Path(__file__).parents[1] / 'cli' / 'tiny_run.py'


@pytest.fixture(scope='module')
def model():
  """An untrained model of 32 pixels, of four layers."""
  config = config_files.load(str(_TINY))
  config.model.resolution = 32
  config.model.synthesis.num_layers = 4
  config_lib.resolve(config, img_channels=3, label_dim=0)
  state = jax.jit(build.make_trainer(config).init)(jax.random.key(0))
  networks = {
    'generator_ema': state.generator_ema,
    'discriminator': state.discriminator,
  }
  return model_lib.Model(config.to_dict(), networks)


def _rows(model, devices=1):
  evaluator = layer_equivariance.LayerEvaluator(
    model.generator, sharding.make_mesh(devices)
  )
  z = np.random.RandomState(0).randn(3, model.z_dim).astype(np.float32)
  ws = np.asarray(model.mapping(z))
  return evaluator, evaluator(model.variables, ws, 0)


def _decibels(sums):
  squares, signals = sums
  return 10 * np.log10(signals.sum(0) / squares.sum(0))


@pytest.fixture(scope='module')
def sums(model):
  return _rows(model)[1]


@pytest.mark.slow
def test_the_input_is_equivariant_and_a_t_network_but_for_rotations(sums):
  values = {kind: _decibels(found) for kind, found in sums.items()}
  for kind, found in values.items():
    assert len(found) == 6  # The input, four layers and ToRGB.
    assert found[0] > 75, kind
  assert values['eqt'].min() > 60
  assert values['eqt_frac'].min() > 40
  assert values['eqr'][1:].max() < 10


@pytest.mark.slow
def test_a_layer_that_aliases_is_found(model, sums, monkeypatch):
  whole = layer_spec.LayerSpec.down_filter

  def down_filter(self):
    f = whole(self)
    # The second layer does not filter before it reduces the rate.
    return np.eye(1, len(f), len(f) // 2)[0] if self.index == 1 else f

  monkeypatch.setattr(layer_spec.LayerSpec, 'down_filter', down_filter)
  evaluator, broken = _rows(model)
  before, after = (_decibels(found['eqt_frac']) for found in (sums, broken))
  # Layers before it are as they were.
  np.testing.assert_allclose(after[:2], before[:2], atol=0.1)
  lost = after[1:-1] - after[2:]
  assert evaluator.names[2 + int(np.argmax(lost))] == 'L1'
  assert lost.max() > 8


@pytest.mark.slow
def test_values_do_not_depend_on_devices(model, sums):
  _, others = _rows(model, devices=2)
  for kind, found in others.items():
    for a, b in zip(found, sums[kind], strict=True):
      assert a.shape == b.shape == (3, 6)
    # What is all rounding differs between programs.
    np.testing.assert_allclose(
      _decibels(found), _decibels(sums[kind]), rtol=0, atol=0.5
    )


@pytest.mark.slow
def test_evaluate_reports_the_table_and_the_ceilings(model, tmp_path):
  lines = []
  values = launch.evaluate(
    model,
    'eq_layers,eqt50k_int',
    tmp_path,
    num_samples=4,
    batch_size=4,
    mesh=sharding.make_mesh(1),
    log=lines.append,
  )
  assert values['eqt50k_int_ceiling'] > values['eqt50k_int'] > 60
  assert values['eq_layers'] == min(
    value for name, value in values.items() if name.startswith('eqt_frac_')
  )
  (table,) = (line for line in lines if line.startswith('| layer'))
  assert len(table.splitlines()) == 2 + 6
  line = json.loads((tmp_path / 'metric-eq_layers.jsonl').read_text())
  assert line['results']['eqr_L1'] == values['eqr_L1']
  assert 0 < line['ci95']['eqt_L1'] < 20
  line = json.loads((tmp_path / 'metric-eqt50k_int.jsonl').read_text())
  assert set(line['ci95']) == {'eqt50k_int', 'eqt50k_int_ceiling'}


def test_the_layers_are_plotted(tmp_path):
  values = {f'eqt_L{i}': 80.0 - i for i in range(3)}
  values |= {f'eqt_frac_L{i}': 60.0 - i for i in range(3)}
  values |= {f'eqr_L{i}': None for i in range(3)}
  (tmp_path / 'metric-eq_layers.jsonl').write_text('')
  with pytest.raises(ValueError, match='must have a line of results'):
    plots.plot_layers(tmp_path, tmp_path / 'layers.png')
  result = results.make_result(
    'eq_layers',
    {k: v for k, v in values.items() if v is not None},
    num_samples=4,
    seed=0,
    total_time=1,
    ci95={'eqt_L0': 1.0},
  )
  results.append_result(tmp_path, result)
  plots.plot_layers(tmp_path, tmp_path / 'layers.png')
  with Image.open(tmp_path / 'layers.png') as image:
    assert image.size[0] > 200
