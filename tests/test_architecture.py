"""The rooms of the package and who may import whom."""

import ast
import pathlib
import subprocess
import sys

import pytest

import sg3jax

_PACKAGE = pathlib.Path(sg3jax.__file__).parent
_FILES = sorted(_PACKAGE.rglob('*.py'))

# Modules that know no room: any room may import them.
_BASE = {'types', 'version', 'files', 'text', 'trees', 'pages'}

_OPERATORS = _BASE | {'ops'}
_NETWORKS = _OPERATORS | {'nets'}
_MODELS = _NETWORKS | {'data', 'train', 'eval', 'interop', 'model'}

# What each room, or module at the top of the package, may import of the others.
_ALLOWED = {
  'types': set(),
  'version': set(),
  'files': _BASE,
  'text': _BASE,
  'trees': _BASE,
  'pages': _BASE,
  'data': _BASE,
  'ops': _BASE,
  'nets': _OPERATORS,
  'train': _NETWORKS | {'data'},
  'eval': _NETWORKS | {'data'},
  'interop': _NETWORKS,
  'model': _NETWORKS | {'data', 'train', 'eval', 'interop'},
  'launch': _MODELS,
  'editing': _MODELS,
  'inversion': _MODELS | {'editing'},
  'render': _MODELS,
  'sweeps': _MODELS | {'launch'},
  'report': _MODELS | {'launch'},
  'view': _MODELS | {'launch', 'editing', 'inversion', 'render'},
  'cli': _MODELS
  | {'launch', 'editing', 'inversion', 'render', 'report', 'sweeps', 'view'},
  '__init__': {'launch', 'model', 'nets', 'ops', 'version'},
  '__main__': {'cli'},
}

# Libraries that only one place may know.
_OWNERS = {
  'array_record': ('data/',),
  'av': ('render/video.py',),
  'flax.linen': ('nets/',),
  'grain': ('data/',),
  'jinja2': ('pages/',),
  'jax.experimental.pallas': ('ops/filtered_lrelu/',),
  'orbax': ('train/checkpoint/',),
  'pickle': (),
  'pyarrow': ('data/',),
  'ray': ('sweeps/runner.py',),
  'safetensors': ('interop/',),
  'starlette': ('view/server.py',),
  'tensorflow': (),
  'tensorflow_datasets': ('data/',),
  'torch': (),
  'uvicorn': ('view/server.py',),
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
  room = relative.parts[0].removesuffix('.py')
  rooms = {
    name.split('.')[1] if '.' in name else '__init__'
    for name in imports
    if name == 'sg3jax' or name.startswith('sg3jax.')
  }
  # The package itself, whose file tells where it is installed.
  assert rooms - {room, '__init__'} <= _ALLOWED[room]


def test_every_room_and_module_has_its_place():
  found = {path.relative_to(_PACKAGE).parts[0] for path in _FILES}
  assert {name.removesuffix('.py') for name in found} == set(_ALLOWED)


def test_the_bare_package_imports_neither_jax_nor_a_room():
  code = 'import sg3jax, sys; print(*sorted(sys.modules))'
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout.split()
  assert 'jax' not in loaded
  assert {name for name in loaded if name.startswith('sg3jax')} == {
    'sg3jax',
    'sg3jax.version',
  }


@pytest.mark.parametrize('name', ['model', 'launch', 'nets', 'ops'])
def test_modules_are_there_without_more_imports(name):
  code = f'import sg3jax; print(sg3jax.{name}.__name__)'
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout
  assert out == f'sg3jax.{name}\n'
