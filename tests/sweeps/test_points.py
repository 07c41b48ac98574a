"""Sweep files: which points they make, and what they refuse."""

import pathlib

import pytest
import sweep_files

from sg3jax.sweeps import analysis, points

_EXAMPLES = pathlib.Path(__file__).parents[2] / 'configs' / 'sweeps'


def _read(folder, text, check=None):
  return points.read(sweep_files.write(folder, text), check)


def _names(sweep):
  return [point.name for point in sweep.points]


def test_grid_of_axes_zips_and_seeds(tmp_path):
  sweep = _read(
    tmp_path,
    """
    seeds = [0, 1]
    [base]
    train.batch = 4
    [axes]
    model.synthesis.filter_size = [4, 6]
    [[zip]]
    model.synthesis.num_layers = [4, 5]
    model.synthesis.num_critical = [1, 2]
    """,
  )
  assert _names(sweep)[:3] == [
    'filter_size=4--num_layers=4--num_critical=1--seed=0',
    'filter_size=4--num_layers=4--num_critical=1--seed=1',
    'filter_size=4--num_layers=5--num_critical=2--seed=0',
  ]
  assert len(sweep.points) == 8
  last = sweep.points[-1].config
  synthesis = last.model.synthesis
  assert (synthesis.filter_size, synthesis.num_layers) == (6, 5)
  assert (synthesis.num_critical, last.seed, last.train.batch) == (2, 1, 4)
  # No point shares its configuration with another.
  assert sweep.points[0].config.model.synthesis.filter_size == 4


def test_single_points_and_what_they_leave_as_it_is(tmp_path):
  sweep = _read(
    tmp_path,
    """
    [[points]]
    name = 'default'
    [[points]]
    model.synthesis.first_stopband = '2^1.5'
    [[points]]
    name = 'both'
    log.metrics = ['swd', 'eqt']
    data.mirror = true
    """,
  )
  assert _names(sweep) == ['default', 'first_stopband=2.82843', 'both']
  default, stopband, both = sweep.points
  field = 'model.synthesis.first_stopband'
  assert stopband.values == {field: 2**1.5}
  assert points.get(default.config, field, default.values) == 2**2.1
  assert both.config.log.metrics == ('swd', 'eqt')
  assert both.config.data.mirror is True


def test_without_axes_there_is_the_base(tmp_path):
  assert _names(_read(tmp_path, '')) == ['base']
  assert _names(_read(tmp_path, 'seeds = [3]')) == ['seed=3']


def test_names_are_safe_and_tell_fields_apart(tmp_path):
  sweep = _read(
    tmp_path,
    """
    [axes]
    model.synthesis.channel_base = [64]
    data.source = ['a/b c,d.zip', '']
    train.g_lr = [1, 1e-5]
    """,
  )
  # Two other designs have a channel_base, and d_lr is no g_lr.
  assert _names(sweep)[:2] == [
    'synthesis.channel_base=64--source=a-b-c-d.zip--g_lr=1',
    'synthesis.channel_base=64--source=a-b-c-d.zip--g_lr=1e-05',
  ]
  assert '--source=none--' in _names(sweep)[2]


def test_long_names_are_cut_but_differ(tmp_path):
  paths = ', '.join(f"'{'x' * 200}{i}'" for i in range(2))
  names = _names(_read(tmp_path, f'[axes]\ndata.source = [{paths}]'))
  assert len(set(names)) == 2
  assert max(map(len, names)) <= 150


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('colour = 1', "unknown key 'colour': use config, base"),
    ('[base]\nmodel.sinthesis.margin = 1',
     'no field model.sinthesis.margin in the configuration: did you mean '
     r'model\.synthesis\.margin'),
    ('[base]\ntrain.batch = 2.5', 'train.batch must be an integer, got 2.5'),
    ('[axes]\ntrain.batch = 8', r'batch must be a list of values such as .4'),
    ('[axes]\ntrain.batch = []', 'must be a list'),
    ('seeds = 3', 'seeds must be a list'),
    ('[[axes]]\ntrain.batch = [8]', r'axes must be a table: write \[axes\]'),
    ('[points]\ntrain.batch = 8', r'points must be tables: write \[\[points'),
    ('[[zip]]\nseed = [1, 2]\ntrain.batch = [8]',
     'lists of one length, got: seed has 2, train.batch has 1'),
    ('[axes]\ntrain.batch = [8, 8]',
     'names of points must be unique, got batch=8'),
    ("[[points]]\nname = 'a/b'",
     "the name of a point must consist of .*, got 'a/b'"),
    ('[axes', 'Expected'),
  ],
)  # fmt: skip
def test_files_that_are_not_understood(tmp_path, text, message):
  with pytest.raises(ValueError, match=rf'sweep\.toml: .*{message}'):
    _read(tmp_path, text)


