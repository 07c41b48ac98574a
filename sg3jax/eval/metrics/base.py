"""Describes metrics, and keeps a registry of all of them.

A metric is one function with a description, in its own file:

    @base.register(
      'brightness',
      title='Mean brightness',
      unit='grey levels',
      higher_is_better=False,
    )
    def measure(context: base.Context) -> base.Measurement:
      images = context.fakes(context.num_samples)
      return base.Measurement({'brightness': images.mean()}, len(images))

A registered metric is available by name in `sg3jax evaluate`, in `log.metrics`
and `log.keep_best` of a run, and in sweeps. Curves and tables show its title,
its unit and its direction. Modules in this folder are imported when the
registry is first read. Other modules register metrics when they are imported,
for example by a configuration file.
"""

import dataclasses
import difflib
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from jax.sharding import Mesh

from sg3jax.data import labels as labels_lib
from sg3jax.data import sources
from sg3jax.eval import image_generator as image_generator_lib
from sg3jax.types import ImagesU8, Variables

_T = TypeVar('_T')

_FOLDER = 'sg3jax.eval.metrics'  # Its modules register metrics.

# A metric can need these besides a generator.
REALS = 'reals'  # Real images to compare with.
LABELS = 'labels'  # Real images with labels.
TRANSFORMS = 'transforms'  # A generator whose input can be transformed.
FEATURES = 'features'  # A feature network, whose weights must be available.
_NEEDS = frozenset((REALS, LABELS, TRANSFORMS, FEATURES))


@dataclasses.dataclass(frozen=True)
class Measurement:
  """The values of one metric for one snapshot.

  Attributes:
    values: Values by name, including the metric's `result`.
    num_samples: Number of images that were actually measured.
    ci95: Half widths of 95 % confidence intervals by the names of values, in
      the same unit, for the values that have one.
  """

  values: Mapping[str, float]
  num_samples: int
  ci95: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Metric:
  r"""Describes how a metric is measured, and how its values are compared.

  Attributes:
    name: The name that users select it by, such as `eqt`.
    measure: Measures one snapshot.
    title: Its name in plots, such as 'EQ-T'.
    unit: Label of its axis in plots, such as 'dB'; may be empty.
    higher_is_better: Whether the highest value is the best one.
    needs: Members of `REALS`, `LABELS`, `TRANSFORMS` and `FEATURES`. Missing
      images, labels and transforms are reported before anything is computed.
    result: Name of its main value, and of its file `metric-RESULT.jsonl`.
    panel: Title of its panel among a run's curves. Metrics with the same title
      share a panel.
    labels: Labels of its values in a legend, by regular expressions that match
      the full names of the values. `\1` in a label is the first group.
  """

  name: str
  measure: Callable[['Context'], Measurement]
  title: str
  unit: str
  higher_is_better: bool
  needs: frozenset[str]
  result: str
  panel: str
  labels: Mapping[str, str]

  def label(self, value: str) -> str | None:
    """Returns the label of a value; None if this metric has no such value."""
    for pattern, label in self.labels.items():
      match = re.fullmatch(pattern, value)
      if match:
        return match.expand(label)
    return self.title if value == self.result else None


_Measure = Callable[['Context'], Measurement]
_METRICS: dict[str, Metric] = {}


def register(
  name: str,
  *,
  title: str,
  unit: str,
  higher_is_better: bool,
  needs: Iterable[str] = (),
  result: str | None = None,
  panel: str | None = None,
  labels: Mapping[str, str] | None = None,
) -> Callable[[_Measure], _Measure]:
  """Returns a decorator that registers a function as a metric.

  Args:
    name: Name of the metric; see `Metric` for all arguments.
    title: Name in plots.
    unit: Label of its axis in plots.
    higher_is_better: Whether the highest value is the best one.
    needs: Its requirements besides a generator.
    result: Name of its main value; by default `name`.
    panel: Title of its panel among curves; by default `title`.
    labels: Labels of its values; by default `title` for the main value.

  Raises:
    ValueError: If another function is registered under this name, or a need is
      unknown.
  """
  unknown = frozenset(needs) - _NEEDS
  if unknown:
    raise ValueError(
      f'needs of the metric {name} must be among {_listed(_NEEDS)}, got '
      f'{_listed(unknown)}'
    )

  def add(measure: _Measure) -> _Measure:
    metric = Metric(
      name=name,
      measure=measure,
      title=title,
      unit=unit,
      higher_is_better=higher_is_better,
      needs=frozenset(needs),
      result=result or name,
      panel=panel or title,
      labels=labels or {},
    )
    known = _METRICS.get(name)
    # A file that is executed again, as in a notebook, replaces its metric.
    if known and _home(known.measure) != _home(measure):
      raise ValueError(
        f'the name of a metric must be new, got {name}, which '
        f'{_home(known.measure)} has registered: choose another one'
      )
    _METRICS[name] = metric
    return measure

  return add


