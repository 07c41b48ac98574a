"""Options of the commands: wrong ones end with one line, help lists all."""

import pathlib
import subprocess
import sys
import tracemalloc

import in_process
import numpy as np
import pytest
import tiny_run

from sg3jax import launch
from sg3jax.cli import evaluate, generate, image_flags, train

_CONFIG = tiny_run.__file__


_TRAIN = ('train', '--workdir=never-made')


_GENERATE = ('generate', '--network=nowhere', '--outdir=never-made')


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      (*_TRAIN, '--config=quickstart', '--config.train.bathc=8'),
      'Did you mean "batch" instead of "bathc"?',
    ),
    (
      (*_TRAIN, '--config=quickstrat'),
      "no configuration 'quickstrat': use demo, few_images, finetune, ladder, "
      'published, quickstart, stylegan2, stylegan3_r, stylegan3_t',
    ),
    (
      (*_TRAIN, '--config=finetune:nowhere'),
      'there is no run or checkpoint folder',
    ),
    (
      (*_TRAIN, '--config=published:cats,t'),
      "the published run 'cats,t' is unknown: use DATA,MODEL",
    ),
    (
      (
        *_TRAIN,
        f'--config={_CONFIG}',
        '--config.data.source=embedded:8',
        '--init-from=nowhere',
      ),
      'there is no run or checkpoint folder',
    ),
    (
      (*_TRAIN, '--config', 'mine.py'),
      "there is no configuration 'mine.py'",
    ),
    (
      (*_TRAIN, '--config=stylegan3_t:64,bach=8'),
      'use resolution=NUMBER,batch=NUMBER,gamma=NUMBER',
    ),
    (
      (*_TRAIN, '--config=quickstart', '--config.train.batch=many'),
      '--config.train.batch=many',
    ),
    (
      (*_TRAIN, '--config=quickstart', '--config.train.batch=0'),
      '--config.train.batch must be at least 1, got 0',
    ),
    ((*_TRAIN, '--config=quickstart', '--wokers=2'), "flag 'wokers'"),
    (
      (*_TRAIN, '--config=quickstart', '--profile=5'),
      '--profile=5 is not understood: use FIRST:LAST',
    ),
    (
      (*_TRAIN, '--config=quickstart', '--config.data.source=nowhere'),
      "got 'nowhere', which does not exist",
    ),
    (
      (*_TRAIN, '--config=quickstart', '--devices=99'),
      'pass --devices of at most 4',
    ),
    (('train', '--config=quickstart'), '--workdir is required'),
    (('train', '--workdir=never-made'), '--config is required'),
    ((*_GENERATE, '--seeds=0'), 'there is no run or checkpoint folder'),
    (_GENERATE, '--seeds is required'),
    (
      (*_GENERATE, '--seeds=1,a'),
      "--seeds must be numbers and ranges, got 'a'",
    ),
    (
      (*_GENERATE, '--seeds=0', '--translate=1,b'),
      'two numbers X,Y in units of the image width, got 1,b',
    ),
    ((*_GENERATE, '0-3'), "'0-3': write options as --name=value"),
    (('evaluate', '--metrics=eqt'), '--network is required'),
    (('evaluate', '--network=nowhere'), 'no run or checkpoint folder'),
    (
      ('evaluate', '--network=nowhere', '--metrics=none'),
      '--metrics must name at least one metric, got none',
    ),
    (('evaluate', '--network=x', '--metrics=swt'), 'did you mean swd?'),
  ],
  ids=lambda value: ' '.join(value[1:]) if isinstance(value, tuple) else None,
)
def test_wrong_input_ends_with_one_clear_line(args, message):
  command, *options = args
  module = {'train': train, 'generate': generate, 'evaluate': evaluate}[command]
  assert message in in_process.error(module, *options)
  assert not pathlib.Path('never-made').exists()


@pytest.mark.parametrize('name', ['checkpoints/7', 'checkpoints/best', ''])
def test_figures_of_a_checkpoint_go_to_its_run(name):
  run = pathlib.Path('runs/a')
  assert launch.run_folder(str(run / name)) == run


def test_an_unknown_command_lists_the_commands(cli):
  status, _, error = cli('paint')
  assert status == 1
  assert error.startswith("error: there is no command 'paint'\nusage: sg3jax")
  assert 'generate' in error


def test_spec_prints_the_layers_and_draws_them(cli, tmp_path):
  status, out, error = cli(
    'spec', f'--config={_CONFIG}', f'--outdir={tmp_path}'
  )
  assert status == 0, error
  assert [line.split()[1] for line in out.splitlines()[:6]] == [
    'layer', '-----', 'input', 'L0', 'L1', 'ToRGB',
  ]  # fmt: skip
  assert 'Attenuation:    at least' in out
  assert {path.name for path in tmp_path.iterdir()} == {
    'layers.png',
    'filters.png',
  }


def test_spec_of_stylegan2_has_no_bands(cli, tmp_path):
  outdir = tmp_path / 'new'
  status, out, error = cli(
    'spec',
    f'--config={_CONFIG}',
    '--config.model.generator=stylegan2',
    f'--outdir={outdir}',
  )
  assert status == 1
  assert '| b16 ' in out
  assert "error: StyleGAN2's blocks have fixed binomial filters" in error
  assert not outdir.exists()


def test_help(cli):
  status, out, _ = cli('--help')
  assert status == 0
  for command in ('train', 'generate', 'evaluate', 'doctor'):
    assert f'\n  {command} ' in out


