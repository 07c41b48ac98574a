"""The wheel: complete, without anything else, and of use outside the clone."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import venv
import zipfile

import numpy as np
import pytest
import small_models
from PIL import Image

import sg3jax
from sg3jax.interop import model_files

pytest.importorskip('hatchling', reason="needs pip install 'sg3jax[dev]'")

_ROOT = pathlib.Path(__file__).parents[1]


def _run(*command, cwd):
  """Returns what a command prints, without the settings of these tests."""
  kept = {
    k: v
    for k, v in os.environ.items()
    if not k.startswith(('PYTHON', 'SG3JAX')) and k != 'XLA_FLAGS'
  }
  done = subprocess.run(
    [str(word) for word in command],
    cwd=cwd,
    env=kept | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=400,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Builds the wheel, and returns its path."""
  folder = tmp_path_factory.mktemp('dist')
  _run(
    sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', folder,
    cwd=_ROOT,
  )  # fmt: skip
  (path,) = folder.iterdir()
  return path


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
  """Installs the wheel in a new environment, and returns its programs.

  The dependencies are those of this environment. This package is installed
  there too: the lines of a `.pth` file are paths, in which others are not read.
  """
  folder = tmp_path_factory.mktemp('environment')
  venv.create(folder, with_pip=False, symlinks=True)
  packages = sysconfig.get_path(
    'purelib', vars={'base': str(folder), 'platbase': str(folder)}
  )
  (pathlib.Path(packages) / 'dependencies.pth').write_text(
    f'{sysconfig.get_path("purelib")}\n'
  )
  _run(
    sys.executable, '-m', 'pip', '--python', folder / 'bin' / 'python',
    'install', '-q', '--no-deps', '--no-index', wheel, cwd=folder,
  )  # fmt: skip
  return folder / 'bin'


@pytest.mark.slow
def test_the_wheel_has_the_package_its_configurations_and_nothing_else(wheel):
  package = {
    str(path.relative_to(_ROOT))
    for path in (_ROOT / 'sg3jax').rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  configs = {
    f'sg3jax/{path.relative_to(_ROOT)}'
    for path in (_ROOT / 'configs').rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  assert 'sg3jax/report/page.html.j2' in package
  assert 'sg3jax/ops/filtered_lrelu/measured.json' in package
  assert 'sg3jax/configs/quickstart.py' in configs
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    info = f'sg3jax-{sg3jax.__version__}.dist-info'
    metadata = archive.read(f'{info}/METADATA').decode()
  own = {name for name in names if name.startswith(f'{info}/')}
  assert names - own == package | configs
  assert f'{info}/licenses/LICENSE' in own
  assert 'License-Expression: Apache-2.0' in metadata


@pytest.mark.slow
def test_commands_work_from_the_wheel(environment, tmp_path):
  command = environment / 'sg3jax'
  where = 'import sg3jax; print(sg3jax.__file__, sg3jax.__version__)'
  path, version = _run(
    environment / 'python', '-c', where, cwd=tmp_path
  ).split()
  assert pathlib.Path(path).is_relative_to(environment.parent)
  assert version == sg3jax.__version__
  assert 'usage: sg3jax COMMAND' in _run(command, '--help', cwd=tmp_path)
  assert 'self-test            passed' in _run(command, 'doctor', cwd=tmp_path)
  # A configuration by its name, which is in the wheel.
  design = _run(command, 'spec', '--config=quickstart', cwd=tmp_path)
  assert 'L0' in design

  model = small_models.make_model()
  variables = {'generator_ema': model.variables}
  model_files.save(tmp_path / 'model', model.options['model'], variables, {})
  _run(
    command, 'generate', '--network=model', '--seeds=0', '--outdir=out',
    cwd=tmp_path,
  )  # fmt: skip
  with Image.open(tmp_path / 'out' / 'seed0000.png') as image:
    assert image.size == (16, 16)
    assert np.asarray(image).std() > 0


def test_the_version_is_stated_alike():
  """CITATION.cff and the changelog begin with the version of the package."""
  citation = (_ROOT / 'CITATION.cff').read_text()
  assert f'\nversion: {sg3jax.__version__}\n' in citation
  changelog = (_ROOT / 'CHANGELOG.md').read_text()
  assert changelog.split('## ')[1].split()[0] == sg3jax.__version__
