"""Sources of images of any size and kind, which are prepared or inspected."""

import io
import pathlib
import tarfile
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from sg3jax.data import archives, files, report
from sg3jax.data import labels as labels_lib

Label = int | str | Sequence[float]

FORMS = (
  'a folder, a .zip or .tar file, a folder of .tar or .array_record files, a '
  '.parquet file or a folder of them, the binary version of CIFAR-10, an '
  'images-idx3-ubyte file of MNIST, or tfds:NAME[:SPLIT][@DATA_DIR]'
)


@runtime_checkable  # For the type checks of the tests.
class RawSource(Protocol):
  """Random access to encoded images, in any process: it can be pickled.

  Attributes:
    names: The distinct names of the images, in order.
    class_names: The names of the classes of `labels`, if they are numbers with
      names.
    notes: Sentences about what is not read.
  """

  names: Sequence[str]
  class_names: tuple[str, ...] | None
  notes: tuple[str, ...]

  def read(self, index: int) -> Any:
    """Returns the bytes of an image file, or pixels, uint8 [h, w(, c)].

    Raises:
      OSError: With an error number, if the disk or the network fails.
      Exception: If the source is damaged; its class is that of the reader.
    """
    ...

  def labels(self) -> Sequence[Label | None] | None:
    """Returns the label of each image, None for those without one.

    Classes are numbers, or names. The result is None if the source has no
    labels.

    Raises:
      ValueError: If the labels cannot be read.
    """
    ...


def open_raw(spec: str) -> RawSource:
  """Opens a source by its name.

  Args:
    spec: One of `FORMS`.

  Raises:
    FileNotFoundError: If the path does not exist.
    OSError: If a file cannot be read.
    ImportError: If a package that the source needs is missing.
    ValueError: If the source is of another kind, damaged or empty.
  """
  # The modules are imported here because some of their packages are optional.
  if spec.startswith('tfds:'):
    from sg3jax.data.prepare import tables

    return tables.Tfds(spec.partition(':')[2])
  if '://' in spec:
    raise ValueError(
      f'source must be {FORMS}, got the address {spec!r}: download it first'
    )
  path = pathlib.Path(spec).expanduser()
  if not path.exists():
    raise FileNotFoundError(
      f'source must be {FORMS}, got {spec!r}, which does not exist'
    )
  opened = _open_arrays(path) or _open_tables(path) or _open_archive(path)
  if not opened.names:
    raise ValueError(f'{path} must contain images, got none: {FORMS}')
  return opened


def _open_arrays(path: pathlib.Path) -> RawSource | None:
  from sg3jax.data.prepare import small_sets

  if small_sets.is_cifar(path):
    return small_sets.Cifar10(path)
  if small_sets.is_idx(path):
    return small_sets.Idx(path)
  return None


def _open_tables(path: pathlib.Path) -> RawSource | None:
  found = _of_kind(path, '.parquet')
  if not found:
    return None
  from sg3jax.data.prepare import tables

  return tables.Parquet(found)


def _open_archive(path: pathlib.Path) -> RawSource:
  name = path.name.lower()
  if name.endswith(('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')):
    raise ValueError(
      f'{path} must be an uncompressed tar file, because a compressed one has '
      'no random access: decompress it first, for example with gunzip'
    )
  tars = _of_kind(path, '.tar')
  if tars:
    return Files(Tar(path, tars), labels_of=_webdataset_labels)
  return Files(archives.open_archive(path))


def _of_kind(path: pathlib.Path, suffix: str) -> list[pathlib.Path]:
  """Returns a file of a kind, or those directly in a folder, sorted.

  A folder that also contains images or folders is a folder of images.
  """
  if not path.is_dir():
    return [path] if path.name.lower().endswith(suffix) else []
  visible = [p for p in path.iterdir() if not p.name.startswith('.')]
  if any(p.is_dir() or files.is_image(p.name) for p in visible):
    return []
  return sorted(p for p in visible if p.name.endswith(suffix))


