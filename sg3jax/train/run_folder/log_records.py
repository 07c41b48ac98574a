"""Temporarily copies log records and Python warnings to a file."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def to_file(path: str | os.PathLike[str]) -> Iterator[None]:
  """Appends log records and Python warnings to a file within the context.

  Records still go where they went before, and warnings go to the same handlers.
  On exit logging is restored.

  Args:
    path: The file.

  Raises:
    OSError: If the file cannot be opened.
  """
  root = logging.getLogger()
  handlers: list[logging.Handler] = [_FileHandler(path, encoding='utf-8')]
  handlers[0].setFormatter(
    logging.Formatter('%(asctime)s %(levelname)s %(name)s: %(message)s')
  )
  if not root.handlers:
    # A root logger without handlers writes warnings to the console by itself.
    # It would stop if ours were its only handler.
    handlers.append(logging.StreamHandler())
    handlers[1].setFormatter(logging.Formatter(logging.BASIC_FORMAT))
  show = warnings.showwarning
  logging.captureWarnings(True)
  is_captured = warnings.showwarning is not show  # Captured here, not before.
  for handler in handlers:
    root.addHandler(handler)
  try:
    yield
  finally:
    if is_captured:
      logging.captureWarnings(False)
    for handler in handlers:
      root.removeHandler(handler)
      handler.close()


class _FileHandler(logging.FileHandler):
  """Writes records and ignores write errors, which the run itself detects."""

  def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
    del record
