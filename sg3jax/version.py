"""The package's version, the only place that states it, and those of others."""

from collections.abc import Iterable

__version__ = '0.2.0'


def versions(packages: Iterable[str]) -> dict[str, str]:
  """Returns the versions of the packages that are installed, by name.

  Args:
    packages: Names of packages, as pip knows them. This package need not be
      installed.
  """
  import importlib.metadata  # The bare package does not need it.

  found = {}
  for package in packages:
    try:
      found[package] = (
        __version__
        if package == 'sg3jax'
        else importlib.metadata.version(package)
      )
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