@pytest.mark.parametrize(
  ('command', 'options'),
  [
    ('train', ['config', 'workdir', 'devices', '[no]distributed', 'profile',
               '[no]allow_config_change', 'init_from', '[no]init_partial',
               '[no]plan', 'plan_memory']),
    ('generate', ['network', 'outdir', 'seeds', 'trunc', 'class', 'translate',
                  'rotate', '[no]overwrite', 'truncation_towards', 'label',
                  'precision', 'batch']),
    ('video', ['network', 'output', 'seeds', 'grid', 'w_frames', 'trunc',
               'camera', '[no]anchor', 'beside', 'frames', 'fps', 'class']),
    ('evaluate', ['network', 'metrics', 'data', 'samples', 'seed', 'devices',
                  'precision', 'batch']),
    ('doctor', ['devices']),
    ('spec', ['config', 'outdir']),
    ('sweep', ['file', 'outdir', 'mode', 'address', 'cpus_per_point',
               'gpus_per_point', 'resources_per_point', 'max_retries', 'only',
               '[no]retry_failed', '[no]rerun', '[no]rerun_changed',
               '[no]skip_invalid', '[no]list']),
  ],
)  # fmt: skip
def test_help_of_commands_lists_their_options(cli, command, options):
  status, out, error = cli(command, '--help')
  assert (status, error) == (0, '')
  assert f'\nsg3jax {command}' in out.replace('    ', '')  # An example.
  for option in options:
    assert f'\n  --{option}: ' in out


def test_the_console_command_is_the_module():
  script = pathlib.Path(sys.executable).parent / 'sg3jax'
  process = subprocess.run(
    [script, '--help'], capture_output=True, text=True, check=True
  )
  assert process.stdout.startswith('usage: sg3jax COMMAND')


@pytest.mark.parametrize(
  ('text', 'seeds'),
  [('3', [3]), ('0,1,4-6', [0, 1, 4, 5, 6]), ('2-2, 1', [2, 1])],
)
def test_parse_seeds(text, seeds):
  assert image_flags.parse_seeds(text) == seeds


@pytest.mark.parametrize('text', ['', '1,', '-1', '6-4', '1.5', '0-2-4'])
def test_parse_seeds_names_what_it_does_not_understand(text):
  with pytest.raises(ValueError, match=f'^--seeds must .* in {text}(: |$)'):
    image_flags.parse_seeds(text)


@pytest.mark.parametrize(
  ('index', 'numbers', 'label_dim', 'label'),
  [
    (None, None, 0, None),
    ('1', None, 3, [0, 1, 0]),
    ('02', None, 3, [0, 0, 1]),
    (None, ['0.5', '-2'], 2, [0.5, -2]),
  ],
)
def test_make_label(index, numbers, label_dim, label):
  made = image_flags.make_label(index, numbers, label_dim)
  if label is None:
    assert made is None
  else:
    np.testing.assert_array_equal(made, np.float32(label))


@pytest.mark.parametrize(
  ('index', 'numbers', 'label_dim', 'message'),
  [
    ('0', None, 0, '--class was given, but the network takes no labels'),
    (None, ['1'], 0, '--label was given, but the network takes no labels'),
    (None, None, 3, '--class=0 to --class=2, or --label with 3 numbers'),
    ('3', None, 3, 'no class --class=3: pass --class=0 to --class=2'),
    ('-1', None, 3, '--class=0 to --class=2'),
    ('cat', None, 3, 'no class --class=cat: pass --class=0'),
    ('9' * 5000, None, 3, '--class=0 to --class=2'),
    (None, ['1', '2'], 3, '--label must be 3 finite numbers X,Y,...,'),
    (None, ['a'], 1, 'with no --class, got a'),
    (None, ['nan'], 1, 'with no --class, got nan'),
    ('0', ['1'], 1, 'with no --class'),
  ],
)
def test_make_label_names_what_is_wrong(index, numbers, label_dim, message):
  with pytest.raises(ValueError, match=message):
    image_flags.make_label(index, numbers, label_dim)


@pytest.mark.parametrize(
  ('chosen', 'names', 'index'),
  [
    ('dog', ['cat', 'dog', '1'], 1),
    # A number is an index, though another class is called so.
    ('1', ['0', '2', '1'], 1),
    ('2', ['1', '2', '10'], 2),
    ('two words', ['cat', 'dog', 'two words'], 2),
  ],
)
def test_a_class_has_an_index_and_a_name(chosen, names, index):
  made = image_flags.make_label(chosen, None, 3, names)
  np.testing.assert_array_equal(made, np.eye(3)[index])


def test_the_names_of_classes_are_listed_where_one_is_unknown():
  with pytest.raises(ValueError, match=r'--class=bird: .*its name: cat, dog\)'):
    image_flags.make_label('bird', None, 2, ['cat', 'dog'])


def test_a_label_of_many_classes_is_made_alone():
  tracemalloc.start()
  made = image_flags.make_label('7', None, 20_000)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert (made.argmax(), made.sum()) == (7, 1)
  assert peak < 2**20  # Not of all classes, which take 1.5 GiB.


def test_data_that_number_their_classes_differently_are_refused():
  evaluate._check_classes(('a', 'b'), ('a', 'b'))
  evaluate._check_classes(None, ('a', 'b'))
  with pytest.raises(ValueError, match='got 1, 10, 2 for 1, 2, 10: use'):
    evaluate._check_classes(('1', '10', '2'), ('1', '2', '10'))
