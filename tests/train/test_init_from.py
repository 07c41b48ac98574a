"""Runs that start from the networks of another, and layers that stay."""

import json

import jax
import noise
import numpy as np
import pytest
import tiny

from sg3jax.eval import evaluators
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import config as config_lib
from sg3jax.train import init_from as init_from_lib
from sg3jax.train import loop, sharding
from sg3jax.train.step import build, freeze
from sg3jax.types import Snapshot


class _Scenes(noise.Noise):
  unused_labels = 'the names hold labels'

  def __init__(self):
    super().__init__(label_dim=2, one_hot=False)


def _config(init_from=None, label_dim=2, resolution=16, **train):
  config = tiny.tiny_config(total_kimg=0.016, **train)
  config.model.resolution = resolution
  config.data.cond = label_dim > 0
  config.train.init_from = init_from and str(init_from)
  config_lib.resolve(config, img_channels=3, label_dim=label_dim)
  return config


def _random_state(config, seed=1):
  """Returns a state of random arrays, as far as networks go."""
  rng = np.random.RandomState(seed)

  def draw(path, x):
    values = np.asarray(rng.standard_normal(x.shape), x.dtype)
    name = jax.tree_util.keystr(path)
    if 'fc' in name:  # Of mapping networks, which learn slowly.
      values = values * 100
    if "['out']" in name:  # Small scores: the losses have gradients.
      values = values / 100
    return 1 + abs(values) if 'moving_averages' in name else values

  trainer = build.make_trainer(config)
  shapes = jax.eval_shape(trainer.init, jax.random.key(0))
  state = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
  networks = jax.tree.map_with_path(
    draw, {name: getattr(shapes, name) for name in init_from_lib.NETWORKS}
  )
  return state.replace(step=np.int32(2), nimg=np.int32(16), **networks)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A run of two steps, as it is left behind; and its state."""
  workdir = tmp_path_factory.mktemp('source')
  config = _config()
  state = _random_state(config)
  checkpoints = checkpoint_lib.Checkpoints(workdir)
  checkpoints.save(jax.tree.map(jax.numpy.asarray, state), config.to_dict())
  checkpoints.close()
  return workdir, state


def _prepare(config, workdir='new'):
  return init_from_lib.prepare(config, build.make_trainer(config), workdir)


def test_a_source_that_fits_is_taken_whole(source):
  workdir, state = source
  start = _prepare(_config(workdir))
  assert start
  for name in init_from_lib.NETWORKS:
    ours, theirs = (
      dict(jax.tree.leaves_with_path(tree))
      for tree in (start.networks[name], getattr(state, name))
    )
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
      np.testing.assert_array_equal(ours[path], value)
  # Arrays of G, once, and of D.
  count = sum(
    len(jax.tree.leaves(getattr(state, name)))
    for name in ('generator', 'discriminator')
  )
  assert start.report == (
    f'Transfer:       all {count} arrays of {workdir}, step 2',
  )


def test_another_resolution_is_refused_with_the_difference(source):
  config = _config(source[0], resolution=32)
  with pytest.raises(ValueError, match='does not fit') as error:
    _prepare(config)
  lines = str(error.value).splitlines()
  assert lines[0] == (
    f'train.init_from={source[0]} does not fit: the source has 16 pixels a '
    'side, this run 32'
  )
  assert any(line.startswith('  with a different shape, ') for line in lines)
  assert any(line.startswith('  not in the source, ') for line in lines)
  # 16 pixels have the blocks b16, b8 and b4; 32, also b32 with the lifting.
  assert '    discriminator/b32/conv0/bias: 2' in lines
  assert '    discriminator/b16/fromrgb/bias: 4' in lines
  assert lines.count('    and 3 more') <= 3
  assert 'train.init_partial' in lines[-1]
  assert len(lines) < 20


@pytest.mark.parametrize(
  ('change', 'hint'),
  [
    (
      {'model.img_channels': 1},
      'the source has 3 image channels, the data have 1',
    ),
    (
      {'model.label_dim': 0},
      'the source has 2 label features, the data have 0',
    ),
    ({'model.z_dim': 4}, 'model.z_dim is 8 in the source, 4 here'),
    (
      {'model.discriminator.channel_max': 4},
      'model.discriminator.channel_max is 8 in the source, 4 here',
    ),
    # The same arrays would mean another function.
    (
      {'model.synthesis.filter_size': 4},
      'model.synthesis.filter_size is 6 in the source, 4 here',
    ),
  ],
)
def test_what_differs_is_said_in_a_sentence(source, change, hint):
  config = _config(source[0])
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match='does not fit: ') as error:
    _prepare(config)
  assert hint in str(error.value).splitlines()[0]


def test_precision_and_groups_may_differ(source):
  config = _config(source[0])
  config.model.precision = 'bf16'
  config.model.discriminator.mbstd_group = 2
  assert _prepare(config)


def test_a_part_is_copied_if_asked_for(source):
  config = _config(source[0], label_dim=0, init_partial=True)
  start = _prepare(config)
  assert start
  fresh = jax.tree.map(jax.numpy.asarray, _random_state(config, seed=2))
  state, theirs = start.enter(fresh), source[1]
  for name in ('generator', 'generator_ema'):
    ours = getattr(state, name)['params']
    for part, origin in (
      ('synthesis', getattr(theirs, name)),
      # Its input is z alone here, and z and the label there.
      ('mapping', getattr(fresh, name)),
    ):
      layer = {'synthesis': 'L0', 'mapping': 'fc0'}[part]
      np.testing.assert_array_equal(
        ours[part][layer]['weight'], origin['params'][part][layer]['weight']
      )
  assert set(state.generator['params']['mapping']) == {'fc0', 'fc1'}
  np.testing.assert_array_equal(
    state.generator['moving_averages']['w_avg'],
    theirs.generator['moving_averages']['w_avg'],
  )
  np.testing.assert_array_equal(
    state.generator_opt[0].count, fresh.generator_opt[0].count
  )
  lines = '\n'.join(start.report)
  assert 'Warning: the source has 2 label features, the data have 0' in lines
  assert '\n  copied        generator/mapping/fc1: bias, weight\n' in lines
  assert (
    '\n  skipped       generator/mapping/fc0: weight, different shape\n'
    in lines
  )
  assert 'generator/mapping/embed: bias, weight, not needed here' in lines


def test_new_arrays_are_listed(source):
  start = _prepare(_config(source[0], resolution=32, init_partial=True))
  assert start
  assert (
    '  new           discriminator/b32/conv0: bias, weight, not in the source'
  ) in start.report


def test_networks_of_any_origin_do(source):
  """Sources without G start it from G_ema; those without D are partial."""
  whole = checkpoint_lib.load_networks(source[0])[1]
  config = _config('anywhere')
  trainer = build.make_trainer(config)

  def prepare(*names):
    networks = {name: whole[name] for name in names}
    return init_from_lib.prepare(
      config, trainer, 'new', lambda path: ({}, networks, 0)
    )

  start = prepare('generator_ema', 'discriminator')
  assert start
  assert start.networks['generator'] is whole['generator_ema']
  assert start.report[0].endswith(' arrays of anywhere')
  with pytest.raises(ValueError, match='  not in the source, '):
    prepare('generator_ema')


def test_nothing_at_all_is_no_start():
  config = _config('empty', init_partial=True)
  with pytest.raises(
    ValueError, match=r'^nothing of train.init_from=empty fits'
  ):
    init_from_lib.prepare(
      config,
      build.make_trainer(config),
      'new',
      lambda path: ({}, {'generator_ema': {}}, 0),
    )


def test_a_source_that_is_absent_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='no run or checkpoint folder'):
    _prepare(_config(tmp_path / 'nowhere'))


def test_transfer_settles_what_only_new_networks_need():
  config = tiny.tiny_config('r', init_from='somewhere')
  reasons = config_lib.resolve(config, img_channels=3, label_dim=0)
  train = config.train
  assert (train.blur_fade_kimg, train.ema_rampup) == (0, 0)
  assert train.augment.speed_kimg == 100
  for expected in (
    'train.blur_fade_kimg = 0: published for transfer',
    'train.ema_rampup = 0: published for transfer',
    'train.augment.speed_kimg = 100: published for transfer',
  ):
    assert expected in reasons
  given = tiny.tiny_config('r', init_from='somewhere', ema_rampup=0.1)
  given.train.augment.speed_kimg = 300.0
  given.train.blur_fade_kimg = 10.0
  config_lib.resolve(given, img_channels=3, label_dim=0)
  assert (given.train.ema_rampup, given.train.blur_fade_kimg) == (0.1, 10)
  assert given.train.augment.speed_kimg == 300
  new = tiny.tiny_config('r')
  config_lib.resolve(new, img_channels=3, label_dim=0)
  assert (new.train.ema_rampup, new.train.blur_fade_kimg) == (0.05, 50)
  assert new.train.augment.speed_kimg == 500


def test_a_part_of_nothing_is_refused():
  config = tiny.tiny_config(init_partial=True)
  with pytest.raises(ValueError, match=r'set train\.init_from'):
    config_lib.resolve(config, img_channels=3, label_dim=0)


def _frozen(label_dim=0, resolution=1024, **options):
  config = _config(label_dim=label_dim)
  config.model.resolution = resolution
  trainer = build.make_trainer(config)
  return freeze.make_frozen(trainer.generator, trainer.discriminator, **options)


def test_ten_layers_are_three_blocks_and_thirteen_are_four():
  ten = _frozen(discriminator_layers=10).discriminator
  assert ten[:4] == tuple(
    ('b1024', name) for name in ('fromrgb', 'conv0', 'conv1', 'skip')
  )
  assert {block for block, _ in ten} == {'b1024', 'b512', 'b256'}
  thirteen = _frozen(discriminator_layers=13).discriminator
  assert thirteen[:10] == ten
  assert {block for block, _ in thirteen[10:]} == {'b128'}
  # Eight blocks of three, the lifting, and the convolution at 4 pixels.
  assert _frozen(discriminator_layers=26).discriminator[-1] == ('b4', 'conv')


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'discriminator_layers': 27}, 'between 0 and 26, the conv.* got 27'),
    ({'discriminator_layers': -1}, 'between 0 and 26'),
    ({'generator_parts': ['style']}, "'style': use mapping, synthesis, embed"),
    ({'generator_parts': ['embedding']}, 'embedding, but .* no labels'),
  ],
)
def test_parts_that_are_not_there(options, message):
  with pytest.raises(ValueError, match=rf'^train\.freeze_.*{message}'):
    _frozen(**options)


def test_gradients_of_frozen_parts_are_zero():
  grads = {
    'mapping': {'fc0': {'bias': np.full(2, np.nan)}, 'embed': np.ones(2)}
  }
  frozen = _frozen(2, generator_parts=['mapping']).generator
  assert frozen == (('mapping', 'fc0'), ('mapping', 'fc1'))
  result = freeze.zero_gradients(grads, frozen)
  np.testing.assert_array_equal(result['mapping']['fc0']['bias'], [0, 0])
  np.testing.assert_array_equal(result['mapping']['embed'], [1, 1])


@pytest.fixture(scope='module')
def run(source, tmp_path_factory, shared_programs):
  """Two steps from the source, the first seven layers of D and G's mapping and
  synthesis frozen: only the embedding and the rest of D learn."""
  workdir = tmp_path_factory.mktemp('runs') / 'new'
  mesh = sharding.make_mesh(1)
  scenes = _Scenes()
  evaluator = evaluators.SnapshotEvaluator(
    scenes, metrics=(), num_samples=8, grid=(4, 2), seed=0, mesh=mesh
  )

  def train(init_from=str(source[0])):
    config = tiny.tiny_config(total_kimg=0.016, init_from=init_from)
    config.data.cond = True
    config.train.freeze_d = 7
    config.train.freeze_g = ('mapping,synthesis',)
    return loop.train(
      config, scenes, workdir, mesh=mesh, evaluators=[evaluator]
    )

  return workdir, train(), train, evaluator


def _flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(x)
    for path, x in jax.tree.leaves_with_path(tree)
  }


@pytest.mark.slow
def test_frozen_parts_stay_to_the_bit_and_others_move(source, run):
  state, theirs = run[1], source[1]
  assert int(state.step) == 2
  for network, frozen in (
    ('generator', ('mapping/fc', 'synthesis/')),
    ('discriminator', ('b16/', 'b8/')),
  ):
    after = _flat(getattr(state, network)['params'])
    before = _flat(getattr(theirs, network)['params'])
    opt = _flat(getattr(state, f'{network}_opt'))
    for name, value in before.items():
      assert np.all(np.isfinite(after[name]))
      moments = [x for path, x in opt.items() if path.endswith(name)]
      assert len(moments) == 2
      if name.startswith(frozen):
        assert after[name].tobytes() == value.tobytes(), name
        assert not any(np.any(x) for x in moments), name
      else:
        assert np.any(after[name] != value), name
  averages = _flat(state.generator['moving_averages'])
  for name, value in _flat(theirs.generator['moving_averages']).items():
    assert np.array_equal(averages[name], value) == (name != 'w_avg'), name
  # What does not learn keeps its random frequencies too.
  for name, value in _flat(theirs.generator['buffers']).items():
    np.testing.assert_array_equal(
      _flat(state.generator['buffers'])[name], value
    )


@pytest.mark.slow
def test_the_first_pictures_are_those_of_the_source(source, run, tmp_path):
  workdir, _, _, evaluator = run
  evaluator(
    Snapshot(
      workdir=tmp_path,
      kimg=0.0,
      is_last=False,
      generator=build.make_trainer(_config()).generator,
      variables=source[1].generator_ema,
    )
  )
  first = (workdir / 'fakes_init.png').read_bytes()
  assert first == (tmp_path / 'fakes_init.png').read_bytes()
  assert first != (workdir / 'fakes000000.png').read_bytes()


@pytest.mark.slow
def test_the_log_and_the_options_tell(source, run):
  workdir, _, train, _ = run
  text = (workdir / 'log.txt').read_text()
  assert f'arrays of {source[0]}, step 2' in text
  assert 'Settled:        train.ema_rampup = 0: published for transfer' in text
  assert (
    'Frozen:         G mapping/fc0, G mapping/fc1, G synthesis, D b16/'
    in (text)
  )
  options = json.loads((workdir / 'training_options.json').read_text())
  assert options['train']['init_from'] == str(source[0])
  # A resumed run has a state of its own.
  train()
  text = (workdir / 'log.txt').read_text()
  assert f'nothing more from {source[0]}: the run continues from its' in text
  with pytest.raises(ValueError, match=r'another configuration: .*init_from'):
    train(init_from=None)


def test_a_refusal_leaves_no_trace(source, tmp_path):
  config = _config(source[0])
  config.model.z_dim = 4
  with pytest.raises(ValueError, match='does not fit'):
    loop.train(config, _Scenes(), tmp_path / 'run', mesh=sharding.make_mesh(1))
  assert not (tmp_path / 'run').exists()


def test_fields_younger_than_the_source_count_as_their_defaults():
  here = tiny.tiny_config().model.to_dict()
  there = tiny.tiny_config().model.to_dict()
  del there['synthesis']['learned_transform']
  assert not list(
    init_from_lib._model_differences(init_from_lib._complete(there), here)
  )
  here['synthesis']['learned_transform'] = False
  (difference,) = init_from_lib._model_differences(
    init_from_lib._complete(there), here
  )
  assert difference == (
    'model.synthesis.learned_transform is True in the source, False here'
  )
