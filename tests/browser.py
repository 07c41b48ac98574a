"""A browser for tests of pages, if the machine has one."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def chromium():
  """Yields Chromium as Playwright drives it, or skips the test."""
  pytest.importorskip('playwright.sync_api', reason='needs playwright')
  from playwright import sync_api

  names = ('chromium', 'chromium-browser', 'google-chrome')
  paths = [path for name in names if (path := shutil.which(name))]
  if not paths:
    pytest.skip('needs Chromium: apt-get install chromium')
  with sync_api.sync_playwright() as play:
    # A test may run as root, where Chromium has no sandbox.
    browser = play.chromium.launch(
      executable_path=paths[0], args=['--no-sandbox']
    )
    try:
      yield browser
    finally:
      browser.close()
