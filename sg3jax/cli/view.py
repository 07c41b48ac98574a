r"""Shows models, and runs as they train, in a web browser.

    sg3jax view runs/quickstart
    sg3jax view runs/t256 models/ffhq --directions=edits --outdir=pictures
    sg3jax view runs/t256 --host=0.0.0.0 --port=8000

The page has the images of one or two models, which can be dragged, turned and
zoomed; truncation, classes, mixed styles, directions, noise; features and their
spectra; the equivariance error; and the styles of photographs. For a run
folder, it also has the curves, images and log of the run, live. Open the
address that is printed, and stop the viewer with Ctrl-C.

Only this machine can connect, unless --host is given; the address then has a
token that others do not know. To see a remote machine's viewer, forward the
port: ssh -L 8000:localhost:8000 MACHINE.
"""

import pathlib
import secrets
import socket

from absl import flags

from sg3jax import files
from sg3jax import model as model_lib
from sg3jax.cli import common, direction_flags
from sg3jax.editing import direction_files

flags.declare_key_flag('outdir')
flags.declare_key_flag('directions')
flags.declare_key_flag('precision')
flags.declare_key_flag('compilation_cache')
_HOST = flags.DEFINE_string(
  'host',
  'localhost',
  'Name or address of the network interface to listen at; 0.0.0.0 for all.',
)
_PORT = flags.DEFINE_integer(
  'port', 8000, 'Port to listen at; 0 for a free one.', 0, 65535
)

_MAX_MODELS = 2

# Where pictures are saved by default.
_OUTDIR = 'views'


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and serves the viewer."""
  common.run(
    _view, argv, arguments=1, optional=_MAX_MODELS - 1, name='MODEL or RUN'
  )


def _view(*paths: str) -> None:
  try:
    from sg3jax.view import runs, server
  except ImportError as error:
    raise ImportError(
      f"the viewer needs {error.name}: pip install 'sg3jax[view]'"
    ) from error
  folders = [files.local_path(path) for path in paths]
  outdir = pathlib.Path(common.OUTDIR.value or _OUTDIR)
  files.check_folder(outdir)
  # Find out whether the address is free before minutes of compilation.
  listener = server.bind(_HOST.value, _PORT.value)
  token = '' if server.is_loopback(_HOST.value) else secrets.token_urlsafe(24)
  viewer = server.Viewer(
    _make_shop(folders, outdir),
    [folder for folder in folders if runs.is_run(folder)],
    token=token,
  )
  address = f'http://{_shown_host()}:{listener.getsockname()[1]}/'
  print(address + (f'?token={token}' if token else ''), flush=True)
  common.say('Stop the viewer with Ctrl-C.')
  server.serve(viewer, listener)


def _make_shop(folders: list[pathlib.Path], outdir: pathlib.Path):
  """Loads the models; returns None if there are only runs without them.

  Raises:
    ValueError: If the directions fit no model.
    OSError: If a model cannot be read.
  """
  from sg3jax.view import client, engine, runs, subject

  directions = []
  if direction_flags.DIRECTIONS.value:
    directions, _ = direction_files.read(direction_flags.DIRECTIONS.value)
  subjects = []
  for folder in folders:
    try:
      model = model_lib.load_model(folder, common.PRECISION.value)
    except FileNotFoundError:
      # A run that has just begun has curves, but no checkpoint.
      if not runs.is_run(folder):
        raise
      common.say(f'{folder} has no checkpoint yet: only its progress is shown')
      continue
    subjects.append(subject.Subject(folder, model, directions))
  if directions and not any(one.directions for one in subjects):
    raise ValueError(
      f'--directions must be those of a model that is shown, got '
      f'{direction_flags.DIRECTIONS.value}: find them with `sg3jax directions`'
    )
  if not subjects:
    return None
  return client.Shop(
    engine.Engine(subjects), outdir, direction_flags.DIRECTIONS.value or ''
  )


def _shown_host() -> str:
  """Returns the host for an address that a browser can open."""
  host = _HOST.value
  if host in ('0.0.0.0', '::'):
    return socket.gethostname()
  return f'[{host}]' if ':' in host else host
