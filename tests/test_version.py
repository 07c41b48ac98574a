"""Versions of packages, as results and the doctor state them."""

import importlib.metadata

import sg3jax
from sg3jax import version


def test_versions_are_those_of_what_is_installed():
  found = version.versions(('sg3jax', 'jax', 'no-such-package', 'numpy'))
  assert found == {
    'sg3jax': sg3jax.__version__,
    'jax': importlib.metadata.version('jax'),
    'numpy': importlib.metadata.version('numpy'),
  }
  assert list(found) == ['sg3jax', 'jax', 'numpy']
