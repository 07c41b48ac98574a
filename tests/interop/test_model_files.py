"""Our own files, and the commands that write and open them."""

import hashlib
import json

import jax
import numpy as np
import official_networks
import pytest
import safetensors.numpy
from conftest import GOLDENS
from PIL import Image

import sg3jax
from sg3jax.interop import model_files
from sg3jax.interop.official import convert, files
from sg3jax.interop.torch_pickle import records


@pytest.fixture(scope='module')
def converted():
  return convert.convert(files.read_bytes(official_networks.checkpoint()))


@pytest.fixture
def folder(converted, tmp_path):
  path = tmp_path / 'model'
  model_files.save(path, converted.model, converted.networks, {'file': 'x.pkl'})
  return path


def test_models_are_kept_bit_for_bit(folder, converted):
  assert sorted(p.name for p in folder.iterdir()) == [
    'config.json', 'model.safetensors'
  ]  # fmt: skip
  modes = [path.stat().st_mode & 0o777 for path in folder.iterdir()]
  assert all(mode & 0o444 == 0o444 for mode in modes)
  options, networks = model_files.load(folder)
  assert options == {'model': converted.model}
  assert networks.keys() == {'generator_ema', 'discriminator'}
  for name, variables in networks.items():
    jax.tree.map(
      lambda a, b: np.testing.assert_array_equal(a, b, strict=True),
      variables,
      converted.networks[name],
    )
  assert model_files.load(folder, ['generator_ema'])[1].keys() == {
    'generator_ema'
  }
  config = json.loads((folder / 'config.json').read_text())
  assert config['source'] == {'file': 'x.pkl'}
  assert config['version'] == 1


def test_models_without_discriminator(converted, tmp_path):
  networks = {'generator_ema': converted.networks['generator_ema']}
  model_files.save(tmp_path / 'g', converted.model, networks, {})
  model = sg3jax.load_model(tmp_path / 'g')
  assert model.kimg == 0
  assert (model.resolution, model.z_dim, model.num_ws) == (16, 12, 5)
  with pytest.raises(ValueError, match='without a discriminator'):
    model.discriminate(np.zeros((1, 16, 16, 1), np.float32))


def test_folders_are_never_overwritten(folder, converted, tmp_path):
  before = {p.name: p.read_bytes() for p in folder.iterdir()}
  with pytest.raises(FileExistsError, match='not empty: choose another'):
    model_files.save(folder, converted.model, converted.networks, {})
  assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
  (tmp_path / 'empty').mkdir()
  model_files.save(tmp_path / 'empty', converted.model, converted.networks, {})
  assert model_files.is_model_folder(tmp_path / 'empty')


def test_a_failed_save_leaves_nothing(converted, tmp_path):
  with pytest.raises(TypeError, match='JSON'):
    model_files.save(
      tmp_path / 'model', converted.model, converted.networks, {'file': b''}
    )
  assert list(tmp_path.iterdir()) == []


def _rewrite(path, change):
  config = json.loads(path.read_text())
  change(config)
  path.write_text(json.dumps(config))


def test_damaged_models_are_one_clear_error(folder):
  config, arrays = folder / 'config.json', folder / 'model.safetensors'
  whole = arrays.read_bytes()
  arrays.write_bytes(whole[:-1])
  with pytest.raises(records.CheckpointError, match='safetensors is damaged'):
    sg3jax.load_model(folder)
  arrays.write_bytes(b'\xff' * 100)
  with pytest.raises(records.CheckpointError, match='safetensors is damaged'):
    sg3jax.load_model(folder)
  arrays.write_bytes(whole)
  _rewrite(config, lambda c: c['options']['model'].update(w_dim=8))
  with pytest.raises(records.CheckpointError, match=r'is \(.*, not \('):
    sg3jax.load_model(folder)
  _rewrite(config, lambda c: c.update(version=2))
  with pytest.raises(
    records.CheckpointError, match='of version 1, got 2: read'
  ):
    sg3jax.load_model(folder)
  _rewrite(config, lambda c: c.pop('format'))
  with pytest.raises(
    records.CheckpointError, match='must be the configuration'
  ):
    sg3jax.load_model(folder)
  config.write_text('{')
  with pytest.raises(records.CheckpointError, match='must be JSON'):
    sg3jax.load_model(folder)


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (lambda m: m.pop('generator'), "KeyError: 'generator'"),
    (lambda m: m.pop('z_dim'), "KeyError: 'z_dim'"),
    (lambda m: m.pop('synthesis'), "KeyError: 'synthesis'"),
    (lambda m: m.pop('discriminator'), "KeyError: 'discriminator'"),
    (lambda m: m.update(synthesis=[]), 'generator has an impossible design'),
    (lambda m: m.update(resolution='a'), 'generator has an impossible design'),
    (lambda m: m.update(precision=[]), 'generator has an impossible design'),
    (lambda m: m.update(discriminator={'x': 1}), 'discriminator has an imposs'),
  ],
)
def test_configurations_of_strangers(folder, change, match):
  _rewrite(folder / 'config.json', lambda c: change(c['options']['model']))
  with pytest.raises(records.CheckpointError, match=match) as caught:
    sg3jax.load_model(folder)
  assert folder.as_posix() in str(caught.value)


