"""The documentation site: builds without warnings, and asks no other server."""

import html.parser
import os
import pathlib
import subprocess
import sys

import pages
import pytest

pytest.importorskip('zensical', reason="needs pip install 'sg3jax[docs]'")

_SITE = pages.ROOT / 'build' / 'site'
# What a browser fetches by itself when it shows a page.
_FETCHED = {'script', 'img', 'iframe', 'source', 'video', 'audio', 'embed'}
_FETCHED_LINKS = {'stylesheet', 'icon', 'preload', 'preconnect', 'manifest'}


class _Fetches(html.parser.HTMLParser):
  """Collects the addresses that a page fetches, and its headings."""

  def __init__(self, content: str):
    super().__init__()
    self.addresses: list[str] = []
    self.anchors: set[str] = set()
    self.feed(content)

  def handle_starttag(self, tag, attrs):
    values = dict(attrs)
    if values.get('id'):
      self.anchors.add(values['id'])
    is_link = tag == 'link' and values.get('rel') in _FETCHED_LINKS
    if tag in _FETCHED or is_link:
      self.addresses += [values[k] for k in ('src', 'href') if values.get(k)]


@pytest.fixture(scope='module')
def site():
  """Builds the site as the documentation says, and returns its folder."""
  built = subprocess.run(
    [sys.executable, '-m', 'zensical', 'build', '--strict', '--clean'],
    cwd=pages.ROOT,
    env=os.environ | {'NO_COLOR': '1'},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert built.returncode == 0, built.stdout + built.stderr
  assert 'No issues found' in built.stderr
  return _SITE


@pytest.mark.slow
def test_pages_fetch_nothing_from_other_servers(site):
  html_pages = sorted(site.rglob('*.html'))
  assert len(html_pages) > 40
  for path in html_pages:
    for address in _Fetches(path.read_text()).addresses:
      assert not address.startswith(('http:', 'https:', '//')), address
      target = (path.parent / address.partition('?')[0]).resolve()
      assert path.name == '404.html' or target.exists(), f'{path}: {address}'
  for path in site.rglob('*.css'):
    assert 'url(http' not in path.read_text().replace('"', '')
    assert '@import' not in path.read_text()


@pytest.mark.slow
def test_the_reference_has_the_public_functions(site):
  for page, name in (
    ('operators', 'sg3jax.ops.filtered_lrelu.api.filtered_lrelu'),
    ('model', 'sg3jax.model.Model.synthesis'),
    ('launch', 'sg3jax.launch.train'),
    ('evaluation', 'sg3jax.eval.metrics.equivariance.EquivarianceEvaluator'),
  ):
    content = (site / 'reference' / f'{page}.html').read_text()
    assert name in _Fetches(content).anchors


@pytest.mark.slow
def test_headings_have_the_anchors_that_other_pages_link_to(site):
  """The anchors that `test_links.py` computes are those of the site."""
  for path in pages.PAGES:
    if path.parent == pages.DOCS:
      built = site / pathlib.Path(path.name).with_suffix('.html')
      assert pages.anchors(path) <= _Fetches(built.read_text()).anchors
