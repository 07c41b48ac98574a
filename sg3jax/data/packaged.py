"""Files inside installed packages, found without importing the packages."""

import importlib.util
import pathlib


def locate(package: str, file: str, needed: str) -> pathlib.Path:
  """Returns the path of a file in an installed package.

  Args:
    package: Import name of the package, which is also the name of its folder.
    file: Path inside that folder.
    needed: A clause that says which file is needed for what, and how to install
      it. It ends the message.

  Raises:
    ImportError: If the package or the file in it is missing.
  """
  spec = importlib.util.find_spec(package)
  for folder in (spec and spec.submodule_search_locations) or ():
    path = pathlib.Path(folder, file)
    if path.is_file():
      return path
  lacks = f'has no {file}' if spec else 'is not installed'
  raise ImportError(f'{package} {lacks}: {needed}')
