"""Writes a run folder: options, log, statistics and TensorBoard events.

    training_options.json   the configuration, written once
    log.txt                 printed lines, warnings, the traceback of a crash
    options_changes.jsonl   changes to it by resumed runs, if any
    stats.jsonl             per tick: name -> {num, mean, std}, and timestamp
    events.out.tfevents.*   the same means for TensorBoard, against kimg
    wandb_id.txt, wandb/    the run's record on Weights & Biases, if any
    .lock                   the process that writes here now, or did last

Several sessions may write one after another: a resumed run appends to the same
files as if it had never stopped. Two sessions may not write at once.
"""

import contextlib
import json
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from sg3jax import files
from sg3jax.train import statistics
from sg3jax.train.config import compare
from sg3jax.train.run_folder import (
  log_records,
  tensorboard,
  ticks,
  wandb,
)

Config = Mapping[str, Any] | ml_collections.ConfigDict


class RunWriter:
  """Writes one run's folder.

  Use it as a context manager, or call `close`. While it is open, no other
  process can open the folder, and log records and Python warnings also go to
  `log.txt`, subject to the logging levels. If an exception leaves the context,
  its traceback is written there.

  On several hosts every process creates a writer, but only the first writes
  and prints.

  Attributes:
    workdir: The run folder.
  """

  def __init__(self, workdir: str | os.PathLike[str]):
    """Opens the run folder, creating it if necessary.

    Args:
      workdir: The run folder, on a local or mounted file system.

    Raises:
      OSError: If the folder cannot be created or written to.
      ValueError: If another process writes to it, or it is a URL.
    """
    self.workdir = files.local_path(workdir)
    self._writes = jax.process_index() == 0
    self._events: tensorboard.EventsFile | None = None
    self._wandb: wandb.WandbRun | None = None
    self._purge_step: int | None = None
    self._open = contextlib.ExitStack()
    if not self._writes:
      return
    with contextlib.ExitStack() as stack:
      try:
        self.workdir.mkdir(parents=True, exist_ok=True)
        stack.enter_context(files.lock(self.workdir / '.lock'))
        stack.enter_context(log_records.to_file(self.workdir / 'log.txt'))
      except files.LockedError as error:
        raise ValueError(
          f'{self.workdir} is in use by another process ({error}): wait until '
          'it ends, or use another run folder'
        ) from error
      except OSError as error:
        raise OSError(
          f'Cannot write to the workdir {self.workdir}: {error.strerror}. '
          'Make it writable, or choose another folder'
        ) from error
      self._open = stack.pop_all()

  def __enter__(self) -> 'RunWriter':
    return self

  def __exit__(self, kind, error, trace) -> None:
    if error is None:
      self.close()
      return
    with contextlib.suppress(OSError):  # Writing may be what has failed.
      self._append_log(''.join(traceback.format_exception(error)))
    with contextlib.suppress(OSError):
      self.close()

  def close(self) -> None:
    """Closes the files; the writer cannot be used afterwards."""
    self._open.close()

  def log(self, text: str = '') -> None:
    """Prints one or more lines, and appends them to `log.txt`."""
    if self._writes:
      print(text, flush=True)
      self._append_log(f'{text}\n')

  def _append_log(self, text: str) -> None:
    if self._writes:
      files.append_text(self.workdir / 'log.txt', text)

  def open_wandb(self, project: str, config: Config) -> None:
    """Also records this run in a project on Weights & Biases.

    Raises:
      ImportError: If its package is missing.
    """
    if self._writes:
      self._wandb = wandb.WandbRun(project, self.workdir, compare.plain(config))
      self._open.callback(self._wandb.close)

  def open_options(self, config: Config) -> list[str]:
    """Records the configuration of a new run, or compares that of an old one.

    Args:
      config: The configuration of this session.

    Returns:
      An empty list for a new run, after writing `training_options.json`. For a
      resumed run that file stays unchanged, and the result is the lines of
      `config_difference` from it to `config`, which the caller refuses or
      accepts with `record_change`.

    Raises:
      TypeError: If JSON cannot hold a value; the error names its key.
      ValueError: If the existing file is not JSON.
      OSError: If it cannot be read or written.
    """
    path = self.workdir / 'training_options.json'
    if not path.exists():
      self.write_options(config)
      return []
    try:
      old = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
      raise ValueError(
        f'{path} must be valid JSON ({error}): restore it, or move it away to '
        'continue with the options given now'
      ) from error
    return compare.config_difference(old, config)

  def write_options(self, config: Config) -> None:
    """Writes `training_options.json`, replacing an existing one."""
    options = json.dumps(compare.plain(config), indent=2)
    if self._writes:
      files.write_text(self.workdir / 'training_options.json', f'{options}\n')

  def record_change(
    self, difference: Sequence[str], config: Config, step: int
  ) -> None:
    """Replaces the configuration of the run, and records the change.

    Args:
      difference: Lines of `config_difference`, which are logged and appended
        to `options_changes.jsonl` with the step.
      config: The configuration from this step on.
      step: Number of steps that the run has done.

    Raises:
      OSError: If one of the files cannot be written.
    """
    self.log(f'Changed:        at step {step}: ' + '; '.join(difference))
    if self._writes:
      record = {
        'step': step,
        'changes': list(difference),
        'timestamp': time.time(),
      }
      path = self.workdir / 'options_changes.jsonl'
      files.append_text(path, f'{json.dumps(record)}\n')
    self.write_options(config)

  def write_tick(self, tick: ticks.Tick, stats: statistics.Stats) -> None:
    """Reports a tick: prints its line and records its statistics.

    Args:
      tick: Progress, rates and memory.
      stats: Statistics of the steps of the tick, name -> {num, mean, std}.

    Raises:
      OSError: If they cannot be written.
    """
    if not self._writes:
      return
    self.log(tick.line())
    stats = {**stats, **statistics.summarize(tick.values())}
    timestamp = time.time()
    line = json.dumps({**stats, 'timestamp': timestamp})
    files.append_text(self.workdir / 'stats.jsonl', f'{line}\n')
    means = {name: summary['mean'] for name, summary in stats.items()}
    self._write_curves(means, tick.kimg)

  def write_metrics(self, values: Mapping[str, float], kimg: float) -> None:
    """Adds the metrics of a snapshot to the curves, as `Metrics/NAME`.

    Args:
      values: Values by the name of the metric.
      kimg: Thousands of images shown at the snapshot.

    Raises:
      OSError: If they cannot be written.
    """
    if self._writes and values:
      named = {f'Metrics/{name}': float(v) for name, v in values.items()}
      self._write_curves(named, kimg)

  def _write_curves(self, values: Mapping[str, float], kimg: float) -> None:
    try:
      if self._events is None:
        self._events = tensorboard.EventsFile(self.workdir, self._purge_step)
        self._open.callback(self._events.close)
      # Integer kimg, as in the names of the snapshots.
      self._events.add(values, int(kimg), time.time())
    except OSError as error:
      path = self.workdir / 'events.out.tfevents.*'
      raise files.write_error(path, error) from error
    if self._wandb is not None:
      self._wandb.log(values, kimg)

  def truncate_after(self, kimg: float | int) -> dict[str, Any]:
    """Cuts off the records of the ticks that a resumed run will repeat.

    A killed run has recorded ticks after its last checkpoint. Their lines in
    `stats.jsonl` and `metric-*.jsonl`, and any partial line, move to files with
    the same name and the suffix `.orphaned`. TensorBoard is instructed to hide
    their events. Call this before `write_tick`.

    Args:
      kimg: Thousands of images at which the run continues; later lines are
        cut. Negative for a run that starts over, before its first tick.

    Returns:
      The last kept line of `stats.jsonl`; empty if there is none.

    Raises:
      OSError: If a file cannot be read or written.
    """
    self._purge_step = max(int(kimg) + 1, 0)
    last: dict[str, Any] = {}
    for path in (
      self.workdir / 'stats.jsonl',
      *sorted(self.workdir.glob('metric-*.jsonl')),
    ):
      if not path.exists():
        continue
      text = path.read_text(encoding='utf-8')
      kept, cut = _split_lines(text, kimg)
      remaining = ''.join(f'{line}\n' for line in kept)
      if self._writes and remaining != text:
        # In this order, a kill in between may duplicate lines, never lose any.
        orphans = ''.join(f'{line}\n' for line in cut)
        files.append_text(f'{path}.orphaned', orphans)
        files.write_text(path, remaining)
        self.log(
          f'Moved {len(cut)} line(s) after {kimg:g} kimg from {path.name} to '
          f'{path.name}.orphaned'
        )
      if path.name == 'stats.jsonl' and kept:
        last = json.loads(kept[-1])
    return last


def _split_lines(text: str, kimg: float | int) -> tuple[list[str], list[str]]:
  """Splits JSON lines into those up to `kimg` or without a kimg, and others."""
  kept, cut = [], []
  for line in filter(None, text.splitlines()):
    try:
      record = json.loads(line)
      stat = record.get('Progress/kimg', {})
      reached = record.get('kimg', stat.get('mean'))
      keep = reached is None or reached <= kimg
    except json.JSONDecodeError:
      keep = False  # A partial line of a killed run.
    (kept if keep else cut).append(line)
  return kept, cut
