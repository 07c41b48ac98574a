"""Keeps the result page of a run up to date."""

import pathlib
import traceback
from collections.abc import Callable

import jax

# Writes the page of a run folder, and returns its path.
Write = Callable[[pathlib.Path], pathlib.Path]


class ResultPage:
  """Writes the page at snapshots. An error is logged, and the run continues.

  On several hosts only the first writes.

  Args:
    write: Writes the page; None to write none.
    workdir: The run folder.
    log: Receives one or more lines of text.
  """

  def __init__(
    self,
    write: Write | None,
    workdir: pathlib.Path,
    log: Callable[[str], None],
  ):
    self._write = write if jax.process_index() == 0 else None
    self._workdir = workdir
    self._log = log
    self._path: pathlib.Path | None = None
    self._shown: set[str] = set()  # Failures with a traceback in the log.

  def update(self) -> None:
    """Writes the page from the files of the run folder."""
    if self._write is None:
      return
    self._path = None
    try:
      self._path = self._write(self._workdir)
    except Exception as error:  # A missing page must not end the run.
      line = f'{type(error).__name__}: {error}'.partition('\n')[0]
      if line not in self._shown and not isinstance(error, OSError):
        self._log(''.join(traceback.format_exception(error)).rstrip())
      self._shown.add(line)
      self._log(
        f'Warning: the result page cannot be written; the run continues '
        f'({line})'
      )

  def announce(self) -> None:
    """Logs where the page is, at the end of the run.

    A run that was complete before this session gets a page now.
    """
    if self._path is None and not self._shown:
      self.update()
    if self._path is not None:
      self._log(f'Results:        open {self._path} in a browser')