@pytest.mark.parametrize(
  ('source', 'kimg'),
  [
    ({'kimg': 12.5}, 12.5),
    ({'kimg': 3}, 3.0),
    ({}, 0.0),
    ([], 0.0),
    ({'kimg': '12'}, 0.0),
    ({'kimg': -1}, 0.0),
    ({'kimg': float('nan')}, 0.0),
    ({'kimg': float('inf')}, 0.0),
    ({'kimg': 10**400}, 0.0),
  ],
)
def test_images_shown_are_those_of_the_source_if_it_states_them(
  folder, source, kimg
):
  _rewrite(folder / 'config.json', lambda c: c.update(source=source))
  assert sg3jax.load_model(folder).kimg == kimg


@pytest.mark.parametrize(
  ('text', 'match'),
  [
    ('[' * 200_000, 'must be JSON'),
    ('1' * 5000, 'must be JSON'),
    (
      '{"format": "sg3jax.model", "version": ' + '[' * 500 + ']' * 500 + '}',
      'of version 1, got a list',
    ),
    (
      '{"format": "sg3jax.model", "version": 1, "options": {"model": null}}',
      'no options of a model',
    ),
  ],
  ids=['deep', 'long', 'version', 'empty'],
)
def test_json_of_strangers(folder, text, match):
  (folder / 'config.json').write_text(text)
  with pytest.raises(records.CheckpointError, match=match):
    sg3jax.load_model(folder)


_ONE = np.zeros(1, np.float32)


@pytest.mark.parametrize(
  ('extra', 'match'),
  [
    ({'foo': _ONE}, "'foo' is an array of no network"),
    ({'evil/params/x': _ONE}, "'evil/params/x' is an array of no network"),
    ({'generator_ema': _ONE}, r'is \(1,\), not absent'),
    ({'generator_ema/params': _ONE}, r'params is \(1,\), not absent'),
    ({'generator_ema/params/mapping/fc0/bias/x': _ONE}, 'bias/x is .* absent'),
    ({'generator/params/x': _ONE}, 'arrays of the generator do not match'),
    ({'generator_ema/params/mapping/fc0/bias': np.zeros(16, int)}, 'is I64'),
    ({'generator_ema/params/mapping/fc0/bias': np.zeros(16)}, 'is F64, not'),
  ],
)
def test_arrays_of_strangers(folder, extra, match):
  path = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(path) | extra
  safetensors.numpy.save_file(arrays, path)
  with pytest.raises(records.CheckpointError, match=match) as caught:
    sg3jax.load_model(folder)
  assert folder.as_posix() in str(caught.value)


