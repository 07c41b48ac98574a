"""Exported programs: the same pictures, drawn without this package."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import official_networks
import pytest
from absl import flags
from absl.testing import flagsaver
from conftest import GOLDENS
from jax import export
from PIL import Image

import sg3jax
from sg3jax import model as model_lib
from sg3jax.cli import export as export_command
from sg3jax.eval.plots import grids
from sg3jax.interop import model_files, stablehlo
from sg3jax.interop.official import convert, files

_EXAMPLE = (
  pathlib.Path(__file__).parents[2] / 'examples' / 'generate_stablehlo.py'
)

# Runs a script as if this package were not installed.
_WITHOUT_US = (
  'import runpy, sys; sys.modules["sg3jax"] = None; '
  'runpy.run_path(sys.argv.pop(1), run_name="__main__")'
)

_CHECKPOINTS = {
  **{
    name: GOLDENS / f'official_{name}.pkl'
    for name in ('stylegan3_t32', 'stylegan3_r32_cond', 'stylegan2_32')
  },
  'grey': None,  # With a clamp that bites.
}

# The program and the model round differently: the order of sums depends on the
# batch and on what is a constant. In units of the images' range.
_TOLERANCE = 1e-5


@pytest.fixture(scope='module', params=_CHECKPOINTS)
def folder(request, tmp_path_factory):
  """An imported model."""
  path = _CHECKPOINTS[request.param]
  data = path.read_bytes() if path else official_networks.checkpoint('small')
  converted = convert.convert(files.read_bytes(data))
  folder = tmp_path_factory.mktemp('models') / request.param
  source = {'file': 'x.pkl'}
  model_files.save(folder, converted.model, converted.networks, source)
  return folder


@pytest.fixture(scope='module')
def model(folder):
  return sg3jax.load_model(folder)


def _run_export(**values):
  """Runs the command in this process."""
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**{k: str(v) for k, v in values.items()}):
    export_command._export()


@pytest.fixture(scope='module')
def program(folder):
  path = folder.with_name('g.stablehlo')
  _run_export(network=folder, output=path, of='generator_ema')
  return path


def _labels(model, n):
  """Returns labels of the first class, or None."""
  if not model.label_dim:
    return None
  return np.tile(np.eye(model.label_dim, dtype=np.float32)[:1], (n, 1))


def _inputs(model, z, psi):
  c = _labels(model, len(z))
  inputs = {'z': z, 'truncation_psi': np.float32(psi)}
  return inputs if c is None else inputs | {'c': c}


def _assert_close(found, expected):
  assert found.shape == expected.shape
  error = np.abs(np.asarray(found) - np.asarray(expected)).max()
  assert error < _TOLERANCE * np.ptp(expected)


@pytest.mark.slow
def test_the_example_draws_the_models_pictures(model, program, tmp_path):
  """In a process where this package cannot be imported."""
  process = subprocess.run(
    [
      sys.executable, '-c', _WITHOUT_US, _EXAMPLE, program, tmp_path / 'out',
      '0', '1', '--trunc', '0.7',
    ],
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )  # fmt: skip
  assert process.returncode == 0, process.stderr
  z = model_lib.seed_latents([0, 1], model.z_dim)
  images = model(z, _labels(model, 2), truncation_psi=0.7)
  expected = grids.to_uint8(np.asarray(images)).astype(int)
  assert len(process.stdout.splitlines()) == 2
  for seed in (0, 1):
    drawn = Image.open(tmp_path / 'out' / f'seed{seed:04d}.png')
    assert drawn.mode == ('L' if model.img_channels == 1 else 'RGB')
    drawn = np.asarray(drawn).reshape(expected[seed].shape)
    # A value at the edge of a level may fall to either side.
    assert np.abs(drawn - expected[seed]).max() <= 1
    assert np.mean(drawn != expected[seed]) < 1e-3


@pytest.mark.parametrize('folder', ['stylegan2_32', 'grey'], indirect=True)
def test_the_batch_is_of_any_size(model, program):
  exported = export.deserialize(bytearray(program.read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  z = np.random.RandomState(0).randn(3, model.z_dim).astype(np.float32)
  expected = model(z, _labels(model, 3), truncation_psi=0.5)
  call = jax.jit(exported.call)
  for n in (3, 1):
    _assert_close(call(**_inputs(model, z[:n], 0.5)), expected[:n])


def test_what_is_known_of_it_lies_beside_it(model, program):
  about = json.loads(program.with_name('g.stablehlo.json').read_text())
  exported = export.deserialize(bytearray(program.read_bytes()))
  names = jax.tree.unflatten(exported.in_tree, exported.in_avals)[1]
  assert about['inputs'] == {
    name: {
      'shape': [n if isinstance(n, int) else str(n) for n in x.shape],
      'dtype': str(x.dtype),
    }
    for name, x in names.items()
  }
  side = model.resolution
  assert about['output'] == {
    'shape': ['batch', side, side, model.img_channels],
    'dtype': 'float32',
    'layout': 'NHWC',
    'range': [-1, 1],
  }
  assert (about['label_dim'], about['num_ws'], about['z_dim']) == (
    model.label_dim, model.num_ws, model.z_dim,
  )  # fmt: skip
  version = about['calling_convention_version']
  assert version == exported.calling_convention_version
  digest = hashlib.sha256(program.read_bytes()).hexdigest()
  assert about['sha256'] == digest
  assert about['source'] == {'file': 'x.pkl'}
  assert '6 months' in about['compatibility']
  assert about['platforms'] == ['cpu', 'cuda', 'tpu']


def test_programs_are_of_plain_operators(program):
  """Custom calls are not promised to be understood by later versions."""
  exported = export.deserialize(bytearray(program.read_bytes()))
  calls = set(re.findall(r'custom_call @(\w+)', exported.mlir_module()))
  # Checks of the batch's size, which JAX takes out again.
  assert calls <= {'shape_assertion'}


def test_halves_are_the_whole_with_styles_in_between():
  path = _CHECKPOINTS['stylegan2_32']
  converted = convert.convert(files.read(path)[0])
  arrays = converted.networks['generator_ema']
  mapping, synthesis = (
    export.deserialize(
      bytearray(stablehlo.export_program(part, converted.model, arrays)[0])
    ).call
    for part in ('mapping', 'synthesis')
  )
  model = model_lib.Model({'model': converted.model}, converted.networks)
  z = np.random.RandomState(0).randn(2, model.z_dim).astype(np.float32)
  ws = mapping(z=z, truncation_psi=np.float32(1))
  _assert_close(ws, model.mapping(z))
  mean = mapping(z=z, truncation_psi=np.float32(0))
  w_avg = arrays['moving_averages']['w_avg']
  _assert_close(mean, np.broadcast_to(w_avg, ws.shape))
  mixed = np.concatenate([mean[:, :3], ws[:, 3:]], axis=1)
  _assert_close(synthesis(ws=mixed), model.synthesis(mixed))


def test_wrong_exports_are_one_clear_error(converted_small, tmp_path):
  output = tmp_path / 'd.stablehlo'
  with pytest.raises(ValueError, match=r'discriminator cannot .* \.stablehlo'):
    _run_export(network=tmp_path, output=output, of='discriminator')
  with pytest.raises(ValueError, match=r'mapping cannot be written as \.npz'):
    _run_export(network=tmp_path, output=tmp_path / 'm.npz', of='mapping')
  with pytest.raises(ValueError, match=r'\.npz, \.safetensors or \.stablehlo'):
    _run_export(network=tmp_path, output=tmp_path / 'g.onnx')
  with pytest.raises(
    ValueError, match='part must be one of generator_ema, mapping'
  ):
    stablehlo.export_program('discriminator', *converted_small)
  assert list(tmp_path.iterdir()) == []


def test_files_are_never_overwritten(tmp_path):
  path = tmp_path / 'g.stablehlo'
  about = tmp_path / 'g.stablehlo.json'
  about.write_text('mine')
  with pytest.raises(FileExistsError, match='json exists: choose another name'):
    model_files.save_program(path, b'program', {})
  assert [p.name for p in tmp_path.iterdir()] == [about.name]
  about.unlink()
  path.write_text('mine')
  with pytest.raises(FileExistsError, match='hlo exists: choose another name'):
    _run_export(network=tmp_path, output=path)
  assert path.read_text() == 'mine'
  path.unlink()
  with pytest.raises(TypeError):
    model_files.save_program(path, b'program', {'source': b''})
  assert list(tmp_path.iterdir()) == []


def test_a_missing_serializer_is_named(converted_small, monkeypatch):
  monkeypatch.setitem(sys.modules, 'flatbuffers', None)
  with pytest.raises(ImportError, match='pip install flatbuffers'):
    stablehlo.export_program('mapping', *converted_small)


@pytest.fixture(scope='module')
def converted_small():
  model, networks = official_networks.networks('small')
  return model, networks['generator_ema'][1]
