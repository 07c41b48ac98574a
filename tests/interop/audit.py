"""Records what Python is made to do, by its own audit events."""

import codecs
import contextlib
import sys

# Events of running, loading or naming code, and of touching the system. What
# else there is (such as `object.__getattr__`) has no effects.
_EFFECTS = (
  'builtins.breakpoint', 'builtins.input', 'code.', 'compile', 'cpython.',
  'ctypes.', 'exec', 'ftplib.', 'function.', 'glob.', 'http.', 'import',
  'marshal.', 'mmap.', 'open', 'os.', 'pickle.', 'pty.', 'shutil.', 'socket.',
  'subprocess.', 'sys.', 'tempfile.', 'urllib.', 'webbrowser.',
)  # fmt: skip

_events: list[str] | None = None


def _hook(event: str, args: tuple) -> None:
  if _events is not None and event.startswith(_EFFECTS):
    _events.append(f'{event} {str(args)[:100]}')


codecs.lookup('cp437')  # `zipfile` imports this codec when it is first used.
sys.addaudithook(_hook)  # It cannot be taken away again, but it can sleep.


@contextlib.contextmanager
def recorded():
  """Yields the list of events that happen within."""
  global _events
  events = []
  _events = events
  try:
    yield events
  finally:
    _events = None