def unregister(name: str) -> None:
  """Removes a metric from the registry, if it is there."""
  _METRICS.pop(name, None)


def restore(metrics: Iterable[Metric]) -> None:
  """Adds metrics that another process has registered, or replaces them."""
  _METRICS.update({metric.name: metric for metric in metrics})


def registry() -> Mapping[str, Metric]:
  """Returns all metrics by name, with those of this folder first."""
  _import_all()

  def place(metric: Metric) -> tuple[bool, str]:
    home = _home(metric.measure)
    return not home.startswith(f'{_FOLDER}.'), home.rpartition('.')[0]

  # The order must not depend on the order of imports.
  metrics = sorted(_METRICS.values(), key=place)
  return {metric.name: metric for metric in metrics}


def parse_names(asked: str | Iterable[str] | None) -> tuple[str, ...]:
  """Parses the names of metrics in a configuration or a flag.

  Args:
    asked: Names, or strings of comma-separated names: the command line parses
      `swd,eqt` as a tuple of one string. None, an empty value and `none` (in
      upper or lower case) mean no metric.

  Returns:
    The names in order, without duplicates.

  Raises:
    ValueError: If a metric is unknown, or `none` is combined with others.
  """
  texts = [asked] if isinstance(asked, str) else asked or ()
  parts = [part.strip() for text in texts for part in str(text).split(',')]
  names = list(dict.fromkeys(part for part in parts if part))
  if [name.lower() for name in names] == ['none']:
    return ()
  known = registry()
  for name in names:
    if name not in known:
      raise ValueError(
        f'metrics must be among {", ".join(known)}, or none alone, got '
        f'{name}{_suggestion(name, known)}'
      )
  return tuple(names)


def find_value(value: str) -> Metric | None:
  """Returns the metric that yields a value with this name, or None."""
  for metric in registry().values():
    if metric.label(value) is not None:
      return metric
  return None


def value_of(name: str) -> Metric:
  """Returns the metric whose main value ranks checkpoints.

  Raises:
    ValueError: If no metric has a main value with this name. The message
      refers to it as `log.keep_best`.
  """
  metrics = {metric.result: metric for metric in registry().values()}
  if name in metrics:
    return metrics[name]
  near = registry().get(name) or find_value(name)
  hint = (
    f': did you mean {near.result}?' if near else _suggestion(name, metrics)
  )
  raise ValueError(
    'log.keep_best must be the name of a value that a metric yields, as in '
    f'metric-NAME.jsonl ({", ".join(metrics)}), got {name!r}{hint}'
  )


