"""Imported models in the commands that runs are used with: train and so on."""

import json

import numpy as np
import official_networks
import pytest
from conftest import GOLDENS
from PIL import Image

import sg3jax
from sg3jax import model as model_lib
from sg3jax.interop import model_files
from sg3jax.interop.official import convert, files
from sg3jax.train import config as config_lib
from sg3jax.train import init_from
from sg3jax.train.config import files as config_files
from sg3jax.train.step import build

_GOLDENS = ('stylegan3_t32', 'stylegan3_r32_cond', 'stylegan2_32')


@pytest.fixture(scope='module')
def imported(tmp_path_factory):
  """`imported('stylegan3_t32')` is the folder of that model."""
  folders = {}

  def get(name):
    if name not in folders:
      data = (
        official_networks.checkpoint(name)
        if name in ('small', 'unusual')
        else (GOLDENS / f'official_{name}.pkl').read_bytes()
      )
      converted = convert.convert(files.read_bytes(data))
      folders[name] = tmp_path_factory.mktemp('imported') / name
      model_files.save(
        folders[name], converted.model, converted.networks, {'file': name}
      )
    return folders[name]

  return get


def _get_config(argument, name='finetune'):
  """Returns the configuration as `--config=finetune:ARGUMENT` finds it."""
  path = config_files.locate(name)
  scope = {}
  with open(path) as file:
    exec(compile(file.read(), path, 'exec'), scope)
  return scope['get_config'](argument)


def _prepare(config, model):
  """Returns what a run starts from; its data are like those of the model."""
  config.model.filtered_lrelu_implementation = 'reference'  # Traced fastest.
  channels = model['img_channels']
  config_lib.resolve(
    config, img_channels=channels, label_dim=model['label_dim']
  )
  return init_from.prepare(
    config, build.make_trainer(config), 'new', read=model_lib.read_networks
  )


@pytest.mark.parametrize('name', [*_GOLDENS, 'small', 'unusual'])
def test_every_field_of_the_networks_is_that_of_the_source(name, imported):
  """Also the clamp, the output's scale and all others that are unusual."""
  folder = imported(name)
  config = _get_config(f'{folder},batch=16,gamma=2')
  model = model_lib.read_options(folder)['model']
  assert config.data.cond == (model['label_dim'] > 0)
  assert (config.train.batch, config.train.r1_gamma) == (16, 2)
  assert config.model.precision == 'bf16'
  start = _prepare(config, model)
  assert start
  assert start.report[0].startswith('Transfer:       all ')
  ours = config.model.to_dict()
  for field, value in model.items():
    if isinstance(value, dict):
      assert value.items() <= ours[field].items()
    elif field not in ('precision', 'filtered_lrelu_implementation'):
      assert ours[field] == value
  # As the configuration of these networks trains them.
  is_2 = name.startswith('stylegan2')
  assert config.train.pl_weight == (2 if is_2 else 0)
  assert config.train.style_mixing_prob == (0.9 if is_2 else 0)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('output_scale', 0.25),
    ('conv_clamp', 256.0),
    ('conv_clamp', None),
    ('discriminator.conv_clamp', 2.0),
    ('discriminator.mapping_layers', 2),
    ('synthesis.lrelu_upsampling', 2),
  ],
)
def test_networks_of_another_function_are_refused(field, value, imported):
  """Even where their arrays fit; and the message names the remedy."""
  folder = imported('unusual')
  config = _get_config(str(folder))
  model = model_lib.read_options(folder)['model']
  config.model.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match='does not fit: ') as error:
    _prepare(config, model)
  assert f'model.{field} is ' in str(error.value).splitlines()[0]
  assert f'\nconfig=finetune:{folder} takes' in str(error.value)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_the_usual_clamp_comes_and_goes_with_the_precision(precision, imported):
  folder = imported('stylegan3_t32')
  config = _get_config(str(folder))
  model = model_lib.read_options(folder)['model']
  assert model['conv_clamp'] == 256
  config.model.precision = precision
  config.model.conv_clamp = config.model.discriminator.conv_clamp = None
  assert _prepare(config, model)


