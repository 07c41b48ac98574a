"""The rooms of the package and who may import whom."""

import ast
import pathlib

import pytest

import sg3jax

_PACKAGE = pathlib.Path(sg3jax.__file__).parent
_FILES = sorted(_PACKAGE.rglob('*.py'))

# Modules that know no room: any room may import them.
_BASE = {'types', 'version', 'storage', 'durations'}

# What each room may import of the others.
_ALLOWED = {
  'ops': {'types'},
  'nets': {'ops', 'types'},
  'data': _BASE,
  'train': _BASE | {'nets', 'ops', 'data'},
  'eval': _BASE | {'nets', 'ops', 'data'},
  'interop': _BASE | {'nets', 'ops'},
  'sweeps': _BASE | {'nets', 'ops', 'data', 'train', 'eval', 'experiment'},
  'cli': _BASE | {
    'nets', 'ops', 'data', 'train', 'eval', 'interop', 'model', 'experiment',
    'sweeps',
  },
}  # fmt: skip

# Libraries that only one place may know.
_OWNERS = {
  'flax.linen': ('nets/',),
  'jax.experimental.pallas': ('ops/filtered_lrelu/',),
  'orbax': ('train/checkpoint.py',),
  'pickle': (),
  'ray': ('sweeps/runner.py',),
  'safetensors': ('interop/',),
  'tensorflow': (),
  'torch': (),
}


def _imports(path: pathlib.Path) -> set[str]:
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


@pytest.mark.parametrize(
  'path', _FILES, ids=lambda path: str(path.relative_to(_PACKAGE))
)
def test_imports_run_one_way(path):
  relative = path.relative_to(_PACKAGE)
  imports = _imports(path)
  for library, owners in _OWNERS.items():
    if any(
      name == library or name.startswith(library + '.') for name in imports
    ):
      assert str(relative).startswith(owners), f'{relative}: {library}'
  room = relative.parts[0]
  if room not in _ALLOWED:
    return
  rooms = {name.split('.')[1] for name in imports if name.startswith('sg3jax.')}
  assert rooms - {room} <= _ALLOWED[room]


def test_rooms_are_found():
  assert {path.relative_to(_PACKAGE).parts[0] for path in _FILES} >= set(
    _ALLOWED
  )
