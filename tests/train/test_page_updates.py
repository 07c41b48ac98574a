"""A run keeps its result page up to date, and survives it."""

import jax
import pytest

from sg3jax.train.run_folder import result_page


@pytest.fixture
def lines():
  return []


def test_the_end_of_a_run_names_its_page(tmp_path, lines):
  page = result_page.ResultPage(
    lambda run: run / 'x.html', tmp_path, lines.append
  )
  page.update()
  assert lines == []
  page.announce()
  assert lines == [f'Results:        open {tmp_path / "x.html"} in a browser']


def test_a_complete_run_without_a_page_gets_one(tmp_path, lines):
  calls = []

  def write(run):
    calls.append(run)
    return run / 'x.html'

  result_page.ResultPage(write, tmp_path, lines.append).announce()
  assert calls == [tmp_path]
  assert 'x.html' in lines[0]


@pytest.mark.parametrize('error', [OSError('disk full'), KeyError('model')])
def test_failures_are_logged_and_the_run_goes_on(tmp_path, lines, error):
  failures = [error, error, None]

  def write(run):
    if failure := failures.pop(0):
      raise failure
    return run / 'x.html'

  page = result_page.ResultPage(write, tmp_path, lines.append)
  page.update()
  page.update()
  warnings = [line for line in lines if line.startswith('Warning: the result')]
  assert len(warnings) == 2
  assert type(error).__name__ in warnings[0]
  # A traceback is for errors of the program, and shown once.
  shown = sum('Traceback' in line for line in lines)
  assert shown == (not isinstance(error, OSError))
  lines.clear()
  page.announce()  # The last attempt failed: there is nothing to open.
  assert lines == []
  page.update()
  page.announce()
  assert 'x.html' in lines[0]


def test_other_hosts_and_runs_without_a_page_write_none(
  tmp_path, lines, monkeypatch
):
  none = result_page.ResultPage(None, tmp_path, lines.append)
  none.update()
  none.announce()
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  other = result_page.ResultPage(lambda run: 1 / 0, tmp_path, lines.append)
  other.update()
  other.announce()
  assert lines == []
