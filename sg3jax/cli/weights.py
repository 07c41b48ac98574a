r"""Lists and imports the weights of networks that metrics compare features of.

    sg3jax weights list
    sg3jax weights import weights-inception-2015-12-05-6726825d.pth

Published weights do not come with this package. `list` shows which are there,
where, and how to get the others. `import` reads a published file, recognises
its network by its arrays, and writes it to the weights folder. No code in the
file is executed.
"""

import jax
from absl import flags

from sg3jax import text
from sg3jax.cli import common
from sg3jax.interop import feature_weights
from sg3jax.nets.features import base

flags.declare_key_flag('weights_dir')

_ACTIONS = ('import', 'list')


def main(argv: list[str] | None = None) -> None:
  """Parses the flags and lists or imports weights."""
  common.run(_weights, argv, optional=2)


def _weights(action: str = '', file: str = '') -> None:
  jax.config.update('jax_platforms', 'cpu')  # This needs no accelerator.
  common.check_action(action, _ACTIONS)
  if (action == 'import') != bool(file):
    problem = 'a FILE is required' if not file else f'{file!r} is not expected'
    raise ValueError(f'{problem} after {action}: --help shows how')
  if action == 'import':
    _import(file)
  else:
    _list()


def _import(file: str) -> None:
  imported = feature_weights.import_file(file, common.WEIGHTS_DIR.value)
  network = base.find(imported.name)
  print(f'found         {imported.name}: {network.title}')
  print(f'SHA-256       {imported.sha256}')
  print(
    f'converted     {imported.num_arrays} arrays, {imported.size:,} numbers'
  )
  verb = 'written' if imported.is_new else 'unchanged'
  print(f'{verb:13} {imported.path}')
  print('Imported weights keep the licence of the original weights.')


def _list() -> None:
  folder = common.WEIGHTS_DIR.value
  networks = [base.find(name) for name in base.names()]
  networks = [network for network in networks if network.init is None]
  rows, remedies = [], []
  for network in networks:
    path = feature_weights.find(network.name, folder)
    state = 'missing'
    if path is None:
      remedies.append(f'{network.name}: {network.remedy}')
    else:
      try:
        feature_weights.load(network.name, folder)
        state = 'complete'
      except (OSError, ValueError) as error:
        state = 'unusable'
        remedies.append(f'{network.name}: {error}')
    rows.append({'network': network.name, 'weights': state, 'file': path or ''})
  print(f'folder        {feature_weights.folder_of(folder)}')
  print(text.markdown(rows))
  for remedy in remedies:
    print(remedy)