def test_a_file_needs_a_configuration(tmp_path):
  path = tmp_path / 'sweep.toml'
  with pytest.raises(FileNotFoundError, match=r'no sweep file .*sweep\.toml'):
    points.read(path)
  path.write_text('')
  with pytest.raises(ValueError, match='config is missing'):
    points.read(path)
  path.write_text("config = 'stylegan9'")
  with pytest.raises(ValueError, match="no configuration 'stylegan9'"):
    points.read(path)


def test_points_that_cannot_run_say_why_and_the_others_do(tmp_path):
  sweep = _read(
    tmp_path,
    """
    [[points]]
    name = 'fine'
    [[points]]
    model.synthesis.first_stopband = 1.0
    [[points]]
    model.synthesis.marjin = 3
    [[points]]
    model.synthesis.filter_size = true
    [[points]]
    train.batch = 7
    [[points]]
    train.g_lr = -1
    [[points]]
    model.synthesis.margin = 'two'
    """,
    analysis.check,
  )
  errors = {point.name: point.error for point in sweep.points}
  assert errors.pop('fine') == ''
  reasons = [
    'stopbands must be at least their cutoffs',
    'did you mean model.synthesis.margin?',
    'model.synthesis.filter_size must be an integer, got True',
    '7',
    'train.g_lr must be above 0',
    "model.synthesis.margin must be an integer, got 'two'",
  ]
  for (name, error), reason in zip(errors.items(), reasons, strict=True):
    assert reason in error, name
  assert len(sweep.invalid()) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
  'path', sorted(_EXAMPLES.glob('*.toml')), ids=lambda p: p.stem
)
def test_examples_can_run(path):
  sweep = points.read(path, analysis.check)
  assert len(sweep.points) > 1
  assert not sweep.invalid()


def test_a_point_of_another_configuration(tmp_path):
  sweep = _read(
    tmp_path,
    """
    [base]
    train.batch = 4
    [[points]]
    name = 'default'
    [[points]]
    name = 'F'
    config = 'ladder:F,resolution=16'
    model.synthesis.margin = 4
    [[points]]
    name = 'none'
    config = 'ladder:X'
    """,
  )
  default, f, none = sweep.points
  assert default.config.model.synthesis.sampling == 'flexible'
  assert f.config.model.synthesis.sampling == 'critical'
  assert (f.config.train.batch, f.config.model.synthesis.margin) == (4, 4)
  assert f.values == {
    'config': 'ladder:F,resolution=16',
    'model.synthesis.margin': 4,
  }
  assert "as in T-noise, got 'X'" in none.error


def test_seeds_are_not_checked_one_by_one(tmp_path):
  checked = []

  def check(config):
    checked.append((config.model.synthesis.margin, config.seed))
    if config.model.synthesis.margin < 10:
      raise ValueError('too narrow')

  text = 'seeds = [0, 1, 2]\n[axes]\nmodel.synthesis.margin = [10, 9]'
  sweep = points.read(sweep_files.write(tmp_path, text), check)
  assert checked == [(10, 0), (9, 0)]
  assert [p.error for p in sweep.points] == [''] * 3 + ['too narrow'] * 3