class Files:
  """The image files of a folder, a zip, tar or ArrayRecord files.

  The files of a folder are in the order of the parts of their paths, others in
  the order of their names, like those of the official tool.

  Args:
    archive: An archive, see `archives`.
    labels_of: Returns the labels of the images of an archive without
      dataset.json.
  """

  def __init__(
    self,
    archive: Any,
    labels_of: Callable[[Any, Sequence[str]], list[Label | None] | None]
    | None = None,
  ):
    self.archive = archive
    everything = archive.names()
    names = [name for name in everything if files.is_image(name)]
    if isinstance(archive, archives.Folder):
      names.sort(key=lambda name: name.split('/'))
    self.names: Sequence[str] = names
    self.class_names: tuple[str, ...] | None = None
    self.notes: tuple[str, ...] = archive.notes
    if not isinstance(archive, Tar):  # Labels and captions are beside images.
      self.notes += tuple(files.describe_skipped(everything))
    if not self.names:
      raise ValueError(
        f'{archive.path} must contain images, got '
        f'{files.summary(everything)}: source can be {FORMS}'
      )
    self._has_list = labels_lib.FILE in everything
    self._labels_of = labels_of

  def read(self, index: int) -> bytes:
    """Returns the bytes of an image file."""
    with self.archive.open(self.names[index]) as file:
      return file.read()

  def labels(self) -> list[Label | None] | None:
    """Returns the labels in dataset.json, or beside the images of a tar."""
    if not self._has_list:
      return self._labels_of and self._labels_of(self.archive, self.names)
    with self.archive.open(labels_lib.FILE) as file:
      text = file.read()
    where = f'{labels_lib.FILE} in {self.archive.path}'
    found = labels_lib.read_partial(text, where, self.names)
    if found is None:
      return None
    labels, self.class_names = found
    return labels


class Tar:
  """The files in one or several uncompressed tar files, such as WebDataset's.

  Args:
    path: The file, or the folder of the files.
    tars: The files. If `path` is a folder, names in each begin with its stem.
  """

  def __init__(self, path: pathlib.Path, tars: Sequence[pathlib.Path]):
    self.path = path
    self._members: dict[str, tuple[pathlib.Path, int, int]] = {}
    others = 0
    for tar in tars:
      prefix = f'{tar.stem}/' if path.is_dir() else ''
      others += self._scan(tar, prefix)
    self.notes: tuple[str, ...] = ()
    if others:
      kind = report.count(others, 'link or special file')
      self.notes = (f'{kind} in {path} skipped',)

  def _scan(self, path: pathlib.Path, prefix: str) -> int:
    """Adds the files of a tar; returns the number of other members."""
    others = 0
    try:
      with tarfile.open(path, 'r:') as tar:
        for member in tar:
          if member.isreg():
            name = archives.normalize(prefix + member.name)
            # Like tar itself: the last file of a name replaces earlier ones.
            self._members[name] = (path, member.offset_data, member.size)
          elif not member.isdir():
            others += 1
    except tarfile.TarError as error:
      raise ValueError(
        f'{path} is not a tar file, or is damaged ({error}): copy or download '
        'it again'
      ) from error
    return others

  def names(self) -> list[str]:
    """Returns the normalized names of all files, sorted."""
    return sorted(self._members)

  def open(self, name: str) -> Any:
    """Opens a file for reading."""
    path, offset, size = self._members[name]
    with path.open('rb') as file:
      file.seek(offset)
      data = file.read(size)
    if len(data) < size:
      raise ValueError(f'{path} ends in the middle of {name}')
    return io.BytesIO(data)


def _webdataset_labels(
  archive: Tar, names: Sequence[str]
) -> list[Label | None] | None:
  """Returns the classes in the `.cls` files beside images, if there are any."""
  existing = set(archive.names())
  beside = [f'{_key(name)}.cls' for name in names]
  if existing.isdisjoint(beside):
    return None
  labels: list[Label | None] = []
  for name in beside:
    if name not in existing:
      labels.append(None)
      continue
    with archive.open(name) as file:
      text = file.read().decode(errors='replace').strip()
    labels.append(int(text) if text.isdecimal() and len(text) < 8 else text)
  return labels


def _key(name: str) -> str:
  """Returns what the files of one sample share: all before the first dot."""
  folder, slash, base = name.rpartition('/')
  return folder + slash + base.partition('.')[0]