def test_sources_that_cannot_be_are_one_clear_error(imported, tmp_path):
  with pytest.raises(ValueError, match='config=finetune:FOLDER'):
    _get_config('')
  with pytest.raises(ValueError, match='no run or checkpoint folder'):
    _get_config(str(tmp_path / 'nowhere'))
  (tmp_path / 'net.pkl').write_bytes(b'')
  with pytest.raises(ValueError, match=r'`sg3jax import .*net\.pkl'):
    _get_config(str(tmp_path / 'net.pkl'))
  with pytest.raises(ValueError, match="'bach=4' in the configuration"):
    _get_config(f'{imported("small")},bach=4')
  config = config_lib.default_config()
  with pytest.raises(ValueError, match=r'this sg3jax lacks: .*strange'):
    config_lib.take_model(config, {'strange': 1})


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """A folder of random images with labels of three classes."""
  folder = tmp_path_factory.mktemp('images')
  rng = np.random.RandomState(0)
  names = [f'{i:02d}.png' for i in range(16)]
  for name in names:
    pixels = rng.randint(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name)
  labels = [[name, i % 3] for i, name in enumerate(names)]
  (folder / 'dataset.json').write_text(json.dumps({'labels': labels}))
  return folder


def _succeeds(cli, *args):
  status, out, error = cli(*args)
  assert status == 0, error
  return out


@pytest.mark.exhaustive  # A minute.
@pytest.mark.slow
def test_a_stylegan2_learns_and_is_drawn_and_measured(cli, images, tmp_path):
  """Import, two training steps, pictures and figures, each by its command."""
  model, run = tmp_path / 'model', tmp_path / 'run'
  pkl = GOLDENS / 'official_stylegan2_32.pkl'
  _succeeds(cli, 'import', pkl, f'--output={model}')
  out = _succeeds(
    cli, 'train', f'--config=finetune:{model},batch=4', f'--workdir={run}',
    f'--config.data.source={images}', '--config.train.total_kimg=0.008',
    '--config.train.augment.mode=none', '--config.log.kimg_per_tick=0.008',
    '--config.log.grid=(2,2)', '--config.model.precision=fp32',
  )  # fmt: skip
  assert f'all 91 arrays of {model}' in out
  before, after = sg3jax.load_model(model), sg3jax.load_model(run)
  assert (after.step, after.num_ws) == (2, before.num_ws)
  z = model_lib.seed_latents([0], after.z_dim)
  # Two steps at a rate of 0.002 move pictures a little.
  difference = np.abs(np.asarray(before(z)) - np.asarray(after(z))).max()
  assert 0 < difference < 0.2 * np.ptp(before(z))
  # A run can be gone on from in the same way.
  config = _get_config(str(run))
  assert config.model.precision == 'fp32'
  start = _prepare(config, model_lib.read_options(run)['model'])
  assert start
  assert start.report[0] == f'Transfer:       all 91 arrays of {run}, step 2'
  out = _succeeds(
    cli, 'export', f'--network={run}', f'--output={tmp_path / "g.stablehlo"}'
  )
  assert "(z, truncation_psi) -> ['batch', 32, 32, 3], " in out
  about = json.loads((tmp_path / 'g.stablehlo.json').read_text())
  assert about['source'] == {'step': 2}
  for network in (model, run):
    outdir = tmp_path / f'out_{network.name}'
    _succeeds(
      cli, 'generate', f'--network={network}', '--seeds=0',
      f'--outdir={outdir}', '--noise_mode=none',
    )  # fmt: skip
    assert Image.open(outdir / 'seed0000.png').size == (32, 32)
  out = _succeeds(
    cli, 'evaluate', f'--network={model}', '--metrics=swd',
    f'--data={images}', '--samples=16',
  )  # fmt: skip
  assert 'swd' in json.loads(out.splitlines()[-1])
  status, _, error = cli('evaluate', f'--network={model}', '--metrics=eqt')
  assert status == 1
  assert error.startswith('error: ')


@pytest.mark.slow
def test_a_conditional_r_is_drawn_and_measured(cli, images, tmp_path):
  model = tmp_path / 'model'
  pkl = GOLDENS / 'official_stylegan3_r32_cond.pkl'
  _succeeds(cli, 'import', pkl, f'--output={model}')
  _succeeds(
    cli, 'generate', f'--network={model}', '--seeds=0', '--class=1',
    '--trunc=0.7', f'--outdir={tmp_path}',
  )  # fmt: skip
  assert Image.open(tmp_path / 'seed0000.png').size == (32, 32)
  out = _succeeds(
    cli, 'evaluate', f'--network={model}', '--metrics=eqt', '--samples=4',
    f'--data={images}',
  )  # fmt: skip
  assert 'eqt50k_int' in json.loads(out.splitlines()[-1])
