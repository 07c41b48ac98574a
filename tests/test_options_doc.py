"""`docs/options.md` against the flags and fields that there are."""

import json
import pathlib
import re

import pytest
from absl import flags

from sg3jax.cli import evaluate, generate, official_options, train, video
from sg3jax.train import config as config_lib

_PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'options.md'
_COMMANDS = {
  'Training': train,
  'Generating': generate,
  'Videos': video,
  'Measuring': evaluate,
}

# What scripts and forks use unchanged.
_OFFICIAL = {
  'Training': (
    'outdir data gpus batch cfg gamma cond mirror aug resume freezed p target '
    'batch-gpu cbase cmax glr dlr map-depth mbstd-group desc metrics kimg tick '
    'snap seed fp32 nobench workers dry-run'
  ),
  'Generating': 'network seeds trunc class noise-mode translate rotate outdir',
  'Videos': (
    'network seeds trunc class output grid w-frames num-keyframes shuffle-seed'
  ),
  'Measuring': 'network metrics data mirror gpus',
}


def _tables():
  """Returns the rows of all tables by the page's sections."""
  sections, rows = {}, []
  for line in _PAGE.read_text().splitlines():
    if line.startswith('## '):
      rows = sections.setdefault(line.split()[1].rstrip(':'), [])
    elif line.startswith('| ') and not line.startswith('| Official'):
      cells = [cell.strip() for cell in line.strip('|').split('|')]
      assert len(cells) == 4, line
      rows.append(cells)
  return sections


_ROWS = [row for rows in _tables().values() for row in rows]


def _field(name):
  value = config_lib.default_config()
  for part in name.split('.'):
    value = value[part]
  return value


@pytest.mark.parametrize('section', _OFFICIAL)
def test_every_official_option_has_a_row(section):
  listed = ' '.join(row[0] for row in _tables()[section])
  for name in _OFFICIAL[section].split():
    assert f'`--{name}`' in listed


def test_every_field_that_is_named_exists():
  names = re.findall(r'--config\.([a-z0-9_.]*[a-z0-9])', _PAGE.read_text())
  assert len(names) > 40
  for name in names:
    _field(name)


@pytest.mark.parametrize(
  'row', _ROWS, ids=lambda row: f'{row[0]} {row[1]}'.replace('`', '')
)
def test_defaults_are_those_of_the_fields(row):
  match = re.match(r'`--config\.([a-z0-9_.]+)`', row[1])
  if not match:
    assert not row[2].startswith('`')
    return
  value = _field(match[1])
  if value is None:  # Settled by a rule, which the cell gives in words.
    assert not row[2].startswith('`')
  else:
    listed = json.loads(row[2].strip('`'))
    assert listed == (list(value) if isinstance(value, tuple) else value)


def test_every_flag_that_is_named_exists():
  for section, module in _COMMANDS.items():
    here = ' '.join(cell for row in _tables()[section] for cell in row[1:])
    names = set(re.findall(r'`--([a-z][a-z_-]*)[=`]', here)) - {'cbase'}
    known = flags.FLAGS.get_key_flags_for_module(module.__name__)
    # `gpus` is an alias, of the command that shares its flags.
    assert names <= {flag.name for flag in known} | {'gpus'}, section


def test_messages_say_what_the_page_says():
  for section, module in _COMMANDS.items():
    rows = {
      name: row[1]
      for row in _tables()[section]
      for name in re.findall(r'`--?([a-z-]+)`', row[0])
    }
    words = official_options.WORDS[module.__name__.rpartition('.')[2]]
    for name, word in words.items():
      if word.startswith('-') and name in rows:
        assert re.match('[-a-z_.]+', word.strip())[0] in rows[name], name
    known = {f.name for f in flags.FLAGS.get_key_flags_for_module(module)}
    assert rows.keys() <= words.keys() | known | {'gpus'}, section
