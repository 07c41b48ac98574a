"""The analysis of untrained points, of tiny designs."""

import pytest
import sweep_files

from sg3jax.eval.metrics import base
from sg3jax.sweeps import analysis
from sg3jax.train.config import files as config_files


def _config(**model):
  config = config_files.load(str(sweep_files.TINY))
  config.update({'model': model})
  return config


@pytest.fixture(scope='module')
def values():
  """The values of a tiny design, of the default metrics."""
  return analysis.analyse(_config(), samples=6)


def test_values_of_a_tiny_design(values):
  config = _config()
  assert list(values) == [
    'g_parameters', 'd_parameters', 'attenuation_db', 'noncritical_db',
    'forward_gflop', 'forward_mib', 'eqt_db', 'eqt_db_ci95', 'eqt_frac_db',
    'eqt_frac_db_ci95', 'eqr_db', 'eqr_db_ci95',
  ]  # fmt: skip
  wider = analysis.analyse(
    _config(synthesis={'channel_max': 16, 'channel_base': 128}), metrics=()
  )
  for name in ('g_parameters', 'forward_gflop', 'forward_mib'):
    assert 0 < values[name] < wider[name]
  assert wider['d_parameters'] == values['d_parameters']
  assert values['attenuation_db'] == pytest.approx(26.2, abs=0.05)
  # T follows translations far better than rotations, trained or not.
  assert values['eqt_db'] > values['eqr_db'] + 5
  assert 'eqt_db' not in wider
  assert config.model.img_channels is None


@pytest.mark.parametrize('metrics', [('eqr',), ('eqr', 'eqt'), ('eqt', 'eqr')])
def test_a_value_does_not_depend_on_what_else_is_measured(values, metrics):
  # Random numbers were keyed by the place in the list: up to 7 dB apart.
  some = analysis.analyse(_config(), metrics=metrics, samples=6)
  for name in metrics:
    for column in (f'{name}_db', f'{name}_db_ci95'):
      assert some[column] == pytest.approx(values[column], abs=1e-3)


def test_each_image_has_a_transform_of_its_own(monkeypatch):
  made = []

  class Context(base.Context):
    def __init__(self, *args, **options):
      super().__init__(*args, **options)
      made.append(self)

  monkeypatch.setattr(base, 'Context', Context)
  values = analysis.analyse(_config(), metrics=('eqr',), samples=6)
  assert [context.group_size for context in made] == [1]
  assert 0 < values['eqr_db_ci95'] < 10


@pytest.mark.parametrize('asked', [(), ('none',), ('None',), ('',)])
def test_an_analysis_may_measure_nothing(asked):
  assert analysis.parse_metrics(asked) == ()


@pytest.mark.parametrize(
  ('asked', 'message'),
  [
    (('eqt', 'swd'), 'among eqt, eqt_frac, eqr, .*got swd, which needs more'),
    (('eqz',), r'got eqz: did you mean eq'),
  ],
)
def test_metrics_that_need_more_than_a_generator_are_refused(asked, message):
  with pytest.raises(ValueError, match=message):
    analysis.parse_metrics(asked)


def test_a_constant_input_has_no_equivariance():
  model = {
    'generator': 'stylegan2',
    'label_dim': 3,
    'stylegan2': {'channel_base': 64, 'channel_max': 8},
  }
  values = analysis.analyse(_config(**model), samples=4)
  assert values['attenuation_db'] is None
  assert values['forward_gflop'] > 0
  assert not [name for name in values if name.startswith('eq')]
