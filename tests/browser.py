"""Opens a page of this package in Chromium, if the machine has it."""

import shutil

import pytest


def find_chromium():
  """Returns the path of a browser, or skips the test."""
  pytest.importorskip('playwright.sync_api', reason='needs playwright')
  for name in ('chromium', 'chromium-browser', 'google-chrome'):
    if path := shutil.which(name):
      return path
  pytest.skip('needs Chromium: apt-get install chromium')


def open_page(path, screenshot):
  """Opens a page as on a phone; returns its requests, messages and overflow."""
  executable = find_chromium()
  from playwright import sync_api

  requests, messages = [], []
  with sync_api.sync_playwright() as play:
    # A test may run as root, where Chromium has no sandbox.
    browser = play.chromium.launch(
      executable_path=executable, args=['--no-sandbox']
    )
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
    browser.close()
  return requests, messages, overflow, loaded