class Context:
  """Everything that metrics need to measure one snapshot.

  Expensive results are computed when a metric first requests them, and then
  shared by all metrics of the snapshot, or of the run.

  Attributes:
    metrics: Names of all metrics that are measured.
    num_samples: Requested number of images per metric.
    seed: Random seed for latents, labels, transforms and the choice of reals.
    mesh: The devices.
    images: Generates images with the measured generator.
    variables: The generator's variables.
    group_size: Number of images that share a random transform; 4 in the paper.
  """

  def __init__(
    self,
    images: image_generator_lib.ImageGenerator,
    variables: Variables,
    *,
    metrics: Iterable[str],
    num_samples: int,
    seed: int,
    source: sources.ImageSource | None = None,
    labels: labels_lib.Labels | None = None,
    group_size: int = 4,
    kept: dict[Hashable, Any] | None = None,
  ):
    """Creates the context of one snapshot.

    Args:
      images: Generates images; see the attributes for all arguments.
      variables: The generator's variables.
      metrics: Names of all metrics that are measured.
      num_samples: Number of images.
      seed: Random seed.
      source: The real images; None if there are none.
      labels: Labels to sample from; the labels of the real images by default.
      group_size: Number of images that share a random transform.
      kept: Results of `kept` for earlier snapshots; new ones are added.
    """
    self.images = images
    self.variables = variables
    self.metrics = tuple(metrics)
    self.num_samples = num_samples
    self.seed = seed
    self.group_size = group_size
    self._source = source
    self._labels = labels
    self._kept = {} if kept is None else kept
    self._shared: dict[Hashable, Any] = {}

  @property
  def mesh(self) -> Mesh:
    """The devices."""
    return self.images.mesh

  def shared(self, make: Callable[['Context'], _T]) -> _T:
    """Returns `make(self)`, computed once for all metrics of the snapshot.

    Args:
      make: A module-level function, which also identifies the result.
    """
    if make not in self._shared:
      self._shared[make] = make(self)
    return self._shared[make]

  def kept(self, make: Callable[['Context'], _T]) -> _T:
    """Returns `make(self)`, computed once for all snapshots of a run.

    Args:
      make: As for `shared`. Its result must not depend on the snapshot's
        variables: a compiled function, or statistics of real images.
    """
    if make not in self._kept:
      self._kept[make] = make(self)
    return self._kept[make]

  @property
  def source(self) -> sources.ImageSource:
    """The real images.

    Raises:
      ValueError: If there are none.
    """
    if self._source is None:
      raise ValueError('there are no real images to compare with')
    return self._source

  @functools.cached_property
  def labels(self) -> labels_lib.Labels | None:
    """Labels to sample from; None for a generator without labels.

    Raises:
      ValueError: If the generator takes labels and there are no real images.
    """
    if not self.images.generator.label_dim:
      return None
    if self._labels is not None:
      return self._labels
    if self._source is None:
      raise ValueError(
        'a conditional network needs the labels of real images, but there are '
        'none'
      )
    return self._source.labels()

  @property
  def label_values(self) -> np.ndarray | None:
    """The labels in the form for compiled functions.

    They are class indices [m] if the source has classes, because one-hot
    vectors would take much memory; vectors [m, classes] otherwise; and None for
    a generator without labels.
    """
    return None if self.labels is None else self.labels.values

  def reals(self, count: int) -> ImagesU8:
    """Returns randomly chosen real images, uint8 [count, h, w, c].

    Args:
      count: Number of images, at most the number that exist. A smaller choice
        is the beginning of a larger one.
    """
    return self._first('reals', count, self._read)

  def fakes(self, count: int) -> ImagesU8:
    """Returns generated images, uint8 [count, h, w, c], in host memory.

    Latents are standard normal; labels come from randomly chosen real images.

    Args:
      count: Number of images. A smaller set is the beginning of a larger one,
        so that metrics of different sizes share images.
    """
    return self._first('fakes', count, self._generate)

  def _first(
    self, kind: str, count: int, make: Callable[[int, int], ImagesU8]
  ) -> ImagesU8:
    """Returns the first images of a kind, and creates those missing."""
    images = self._shared.get(kind)
    if images is None:
      images = make(0, count)
    elif len(images) < count:
      images = np.concatenate([images, make(len(images), count)])
    self._shared[kind] = images
    return images[:count]

  def _read(self, start: int, stop: int) -> ImagesU8:
    order = np.random.RandomState(self.seed).permutation(len(self.source))
    chosen = [self.source[int(i)]['image'] for i in order[start:stop]]
    return np.stack(chosen)

  def _generate(self, start: int, stop: int) -> ImagesU8:
    generator = self.images.generator
    z = np.random.RandomState(self.seed).randn(stop, generator.z_dim)[start:]
    c = None
    if self.labels is not None:
      rng = np.random.RandomState((self.seed, 1))
      rows = rng.randint(len(self.labels), size=stop)[start:]
      c = self.labels[rows]
    ws = self.images.styles(self.variables, z.astype(np.float32), c)
    return self.images.synthesize(self.variables, ws)


@functools.cache
def _import_all() -> None:
  """Imports the modules of this folder, which register their metrics."""
  package = importlib.import_module(_FOLDER)
  for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f'{package.__name__}.{module.name}')


def _home(function: Callable[..., Any]) -> str:
  """Returns where a function is defined, also for one with bound arguments."""
  inner = function.func if isinstance(function, functools.partial) else function
  return f'{inner.__module__}.{inner.__qualname__}'


def _suggestion(name: str, known: Iterable[str]) -> str:
  close = difflib.get_close_matches(name.lower(), list(known), n=1)
  return f': did you mean {close[0]}?' if close else ''


def _listed(names: Iterable[str]) -> str:
  return ', '.join(sorted(names))
