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

One that compares features names them in `features`, and gets them from
`Context.features`.

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
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sg3jax.eval import context as context_lib
from sg3jax.eval import feature_sets

Context = context_lib.Context

_FOLDER = 'sg3jax.eval.metrics'  # Its modules register metrics.

# A metric can need these besides images.
REALS = 'reals'  # Real images to compare with.
LABELS = 'labels'  # Real images with labels.
GENERATOR = 'generator'  # A generator, rather than images that it made.
TRANSFORMS = 'transforms'  # A generator whose input can be transformed.
DISCRIMINATOR = 'discriminator'  # The discriminator of the generator.
_NEEDS = frozenset((REALS, LABELS, GENERATOR, TRANSFORMS, DISCRIMINATOR))


@dataclasses.dataclass(frozen=True)
class Measurement:
  """The values of one metric for one snapshot.

  Attributes:
    values: Values by name, including the metric's `result`.
    num_samples: Number of images that were actually measured.
    ci95: Half widths of 95 % confidence intervals by the names of values, in
      the same unit, for the values that have one.
    about: Further fields of its line in the result file: how the interval was
      found, how many real images there were, and so on.
    beside: Names of values to report with the main one, not only in the file.
  """

  values: Mapping[str, float]
  num_samples: int
  ci95: Mapping[str, float] = dataclasses.field(default_factory=dict)
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  beside: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Metric:
  r"""Describes how a metric is measured, and how its values are compared.

  Attributes:
    name: The name that users select it by, such as `eqt`.
    measure: Measures one snapshot.
    title: Its name in plots, such as 'EQ-T'.
    unit: Label of its axis in plots, such as 'dB'; may be empty.
    higher_is_better: Whether the highest value is the best one.
    needs: Members of `REALS`, `LABELS`, `GENERATOR`, `TRANSFORMS` and
      `DISCRIMINATOR`. What is missing is reported before anything is computed.
    result: Name of its main value.
    file: NAME of its file `metric-NAME.jsonl`.
    networks: Names of the feature networks whose weights it needs, which are
      read before anything is computed.
    features: The features that it compares; None if it compares none.
    min_images: The fewest real and generated images that it can compare.
    panel: Title of its panel among a run's curves. Metrics with the same title
      share a panel.
    labels: Labels of its values in a legend, by regular expressions that match
      the full names of the values. `\1` in a label is the first group.
    min_resolution: Least width of the images that it can measure.
    by_default: Whether analyses measure it without being asked for it by name.
  """

  name: str
  measure: Callable[['Context'], Measurement]
  title: str
  unit: str
  higher_is_better: bool
  needs: frozenset[str]
  result: str
  file: str
  panel: str
  labels: Mapping[str, str]
  networks: tuple[str, ...] = ()
  features: feature_sets.Wanted | None = None
  min_images: int = 1
  min_resolution: int = 0
  by_default: bool = True

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
  file: str | None = None,
  panel: str | None = None,
  labels: Mapping[str, str] | None = None,
  networks: Iterable[str] = (),
  features: feature_sets.Wanted | None = None,
  **limits: Any,
) -> Callable[[_Measure], _Measure]:
  """Returns a decorator that registers a function as a metric.

  Args:
    name: Name of the metric; see `Metric` for all arguments.
    title: Name in plots.
    unit: Label of its axis in plots.
    higher_is_better: Whether the highest value is the best one.
    needs: Its requirements besides images.
    result: Name of its main value; by default `name`.
    file: Name in its file's name; by default `result`.
    panel: Title of its panel among curves; by default `title`.
    labels: Labels of its values; by default `title` for the main value.
    networks: Feature networks besides that of `features`.
    features: The features that it compares.
    **limits: `min_images`, `min_resolution` and `by_default`.

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
      file=file or result or name,
      panel=panel or title,
      labels=labels or {},
      networks=(*((features.network,) if features else ()), *networks),
      features=features,
      **limits,
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
    The names in order, without duplicates. The name of a metric's main value or
    file also stands for the metric, such as `eqt50k_int` for `eqt`.

  Raises:
    ValueError: If a metric is unknown, or `none` is combined with others.
  """
  texts = [asked] if isinstance(asked, str) else asked or ()
  parts = [part.strip() for text in texts for part in str(text).split(',')]
  names = [part for part in parts if part]
  if {name.lower() for name in names} == {'none'}:
    return ()
  known = registry()
  aliases = {
    alias: m.name for m in known.values() for alias in (m.file, m.result)
  }
  for name in names:
    if name not in known and name not in aliases:
      raise ValueError(
        f'metrics must be among {", ".join(known)}, or none alone, got '
        f'{name}{_suggestion(name, known)}'
      )
  chosen = (name if name in known else aliases[name] for name in names)
  return tuple(dict.fromkeys(chosen))


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
