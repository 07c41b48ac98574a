"""The page of the viewer in a browser, with real models."""

import contextlib
import dataclasses

import browser as browsers
import numpy as np
import pytest
import serving
import small_models
from PIL import Image

from sg3jax.editing import directions
from sg3jax.view import engine, photos, server, subject

pytestmark = pytest.mark.slow

_CONTROL = '.controls .row:has(> label:text-is("{}")) {}'


@pytest.fixture(scope='module')
def browser():
  with browsers.chromium() as browser:
    yield browser


@pytest.fixture(scope='module')
def viewer(tmp_path_factory):
  """A model with labels and directions beside a StyleGAN2."""
  root = tmp_path_factory.mktemp('models')
  subjects = []
  for name, options in (('t', {'label_dim': 3}), ('2', {})):
    model = small_models.make_model(name, **options)
    found = []
    if model.label_dim:
      found = directions.find(model, count=1, num_samples=1000)
    subjects.append(subject.Subject(root / name, model, found))
  (root / 't').mkdir()
  for i in range(3):
    Image.new('RGB', (8, 8)).save(root / 't' / f'fakes{i:06d}.png')
  return server.Viewer(
    serving.shop(root / 'views', engine.Engine(subjects)), [root / 't']
  )


@pytest.fixture(scope='module')
def address(viewer):
  with serving.serving(viewer) as address:
    yield address


class _Page:
  """A page of the viewer, with what it requested and complained about."""

  def __init__(self, browser, address, **options):
    self.requests, self.messages = [], []
    self.tab = browser.new_page(**options)
    self.tab.on('request', lambda request: self.requests.append(request.url))
    self.tab.on('console', lambda message: self.messages.append(message.text))
    self.tab.on('pageerror', lambda error: self.messages.append(str(error)))
    self.tab.goto(f'http://{address}/')
    self.wait(0)

  def wait(self, number):
    """Waits for a resting frame that is newer than a request."""
    self.tab.wait_for_function(
      """number => {
        const {shown, asked, resting} =
          document.getElementById('speed').dataset;
        return Number(shown) > number && shown === asked && resting;
      }""",
      arg=number,
      timeout=60_000,
    )

  def images(self):
    """Returns the contents of both images."""
    return self.tab.evaluate(
      "[...document.querySelectorAll('#models canvas')]"
      '.map(canvas => canvas.toDataURL())'
    )

  @contextlib.contextmanager
  def changing(self, *expected):
    """Checks which of the images the actions in the context change."""
    before = self.images()
    number = int(self.tab.get_attribute('#speed', 'data-shown'))
    yield
    self.wait(number)
    changed = [a != b for a, b in zip(before, self.images(), strict=True)]
    assert changed == list(expected), self.tab.inner_text('#notes')

  def overflow(self):
    return self.tab.evaluate(
      'document.documentElement.scrollWidth - window.innerWidth'
    )

  def check(self, address):
    """Checks that nothing left the machine, and nothing went wrong."""
    for url in self.requests:
      assert url.startswith((f'http://{address}/', 'data:', 'blob:')), url
    assert not self.messages


@pytest.fixture
def page(browser, address):
  page = _Page(browser, address, viewport={'width': 1280, 'height': 900})
  yield page
  page.check(address)
  page.tab.close()


def _drag(tab, selector, x, y):
  box = tab.locator(selector).first.bounding_box()
  begin = (box['x'] + box['width'] / 2, box['y'] + box['height'] / 2)
  tab.mouse.move(*begin)
  tab.mouse.down()
  for i in range(1, 6):
    tab.mouse.move(begin[0] + x * i / 5, begin[1] + y * i / 5)
  tab.mouse.up()


def _fill(tab, label, value):
  entry = tab.locator(_CONTROL.format(label, 'input[type=number]')).first
  entry.fill(str(value))
  entry.press('Enter')


