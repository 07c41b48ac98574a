"""Models that come with this package, by name: `demo`.

Each is a folder of `sg3jax/models` as `model_files` writes it. The `source` in
its `config.json` states the licence, the credits, how it was trained and the
SHA-256 of its arrays. `docs/demo.md` is its model card.
"""

import functools
import os
import pathlib

from absl import logging

DEMO = 'demo'

_NAMES = (DEMO,)
_FOLDER = pathlib.Path(__file__).parent.parent / 'models'


def is_packaged(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path names a model of this package.

  A file or folder of the user with the same name comes first.
  """
  return os.fspath(path) in _NAMES and not os.path.lexists(path)


def locate(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the folder of a model of this package, or the path as it is.

  If a file or folder of the user has the name of a model of this package, a
  warning is logged once.
  """
  if is_packaged(path):
    return _FOLDER / path
  if os.fspath(path) in _NAMES:
    _warn(os.fspath(path), os.getcwd())
  return pathlib.Path(path)


@functools.cache
def _warn(name: str, folder: str) -> None:
  logging.warning(
    '%s is taken from %s, because it exists, and not from sg3jax: rename it, '
    'or run the command elsewhere, to use the model of the package',
    name,
    os.path.join(folder, name),
  )
