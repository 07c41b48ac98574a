"""Opens pages of this package in Chromium, if the machine has it."""

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


def open_page(path, screenshot):
  """Opens a page as on a phone; returns its requests, messages and overflow."""
  requests, messages = [], []
  with chromium() as browser:
    tab = browser.new_page(
      viewport={'width': 375, 'height': 800}, color_scheme='dark'
    )
    tab.on('request', lambda request: requests.append(request.url))
    tab.on('console', lambda message: messages.append(message.text))
    tab.on('pageerror', lambda error: messages.append(str(error)))
    tab.goto(path.as_uri())
    overflow = tab.evaluate(
      'document.documentElement.scrollWidth - window.innerWidth'
    )
    loaded = tab.evaluate(
      '[...document.images].every(x => x.complete && x.naturalWidth > 0)'
    )
    tab.screenshot(path=screenshot, full_page=True)
  return requests, messages, overflow, loaded
