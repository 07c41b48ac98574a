"""The command `report` on small models: its page, in a browser, its errors."""

import base64
import io
import json

import browser
import html_page
import pytest
import tiny_models
from PIL import Image

from sg3jax.report import base, writer


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return tiny_models.write_images(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  for design in ('t', '2'):
    tiny_models.save(folder / f'kind-{design}', design)
  line = {
    'results': {'eqt50k_int': 42.25},
    'ci95': {'eqt50k_int': 0.5},
    'num_samples': 64,
    'timestamp': 1.7e9,
    'kimg': 0.0,
  }
  path = folder / 'kind-t' / 'metric-eqt50k_int.jsonl'
  path.write_text(json.dumps(line) + '\n{"results": \n')
  return [folder / 'kind-t', folder / 'kind-2']


@pytest.fixture(scope='module')
def report(cli, models, data, tmp_path_factory):
  """A report on models of two kinds."""
  path = tmp_path_factory.mktemp('report') / 'report.html'
  status, out, error = cli(
    'report', *models, f'--data={data}', f'--output={path}', '--images=32',
    # The networks of features run for longer than they compile.
    JAX_DISABLE_MOST_OPTIMIZATIONS='0',
  )  # fmt: skip
  assert status == 0, error
  assert out == f'{path}\n'
  assert 'Section:        8 of 8, Nearest real images' in error
  return path


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('errors')
  tiny_models.save(folder / 'plain')
  return folder / 'plain'


@pytest.mark.slow
class TestCommand:
  def test_it_has_all_sections_and_pictures(self, report):
    parsed = html_page.Page(report.read_text())
    assert parsed.sections == [section.name for section in base.sections()]
    folder = report.with_name('report_files')
    inlined = {
      base64.b64decode(image['src'].partition(',')[2])
      for image in parsed.images
    }
    assert inlined == {path.read_bytes() for path in folder.iterdir()}
    for content in inlined:
      with Image.open(io.BytesIO(content)) as image:
        image.verify()
    # Each kind has its pictures, and reasons for those that it lacks.
    names = {path.stem for path in folder.iterdir()}
    assert {'equivariance-errors-kind-t', 'truncation-sweep-kind-2'} <= names
    assert 'equivariance-errors-kind-2' not in names
    assert parsed.text.count('kind-2: its input is a learned constant') == 2
    assert '42.25 ± 0.5 dB (64 images, 2023-11-14)' in parsed.text
    # Which features there are depends on the weights of this machine.
    titles = ('LPIPS 0.1', 'random convolutions')
    assert any(title in parsed.text for title in titles)

  def test_a_browser_opens_it_without_the_network(self, report, tmp_path):
    picture = tmp_path / 'page.png'
    requests, messages, overflow, loaded = browser.open_page(report, picture)
    outside = [url for url in requests if not url.startswith('data:')]
    assert outside == [report.as_uri()]
    assert messages == []
    assert overflow <= 0  # Tables and panels scroll, the page does not.
    assert loaded
    with Image.open(picture) as image:
      assert image.height > 3000

  @pytest.mark.exhaustive
  def test_pictures_depend_on_the_model_and_the_seed_only(
    self, cli, models, data, report, tmp_path
  ):
    path = tmp_path / 'report.html'
    status, _, error = cli(
      'report', models[0], f'--data={data}', f'--output={path}', '--images=32'
    )
    assert status == 0, error
    pictures = sorted(path.with_name('report_files').glob('*kind-t*.png'))
    assert len(pictures) == 9
    for picture in pictures:
      twin = report.with_name('report_files') / picture.name
      assert picture.read_bytes() == twin.read_bytes(), picture.name

  @pytest.mark.parametrize(
    ('channels', 'label_dim', 'flags'),
    [
      pytest.param(1, 0, [], marks=pytest.mark.exhaustive, id='grey'),
      pytest.param(4, 3, ['--class=2'], id='RGBA with classes'),
    ],
  )
  def test_other_images_without_data(
    self, cli, tmp_path, channels, label_dim, flags
  ):
    tiny_models.save(tmp_path / 'model', channels=channels, label_dim=label_dim)
    path = tmp_path / 'x.html'
    status, _, error = cli(
      'report', tmp_path / 'model', f'--output={path}', '--images=16', *flags
    )
    assert status == 0, error
    text = html_page.Page(path.read_text()).text
    assert 'Real images were not given: pass --data' in text
    assert 'Real images were not given (--data)' in text


class TestErrors:
  """Wrong input ends the command before anything is computed."""

  @pytest.fixture
  def fails(self, monkeypatch):
    """Runs the command in this process; returns its one line."""
    from sg3jax.cli import report

    monkeypatch.setattr(writer, 'analyse', _never)

    def run(*args):
      return _error(report, *args)

    return run

  def test_no_model(self, fails, tmp_path):
    line = fails(f'--output={tmp_path}/a.html')
    assert line == 'a MODEL is required: --help shows how'

  def test_a_missing_model(self, fails, tmp_path):
    assert 'no-such' in fails(
      tmp_path / 'no-such', f'--output={tmp_path}/a.html'
    )

  def test_another_kind_of_output(self, fails, model, tmp_path):
    line = fails(model, f'--output={tmp_path}/a.pdf')
    assert line.startswith('--output must be an .html file')

  def test_an_existing_output(self, fails, model, tmp_path):
    (tmp_path / 'a.html').write_text('mine')
    line = fails(model, f'--output={tmp_path}/a.html')
    assert line.endswith('exists: pass --overwrite or another --output')
    assert (tmp_path / 'a.html').read_text() == 'mine'

  def test_data_of_another_resolution(self, fails, model, tmp_path):
    Image.new('RGB', (32, 32)).save(tmp_path / '0.png')
    line = fails(model, f'--data={tmp_path}', f'--output={tmp_path}/a.html')
    assert '32' in line
    assert '16' in line

  def test_data_with_other_channels(self, fails, model, tmp_path):
    Image.new('L', (16, 16)).save(tmp_path / '0.png')
    line = fails(model, f'--data={tmp_path}', f'--output={tmp_path}/a.html')
    assert 'must have 3 channels' in line

  def test_data_that_are_not_square(self, fails, model, tmp_path):
    Image.new('RGB', (16, 8)).save(tmp_path / '0.png')
    line = fails(model, f'--data={tmp_path}', f'--output={tmp_path}/a.html')
    assert line.startswith('images must be square')  # Not the flag --images.

  def test_unreadable_data(self, fails, model, tmp_path):
    (tmp_path / '0.png').write_bytes(b'no image')
    line = fails(model, f'--data={tmp_path}', f'--output={tmp_path}/a.html')
    assert '0.png' in line

  def test_models_of_two_sizes(self, fails, model, tmp_path):
    tiny_models.save(tmp_path / 'large', '2', resolution=32)
    line = fails(model, tmp_path / 'large', f'--output={tmp_path}/a.html')
    assert 'must generate images of one size' in line

  def test_classes(self, fails, model, tmp_path):
    output = f'--output={tmp_path}/a.html'
    assert 'takes no labels' in fails(model, '--class=0', output)
    tiny_models.save(tmp_path / 'classes', label_dim=3)
    assert 'pass --class=0 to --class=2' in fails(tmp_path / 'classes', output)


def _never(*args, **kwargs):
  raise AssertionError('nothing should be computed')


def _error(command, *args) -> str:
  """Returns the one line that a command ends with, which must be an error."""
  from absl.testing import flagsaver

  with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
    command.main(['sg3jax report', *map(str, args)])
  message = end.value.code
  assert isinstance(message, str), message
  line, *rest = message.splitlines()
  assert rest in ([], ['(--debug shows where)'])
  return line.removeprefix('error: ')
