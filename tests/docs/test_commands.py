"""Every command that the pages show, against the command line that there is."""

import ast
import contextlib
import io
import re

import pages
import pytest
from absl.testing import flagsaver

from sg3jax.cli import common, main
from sg3jax.eval.metrics import base
from sg3jax.train.config import files as config_files

# A design that has all fields, for configurations that need files.
_STAND_IN = 'stylegan3_t:256'
_METRIC_FLAGS = {
  'metrics', 'sweep_metrics', 'config.log.metrics', 'config.log.full_metrics'
}  # fmt: skip
_ACTIONS = {
  'data': ('prepare', 'inspect', 'verify'),
  'surgery': ('average', 'blend', 'channels', 'crop'),
  'weights': ('import', 'list'),
}


def _shown():
  """Yields the place and the arguments of each command."""
  for path in pages.PAGES:
    name = path.relative_to(pages.ROOT)
    for block in pages.blocks(path):
      for arguments in pages.commands(block.text):
        yield f'{name}:{block.line}', arguments
    for text in pages.inline_commands(path):
      for arguments in pages.commands(text):
        yield f'{name}:inline', arguments


def _ids(items):
  return [f'{place} {" ".join(words[:3])}' for place, words in items]


_SHOWN = list(_shown())
_OURS = [(place, words) for place, words in _SHOWN if words[0] == 'sg3jax']
_SCRIPTS = sorted({
  (place, tuple(words)) for place, words in _SHOWN
  if words[0] != 'sg3jax' and words[1:2] and words[1].endswith('.py')
})  # fmt: skip


def test_commands_are_found():
  assert len(_OURS) > 100
  assert len(_SCRIPTS) > 10
  assert len({words[1] for _, words in _OURS}) == len(main.COMMANDS)


def _is_placeholder(word):
  return word in ('...', '…') or re.fullmatch('[A-Z]+', word)


def _check_config(argument):
  """Returns the flag `--config` with a configuration that can be made here."""
  name = argument.removeprefix('--config=')
  if name == '...' or name.endswith('.py'):  # A file of the reader's.
    return f'--config={config_files.locate(_STAND_IN)}'
  located = config_files.locate(name)
  needs_files = name.startswith('finetune:')
  return (
    f'--config={config_files.locate(_STAND_IN) if needs_files else located}'
  )


@pytest.mark.parametrize(('place', 'words'), _OURS, ids=_ids(_OURS))
def test_flags_parse(place, words):
  del place
  _, command, *arguments = words
  assert command in main.COMMANDS
  if not arguments or '--help' in arguments:  # Only named.
    return
  arguments = [word for word in arguments if not _is_placeholder(word)]
  if command in _ACTIONS:
    assert arguments[0] in _ACTIONS[command]
  for argument in arguments:
    flag, _, value = argument.removeprefix('--').partition('=')
    if flag in _METRIC_FLAGS and '...' not in value:
      base.parse_names(value)
    if flag == 'file' and value.startswith('configs/'):
      assert (pages.ROOT / value).exists()
  arguments = [
    _check_config(word) if word.startswith('--config=') else word
    for word in arguments
  ]
  module = main.load(command)
  with flagsaver.flagsaver(), contextlib.redirect_stderr(io.StringIO()):
    common._parse([f'sg3jax {command}', *arguments], module.__name__)


def _own_options(path):
  """Returns the options that a script, or its modules, define or declare."""
  folders = [path, *(path.parent / 'hardware').glob('*.py')]
  calls = [
    node
    for file in (folders if 'hardware' in path.read_text() else [path])
    for node in ast.walk(ast.parse(file.read_text()))
    if isinstance(node, ast.Call)
  ]
  return {
    argument.value
    for call in calls
    if getattr(call.func, 'attr', '').startswith(('DEFINE', 'declare_key_flag'))
    for argument in call.args[:2]
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
  }


@pytest.mark.parametrize(('place', 'words'), _SCRIPTS, ids=_ids(_SCRIPTS))
def test_scripts_have_the_options_that_are_shown(place, words):
  del place
  path = pages.ROOT / words[1]
  assert path.is_file()
  names = {w[2:].partition('=')[0] for w in words[2:] if w.startswith('--')}
  assert names <= _own_options(path)


def test_a_wrong_flag_is_noticed():
  """So that the test above can fail."""
  with pytest.raises(SystemExit, match='sample'):
    test_flags_parse('', ['sg3jax', 'evaluate', '--sample=8'])
  with pytest.raises(ValueError, match='did you mean'):
    test_flags_parse('', ['sg3jax', 'evaluate', '--metrics=fidd'])
  with pytest.raises(SystemExit, match='batchh'):
    test_flags_parse(
      '', ['sg3jax', 'train', '--config=quickstart', '--config.train.batchh=8']
    )