def test_links_are_refused_before_any_work(cli, tmp_path):
  (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(FileExistsError, match='is a link: choose another'):
    model_files.check_is_new(tmp_path / 'link')
  (tmp_path / 'link.npz').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(FileExistsError, match='choose another name'):
    model_files.check_is_new_file(tmp_path / 'link.npz', ['.npz', '.x'])
  # No file is read.
  status, _, error = cli('import', 'no.pkl', f'--output={tmp_path / "link"}')
  assert status == 1
  assert 'is a link' in error


def test_official_files_are_to_be_imported_first(tmp_path):
  (tmp_path / 'net.pkl').write_bytes(official_networks.checkpoint())
  with pytest.raises(ValueError, match=r'`sg3jax import .*net\.pkl --output'):
    sg3jax.load_model(tmp_path / 'net.pkl')


@pytest.mark.slow
def test_commands_from_a_pickle_to_pictures(cli, converted, tmp_path):
  """Import, pictures, figures and export, each by its command."""
  pkl, folder = tmp_path / 'net.pkl', tmp_path / 'model'
  pkl.write_bytes(official_networks.checkpoint())
  status, out, error = cli('import', pkl, f'--output={folder}')
  assert status == 0, error
  for line in (
    'StyleGAN3-R, 16 pixels, 1 channel, 0 labels',
    'generator_ema: ',
    'arrays that follow from the design',
    'keep the licence',
  ):
    assert line in out
  config = json.loads((folder / 'config.json').read_text())
  assert config['source']['file'] == 'net.pkl'
  digest = hashlib.sha256(pkl.read_bytes()).hexdigest()
  assert config['source']['sha256'] == digest

  status, out, error = cli(
    'generate', f'--network={folder}', '--seeds=0-1', f'--outdir={tmp_path}'
  )
  assert status == 0, error
  model = sg3jax.load_model(folder)
  image = model(sg3jax.model.seed_latents([1], model.z_dim))[0]
  pixels = np.clip(np.asarray(image) * 127.5 + 128, 0, 255).astype(np.uint8)
  saved = np.asarray(Image.open(tmp_path / 'seed0001.png'))
  # One rounding step, where another batch size sums in another order.
  assert np.abs(saved.astype(int) - pixels[..., 0]).max() <= 1

  status, out, error = cli(
    'evaluate', f'--network={folder}', '--metrics=eqt', '--samples=4'
  )
  assert status == 0, error
  assert json.loads(out.splitlines()[-1])['kimg'] == 0

  output = tmp_path / 'd.safetensors'
  status, out, error = cli(
    'export', f'--network={folder}', '--of=discriminator', f'--output={output}'
  )
  assert status == 0, error
  expected = convert.export(
    'discriminator', converted.model, converted.networks['discriminator']
  )
  found = safetensors.numpy.load_file(output)
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.slow
def test_stylegan2_is_imported_by_the_command(cli, tmp_path):
  pkl = GOLDENS / 'official_stylegan2_32.pkl'
  status, out, error = cli('import', pkl, f'--output={tmp_path / "model"}')
  assert status == 0, error
  assert 'StyleGAN2 (skip), 32 pixels, 3 channels, 0 labels' in out
  assert sg3jax.load_model(tmp_path / 'model').num_ws == 8
  # It has the G in training too, which is another.
  for network, of in (('G', 'generator'), ('G_ema', 'generator_ema')):
    output = tmp_path / f'{network}.npz'
    status, _, error = cli(
      'export', f'--network={tmp_path / "model"}', f'--of={of}',
      f'--output={output}',
    )  # fmt: skip
    assert status == 0, error
    found = dict(np.load(output))
    module = files.read(pkl)[0][network]
    part = module.submodule('mapping').submodule('fc0').part('_parameters')
    np.testing.assert_array_equal(
      found['mapping.fc0.weight'], part['weight'].numpy(), strict=True
    )


def test_models_without_a_network_cannot_export_it(folder, cli, tmp_path):
  status, _, error = cli(
    'export', f'--network={folder}', '--of=generator',
    f'--output={tmp_path / "g.npz"}',
  )  # fmt: skip
  assert status == 1
  assert 'the model has no generator' in error


def test_wrong_imports_are_one_clear_error(cli, tmp_path):
  pkl = tmp_path / 'net.pkl'
  pkl.write_bytes(b'\x80\x04cos\nsystem\n\x8c\x04true\x85R.')
  status, out, error = cli('import', pkl, f'--output={tmp_path / "new"}')
  assert (status, out) == (1, '')
  assert error.startswith(f"error: {pkl}: the checkpoint asks for 'os.system'")
  assert not (tmp_path / 'new').exists()
  status, _, error = cli('import', pkl, f'--output={tmp_path}')
  assert status == 1
  assert 'not empty: choose another folder' in error
  status, _, error = cli('import', f'--output={tmp_path}')
  assert status == 1
  assert 'a FILE is required' in error


@pytest.mark.parametrize('name', ['g.npz', 'g.safetensors'])
def test_arrays_under_official_names(converted, tmp_path, name):
  arrays = convert.export(
    'generator_ema', converted.model, converted.networks['generator_ema']
  )
  model_files.save_arrays(tmp_path / name, arrays)
  found = (
    dict(np.load(tmp_path / name))
    if name.endswith('npz')
    else safetensors.numpy.load_file(tmp_path / name)
  )
  assert found.keys() == arrays.keys()
  for key, array in arrays.items():
    np.testing.assert_array_equal(found[key], array, strict=True)
  assert [p.name for p in tmp_path.iterdir()] == [name]
  with pytest.raises(FileExistsError, match='choose another name'):
    model_files.save_arrays(tmp_path / name, arrays)
  with pytest.raises(ValueError, match=r'\.npz or \.safetensors'):
    model_files.save_arrays(tmp_path / 'g.pt', arrays)
