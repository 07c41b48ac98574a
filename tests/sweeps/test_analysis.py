"""The analysis of untrained points, of tiny designs."""

import pytest
import sweep_files

from sg3jax.sweeps import analysis
from sg3jax.train.config import files as config_files


def _config(**model):
  config = config_files.load(str(sweep_files.TINY))
  config.update({'model': model})
  return config


def test_figures_of_a_tiny_design():
  config = _config()
  figures = analysis.analyse(config, metrics=('eqt', 'eqr'), samples=6)
  assert list(figures) == [
    'g_parameters', 'd_parameters', 'attenuation_db', 'noncritical_db',
    'forward_gflop', 'forward_mib', 'eqt_db', 'eqr_db',
  ]  # fmt: skip
  wider = analysis.analyse(
    _config(synthesis={'channel_max': 16, 'channel_base': 128}), metrics=()
  )
  for name in ('g_parameters', 'forward_gflop', 'forward_mib'):
    assert 0 < figures[name] < wider[name]
  assert wider['d_parameters'] == figures['d_parameters']
  assert figures['attenuation_db'] == pytest.approx(26.2, abs=0.05)
  # T follows translations far better than rotations, trained or not.
  assert figures['eqt_db'] > figures['eqr_db'] + 5
  assert 'eqt_db' not in wider
  # The same seed gives the same figures, and the input is left as it was.
  again = analysis.analyse(config, metrics=('eqt',), samples=6)
  assert again['eqt_db'] == pytest.approx(figures['eqt_db'])
  assert config.model.img_channels is None


def test_a_constant_input_has_no_equivariance():
  model = {
    'generator': 'stylegan2',
    'label_dim': 3,
    'stylegan2': {'channel_base': 64, 'channel_max': 8},
  }
  figures = analysis.analyse(_config(**model), samples=4)
  assert figures['attenuation_db'] is None
  assert figures['forward_gflop'] > 0
  assert not [name for name in figures if name.startswith('eq')]
