import json

import numpy as np
import pytest
from PIL import Image

from sg3jax.eval.plots import curves


def write_stats(folder, ticks, **extra):
  def stat(mean):
    return {'num': 8, 'mean': mean, 'std': 0.5}

  with open(folder / 'stats.jsonl', 'w') as file:
    for tick in range(ticks):
      line = {
        'Loss/G/loss': stat(1.0 + 0.01 * tick),
        'Loss/D/loss': stat(1.3),
        'Loss/scores/real': stat(0.2),
        'Loss/scores/fake': stat(-0.2),
        'Loss/r1_penalty': stat(0.1),
        'Progress/kimg': stat(0.5 * tick),
        'timestamp': 1.8e9,
      }
      file.write(json.dumps(line | extra) + '\n')
  return folder / 'stats.jsonl'


def write_metric(folder, name, points):
  with open(folder / f'metric-{name}.jsonl', 'a') as file:
    for kimg, value in points:
      results = value if isinstance(value, dict) else {name: value}
      line = {'results': results, 'metric': name, 'kimg': kimg}
      file.write(json.dumps(line) + '\n')


@pytest.fixture
def plotted(monkeypatch):
  """The plotted panels, as (title, y label, {line: (kimg, value)})."""
  panels = []
  plot = curves._plot

  def record(axis, panel):
    plot(axis, panel)
    lines = {
      line.label: (line.kimg.tolist(), line.value.tolist())
      for line in panel.lines
    }
    panels.append((axis.get_title('left'), axis.get_ylabel(), lines))
    assert 'kimg' in axis.get_xlabel()

  monkeypatch.setattr(curves, '_plot', record)
  return panels


def test_every_curve_reaches_its_panel(tmp_path, plotted):
  stats = write_stats(tmp_path, 3)
  swd = [(0.0, 40.0), (1.0, 10.0), (0.0, 30.0)]
  write_metric(
    tmp_path, 'swd', [(k, {'swd_16': 9.0, 'swd': v}) for k, v in swd]
  )
  write_metric(tmp_path, 'eqr64', [(1.0, 13.0), (None, 99.0)])
  write_metric(tmp_path, 'eqt64_int', [(1.0, 60.0)])
  write_metric(tmp_path, 'eqt64_frac', [(1.0, 45.0)])
  write_metric(tmp_path, 'brightness', [(1.0, 120.0)])
  curves.plot_curves(stats, tmp_path / 'new' / 'curves.png')

  titles = [title.split(' (')[0] for title, _, _ in plotted]
  assert titles == [
    'Losses',
    'Discriminator scores',
    'R1 penalty',
    'Metric brightness',
    'Distance to real images',
    'Equivariance',
  ]
  panels = {title.split(' (')[0]: lines for title, _, lines in plotted}
  assert panels['Losses']['generator'] == ([0, 0.5, 1], [1, 1.01, 1.02])
  assert list(panels['Discriminator scores']) == ['real', 'generated']
  # The later of two measurements at 0 kimg counts.
  assert panels['Distance to real images'] == {
    'level of 16 pixels': ([0, 1], [9, 9]),
    'mean': ([0, 1], [30, 10]),
  }
  assert panels['Equivariance'] == {
    'EQ-T': ([1], [60]),
    'EQ-T (subpixel)': ([1], [45]),
    'EQ-R': ([1], [13]),
  }
  assert plotted[-1][1] == 'PSNR (dB)'
  with Image.open(tmp_path / 'new' / 'curves.png') as image:
    assert image.width > image.height > 400


def test_unfinished_and_sick_runs_are_plotted(tmp_path, plotted):
  nan = {'num': 8, 'mean': float('nan'), 'std': float('nan')}
  stats = write_stats(tmp_path, 70, **{'Loss/r1_penalty': nan})
  with open(stats, 'a') as file:
    file.write('{"Loss/G/lo')
  write_metric(tmp_path, 'eqr50k', [(0.0, None), (1.0, 40.0)])  # Not finite.
  curves.plot_curves(stats, tmp_path / 'curves.png')
  assert len(plotted[0][2]['generator'][0]) == 70


def test_nothing_to_plot_is_an_error(tmp_path):
  (tmp_path / 'stats.jsonl').write_text('')
  with pytest.raises(ValueError, match=r'stats\.jsonl has no tick yet'):
    curves.plot_curves(tmp_path / 'stats.jsonl', tmp_path / 'curves.png')
  with pytest.raises(FileNotFoundError, match=r'other\.jsonl'):
    curves.plot_curves(tmp_path / 'other.jsonl', tmp_path / 'curves.png')
  assert not (tmp_path / 'curves.png').exists()


def test_smooth_is_a_mean_of_the_finite_neighbours():
  y = np.array([1.0, 2.0, np.nan, 4.0, 6.0])
  np.testing.assert_allclose(curves._smooth(y, 3), [1.5, 1.5, 3, 5, 5])