def test_each_control_changes_the_image(page):
  tab = page.tab
  both, one = (True, True), (True, False)
  with page.changing(*both):
    _fill(tab, 'Seed', 7)
  with page.changing(*both):
    _drag(tab, '#map', -40, 0)
  assert tab.locator(_CONTROL.format('Seed', 'input')).input_value() == ''
  with page.changing(*both):
    tab.locator('#map').click(position={'x': 60, 'y': 60})
  with page.changing(*both):
    _fill(tab, 'ψ', 0.5)
  with page.changing(*one):
    tab.select_option(_CONTROL.format('Class', 'select'), '2')
  with page.changing(*one):
    tab.select_option(_CONTROL.format('towards', 'select'), 'class')
  with page.changing(*one):
    _fill(tab, 'sefa0', 2)
  with page.changing(*both):
    tab.click('.chips button:text-is("Middle")')
  with page.changing(*both):
    _fill(tab, 'With seed', 33)
  with page.changing(*one):
    _drag(tab, '#models canvas', 60, 30)
  with page.changing(*one):
    tab.mouse.wheel(0, -300)
  with page.changing(*one):
    tab.keyboard.down('Shift')
    _drag(tab, '#models canvas', 0, 80)
    tab.keyboard.up('Shift')
  with page.changing(*one):
    tab.locator('#models canvas').first.press('ArrowLeft')
  with page.changing(*one):
    tab.click('#reset')
  with page.changing(False, True):
    tab.select_option(_CONTROL.format('Inputs', 'select'), 'none')


def test_features_and_errors_are_shown(page):
  tab = page.tab
  tab.click('summary:text-is("Inspect")')
  with page.changing(False, False):
    tab.select_option(_CONTROL.format('Layer', 'select'), 'L1')
  with page.changing(True, False):
    tab.select_option(_CONTROL.format('Equivariance', 'select'), 'translation')
    tab.locator('#models canvas').first.press('ArrowLeft')
  captions = tab.locator('#details figcaption').all_inner_texts()
  assert len(captions) == 4
  assert 'an ideal generator has' in captions[1]
  assert captions[2].endswith('L1, channels 0 to 2')
  assert 'cannot be moved' in tab.inner_text('#notes')


def test_it_saves_and_shows_the_command(page, viewer):
  page.tab.click('#save')
  page.tab.wait_for_selector('#commands a', timeout=20_000)
  commands = page.tab.locator('#commands code').all_inner_texts()
  assert len(commands) == 2
  with page.tab.expect_download() as download:
    page.tab.locator('#commands a').first.click()
  name = download.value.suggested_filename
  assert (
    np.asarray(Image.open(download.value.path())).tolist()
    == np.asarray(Image.open(viewer.shop.outdir / name)).tolist()
  )
  assert f'--seeds=0 --class=0 --outdir={viewer.shop.outdir}' in commands[0]


def test_a_photograph_is_projected(page, tmp_path, monkeypatch):
  quick = dataclasses.replace(
    photos._SETTINGS, steps=4, candidates=4, steps_per_check=2
  )
  monkeypatch.setattr(photos, '_SETTINGS', quick)
  Image.new('RGB', (20, 20), 'orange').save(tmp_path / 'a.png')
  with page.changing(True, False):
    page.tab.set_input_files('#photo-file', tmp_path / 'a.png')
  assert 'first model only' in page.tab.inner_text('#notes')
  (tmp_path / 'b.png').write_text('no image')
  page.tab.set_input_files('#photo-file', tmp_path / 'b.png')
  page.tab.wait_for_selector('#notes .bad', timeout=20_000)
  assert 'must be an image file' in page.tab.inner_text('#notes')


def test_two_browsers_do_not_disturb_each_other(browser, address, page):
  other = _Page(browser, address)
  before = other.images()
  with page.changing(True, True):
    _fill(page.tab, 'Seed', 123)
  assert other.images() == before
  with other.changing(True, True):
    _fill(other.tab, 'Seed', 123)
  assert other.images() == page.images()
  other.tab.close()


def test_a_phone(browser, address):
  page = _Page(
    browser, address, viewport={'width': 375, 'height': 800},
    color_scheme='dark', has_touch=True,
  )  # fmt: skip
  assert page.overflow() <= 0
  with page.changing(True, True):
    page.tab.locator(_CONTROL.format('Seed', 'button')).first.tap()
  page.tab.tap('#tab-training')
  page.tab.wait_for_selector('#grid-image[src]')
  assert page.tab.inner_text('#grid-kimg') == '2 kimg'
  page.tab.locator('#grid').press('ArrowLeft')
  assert page.tab.inner_text('#grid-kimg') == '1 kimg'
  assert page.overflow() <= 0
  page.check(address)
  page.tab.close()


def test_every_control_has_a_name(page):
  unnamed = page.tab.evaluate(
    """[...document.querySelectorAll('input, select, button, canvas')]
      .filter(x => !x.labels?.length && !x.getAttribute('aria-label') &&
        !x.textContent.trim() && x.getClientRects().length)
      .map(x => x.outerHTML)"""
  )
  assert not unnamed
