"""The command that lists and imports weights of feature networks."""

import in_process
import named_weights
import pytest
import safetensors.numpy

from sg3jax.cli import weights as command
from sg3jax.interop import feature_rules, feature_weights
from sg3jax.nets.features import base


@pytest.fixture
def _no_package(monkeypatch):
  monkeypatch.setattr(feature_weights, '_PACKAGE', 'there_is_no_such_package')


@pytest.mark.usefixtures('_no_package')
def test_the_command(tmp_path):
  shapes = base.find('alexnet').shapes()
  tensors = named_weights.lpips_tensors('alex', shapes)
  folder = f'--weights_dir={tmp_path / "w"}'
  path = tmp_path / 'published.safetensors'
  path.write_bytes(safetensors.numpy.save(tensors))
  status, out = in_process.run(command, 'list', folder)
  assert not status
  assert out.count('| missing ') == len(feature_rules.RULES)
  assert 'sg3jax weights import FILE' in out
  for verb in ('written', 'unchanged'):
    status, out = in_process.run(command, 'import', path, folder)
    assert not status
    assert 'found         alexnet' in out
    assert f'{verb:13} {tmp_path / "w" / "alexnet.safetensors"}' in out
  (tmp_path / 'w' / 'alexnet.safetensors').write_bytes(b'damaged')
  assert '| unusable |' in in_process.run(command, 'list', folder)[1]


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ([], 'the action must be one of import, list, got none'),
    (['lst'], "the action must be one of import, list, got 'lst'"),
    (['import'], 'a FILE is required after import'),
    (['list', 'x'], "'x' is not expected after list"),
    (['import', 'x', 'y'], "unexpected argument 'y'"),
    (['import', 'none.pth'], 'there is no file none.pth'),
  ],
)
def test_wrong_commands(args, message):
  assert message in in_process.error(command, *args)
