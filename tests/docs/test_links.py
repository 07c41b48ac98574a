"""Links between the pages, and the navigation of the site."""

import pages
import pytest
import yaml


@pytest.mark.parametrize('path', pages.PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
  for link in pages.links(path):
    if link.startswith(('https://', 'http://', 'mailto:')):
      continue
    name, _, anchor = link.partition('#')
    target = (path.parent / name).resolve() if name else path
    assert target.exists(), f'{path.name}: {link}'
    if anchor:
      assert anchor in pages.anchors(target), f'{path.name}: {link}'
    if path.is_relative_to(pages.DOCS):
      assert target.is_relative_to(pages.DOCS), f'{link} is not in the site'


def _entries(navigation):
  for entry in navigation:
    value = next(iter(entry.values())) if isinstance(entry, dict) else entry
    if isinstance(value, list):
      yield from _entries(value)
    else:
      yield value


def test_the_navigation_lists_every_page_once():
  site = yaml.safe_load((pages.ROOT / 'mkdocs.yml').read_text())
  listed = list(_entries(site['nav']))
  there = [str(p.relative_to(pages.DOCS)) for p in pages.DOCS.rglob('*.md')]
  # Records that scripts write, which other pages sum up.
  there = [name for name in there if not name.startswith('hardware/')]
  assert sorted(listed) == sorted(there)


def test_a_heading_has_the_anchor_that_viewers_give_it():
  assert pages.slug('EQ-R with a finer resampler: `eqr_hq`') == (
    'eq-r-with-a-finer-resampler-eqr_hq'
  )
