"""The page of a run folder: what it shows, in any state of the run."""

import base64
import io
import json
import shlex

import browser
import html_page
import numpy as np
import pytest
from PIL import Image

from sg3jax.eval.metrics import base
from sg3jax.eval.result_page import page, pictures, values


def _grid(path, side, columns, rows, seed=0):
  rng = np.random.RandomState(seed)
  cells = rng.randint(0, 256, [rows, 1, columns, 1, 3], np.uint8)
  pixels = np.tile(cells, [1, side, 1, side, 1])
  pixels = pixels.reshape(rows * side, columns * side, 3)
  Image.fromarray(pixels).save(path)
  return pixels


def _stat(mean):
  return {'num': 1, 'mean': mean, 'std': 0}


def _make_run(folder, *, side=16, kimg=(1.0, 2.0), total=2.0, snapshots=(1, 2)):
  """Writes the files of a run with grids of 12 x 8 images."""
  folder.mkdir()
  options = {
    'model': {'resolution': side},
    'train': {'total_kimg': total},
    'data': {'source': 'my <photos>'},
  }
  (folder / 'training_options.json').write_text(json.dumps(options))
  ticks = [
    {'Progress/kimg': _stat(k), 'Timing/total_sec': _stat(100 * k)}
    for k in kimg
  ]
  lines = ''.join(f'{json.dumps(tick)}\n' for tick in ticks)
  (folder / 'stats.jsonl').write_text(lines + '{"cut')
  for name in ('reals', 'fakes_init', *(f'fakes{k:06d}' for k in snapshots)):
    _grid(folder / f'{name}.png', side, 12, 8, seed=len(name))
  _grid(folder / 'curves.png', 10, 3, 2)
  frames = [Image.new('RGB', (32, 16), (0, 0, 9 * i)) for i in range(4)]
  frames[0].save(
    folder / 'equivariance.webp', save_all=True, append_images=frames[1:]
  )
  for name, points in {
    'swd': [(0.0, 200.0), (2.0, 45.25)],
    'eqt50k_int': [(2.0, float('nan'))],
    'mine': [(2.0, 7.0)],
  }.items():
    (folder / f'metric-{name}.jsonl').write_text(
      ''.join(
        json.dumps(
          {'results': {name: v if v == v else None, 'swd_16': 1.0}, 'kimg': k}
        )
        + '\n'
        for k, v in points
      )
    )
  return folder


@pytest.fixture
def run(tmp_path):
  return _make_run(tmp_path / 'my run')


def _parsed(run):
  assert page.write(run) == run / 'index.html'
  return html_page.Page((run / 'index.html').read_text())


def test_a_complete_run_shows_everything(run):
  parsed = _parsed(run)
  assert parsed.sections == [
    'images', 'time', 'clip', 'values', 'curves', 'next',
  ]  # fmt: skip
  assert (
    'The run is complete: 2 thousand images (kimg) of my <photos> were'
    in (parsed.text)
  )
  assert 'shown in 3m 20s' in parsed.text
  assert len(parsed.images) == 2 + 3 + 1 + 1
  for image in parsed.images:
    kind, _, content = image['src'].partition(';base64,')
    assert kind in ('data:image/png', 'data:image/webp')
    assert image['alt']
    with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
      opened.load()
  # Nothing is loaded from elsewhere.
  assert {link.partition(':')[0] for link in parsed.links} == {'data'}
  assert 'script' not in parsed.tags


def test_grids_are_cut_to_whole_cells_without_loss(run):
  pixels = np.asarray(Image.open(run / 'reals.png'))
  uri = pictures.cut_grid(run / 'reals.png', 16, 8, 4)
  with Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2]))) as cut:
    np.testing.assert_array_equal(np.asarray(cut), pixels[:64, :128])


def test_large_cells_are_reduced(tmp_path):
  pixels = _grid(tmp_path / 'g.png', 512, 3, 1)
  uri = pictures.cut_grid(tmp_path / 'g.png', 512, 8, 4)
  with Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2]))) as cut:
    assert cut.size == (3 * 128, 128)
    centres = np.asarray(cut.convert('RGB'))[64, 64::128].astype(int)
  assert np.abs(centres - pixels[256, 256::512]).max() < 6
  assert len(uri) < 20_000


def test_moments_are_spread_and_include_the_first_and_the_last(tmp_path):
  run = _make_run(tmp_path / 'run', snapshots=range(10, 200, 10))
  found = pictures.chosen_snapshots(run, 5)
  assert found[0] == (0, run / 'fakes_init.png')
  assert found[-1] == (190, run / 'fakes000190.png')
  gaps = np.diff([kimg for kimg, _ in found])
  assert len(found) == 5
  assert gaps.max() <= gaps.min() + 10


def test_values_are_in_words(run):
  rows = {row.title: row for row in values.read(run)}
  assert list(rows)[-1] == 'mine'  # Metrics that are not registered are last.
  swd = rows['Sliced Wasserstein distance']
  assert (swd.value, swd.before) == ('45.25', '200')
  assert swd.words.endswith('lower is better')
  assert (rows['EQ-T'].value, rows['EQ-T'].before) == ('not finite', '')
  assert rows['mine'].words == ''
  assert set(values.WORDS) <= set(base.registry())


def test_commands_survive_a_shell(run, monkeypatch):
  monkeypatch.setattr(page.shutil, 'which', lambda name: None)
  options = json.loads((run / 'training_options.json').read_text())
  found = page.commands(run, options)
  assert len(found) == 3
  for _, command in found:
    words = shlex.split(command)
    assert words[:3] == [page.sys.executable, '-m', 'sg3jax']
    assert any(str(run) in word for word in words[3:])
  assert '--data=my <photos>' in shlex.split(found[2][1])
  assert all(command in _parsed(run).text for _, command in found)
  monkeypatch.setattr(page.shutil, 'which', lambda name: f'/bin/{name}')
  assert shlex.split(page.commands(run, options)[0][1])[0] == 'sg3jax'


@pytest.mark.parametrize(
  ('kimg', 'expected'),
  [
    ((1.0,), 'in progress, or was stopped: 1 of 2 thousand'),
    ((), 'has begun: 0 of 2 thousand'),
  ],
)
def test_an_unfinished_run_says_so(tmp_path, kimg, expected):
  run = _make_run(tmp_path / 'run', kimg=kimg)
  for path in (*run.glob('*.webp'), *run.glob('*.png'), *run.glob('m*.jsonl')):
    path.unlink()
  parsed = _parsed(run)
  assert parsed.sections == ['next']
  assert expected in parsed.text


def test_a_large_clip_stays_beside_the_page(run, monkeypatch):
  monkeypatch.setattr(pictures, '_MAX_CLIP_BYTES', 10)
  assert 'equivariance.webp' in _parsed(run).links


def test_a_browser_shows_it_on_a_phone(run, tmp_path):
  _parsed(run)
  requests, messages, overflow, loaded = browser.open_page(
    run / 'index.html', tmp_path / 'page.png'
  )
  assert all(x.startswith(('file:', 'data:')) for x in requests)
  assert messages == []
  assert overflow <= 0
  assert loaded
