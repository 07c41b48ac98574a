"""Runs training from a configuration to the last checkpoint."""

import collections
import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from sg3jax import files, text
from sg3jax.data import sources
from sg3jax.train import batches as batches_lib
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import (
  evaluation,
  fleet,
  health,
  init_from,
  jax_settings,
  peers,
  preemption,
  processes,
  profiling,
  saving,
  sharding,
  statistics,
)
from sg3jax.train import plateau as plateau_lib
from sg3jax.train import schedule as schedule_lib
from sg3jax.train.config import compare
from sg3jax.train.run_folder import (
  dataset,
  result_page,
  startup_summary,
  ticks,
)
from sg3jax.train.run_folder import writer as writer_lib
from sg3jax.train.step import build
from sg3jax.train.step import trainer as trainer_lib
from sg3jax.train.step.state import TrainState
from sg3jax.types import Array, Config, Snapshot

# Streams of random numbers for one seed.
_INIT, _STEPS = 0, 1

StepFn = Callable[
  [TrainState, Mapping[str, Array]], tuple[TrainState, dict[str, Array]]
]


def train(
  config: Config,
  source: sources.ImageSource,
  workdir: str | pathlib.Path,
  *,
  mesh: Mesh,
  evaluators: Sequence[evaluation.Evaluator] = (),
  stop: preemption.Stop | None = None,
  profile: range = range(0),
  allow_config_change: bool = False,
  read_networks: init_from.Reader = checkpoint_lib.load_networks,
  best: checkpoint_lib.Best | None = None,
  write_page: result_page.Write | None = None,
) -> TrainState:
  """Trains, or continues training, and returns the last state.

  If `workdir` holds a run with the same configuration, it continues from its
  newest checkpoint, with the same numbers as an uninterrupted run.

  Args:
    config: A configuration with the fields of `config.default_config`.
    source: The training images.
    workdir: The run folder.
    mesh: The devices; see `sharding.make_mesh`.
    evaluators: Called before the first step and at every snapshot. An error
      in one is logged, and the run continues.
    stop: Queried after every step for whether to end early; see `preemption`.
    profile: Steps to record in `profile/` of the run folder, counted from 1.
    allow_config_change: Whether a run may continue with a different
      configuration, as long as the arrays keep their shapes.
    read_networks: Reads what `train.init_from` names.
    best: The metric by which the best checkpoint is kept, besides the newest.
    write_page: Writes a page of results from the files in the run folder, and
      returns its path. Called at every snapshot and at the end.

  Raises:
    FileNotFoundError: If the networks to start from do not exist.
    ValueError: If the configuration is impossible, differs from the one with
      which the run in `workdir` began, or does not fit the networks to start
      from; or if no checkpoint can be read.
    OSError: If the run folder cannot be written, or its disk is full.
    FloatingPointError: If the losses are not finite for too long.
    RuntimeError: If one of the other errors is raised only on other processes.
  """
  workdir = files.local_path(workdir)
  plateau = plateau_lib.Plateau(workdir, best, config.train.plateau_kimg)
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax_settings.standard_numerics())
    stack.enter_context(jax.set_mesh(mesh))
    watch = stack.enter_context(peers.watch(config.log.hang_minutes))
    trainer, reasons = build.prepare(config, source, mesh)
    trainer, more = build.settle_micro_batches(config, trainer, mesh)
    start = init_from.prepare(config, trainer, workdir, read_networks)

    writer, changes = _open_folder(
      stack, config, source, workdir, allow_config_change
    )
    checkpoints = checkpoint_lib.Checkpoints(
      workdir, keep=config.log.keep_checkpoints, best=best
    )
    stack.callback(checkpoints.close)

    state = _restore_or_init(
      trainer, mesh, config.seed, checkpoints, start, writer.log
    )
    step, nimg = map(int, jax.device_get((state.step, state.nimg)))
    with processes.fail_together('write the start of the log'):
      if changes:  # Record them now that the checkpoint is known to fit.
        writer.record_change(changes, config, step)
      dataset.record(writer.workdir, source)
      startup_summary.log_run(
        writer, config, source, trainer, state, mesh, reasons + more
      )
      startup_summary.log_transfer(writer, config, trainer, start)

    page = result_page.ResultPage(write_page, workdir, writer.log)
    session = (writer, checkpoints, best, plateau, evaluators, page)
    run = _make_run(
      config, source, trainer, mesh, *session, stop, profile, watch
    )
    stack.callback(run.close)
    batches = stack.enter_context(
      batches_lib.open_batches(
        config, source, mesh, step=step, nimg=nimg, log=writer.log
      )
    )
    step_fn = _make_step_fn(trainer, mesh, config, writer.log)
    return run.loop(state, step_fn, batches)


def _open_folder(
  stack: contextlib.ExitStack,
  config: Config,
  source: sources.ImageSource,
  workdir: str | pathlib.Path,
  allow_config_change: bool,
) -> tuple[writer_lib.RunWriter, list[str]]:
  """Opens the run folder; returns its writer and the changes to the run."""
  with processes.fail_together('open the run folder'):
    writer = stack.enter_context(writer_lib.RunWriter(workdir))
    changes = compare.check_changes(
      writer.open_options(config), writer.workdir, allow_all=allow_config_change
    )
    changes += dataset.check(
      writer.workdir, source, allow_config_change=allow_config_change
    )
    if config.log.wandb_project:
      writer.open_wandb(config.log.wandb_project, config)
  return writer, changes


def _restore_or_init(
  trainer: trainer_lib.Trainer,
  mesh: Mesh,
  seed: int,
  checkpoints: checkpoint_lib.Checkpoints,
  start: init_from.Start | None,
  log: Callable[[str], None],
) -> TrainState:
  """Returns the newest state of the run, or its initial state."""
  init = trainer_lib.jit_init(trainer, mesh)
  key = trainer_lib.make_key(seed, _INIT)
  if checkpoints.latest() is None:
    init = text.announce_first_call(init, log, 'the networks as new')
    return init(key) if start is None else start.enter(init(key))
  shapes = jax.eval_shape(init, key)
  like = jax.tree.map(
    lambda x, stored: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=stored),
    shapes,
    sharding.state_shardings(shapes, mesh, trainer.layout),
  )
  return checkpoints.restore(like, log)


def _make_run(
  config: Config,
  source: sources.ImageSource,
  trainer: trainer_lib.Trainer,
  mesh: Mesh,
  writer: writer_lib.RunWriter,
  checkpoints: checkpoint_lib.Checkpoints,
  best: checkpoint_lib.Best | None,
  plateau: plateau_lib.Plateau,
  evaluators: Sequence[evaluation.Evaluator],
  page: result_page.ResultPage,
  stop: preemption.Stop | None,
  profile: range,
  watch: peers.Watch,
) -> '_Run':
  """Returns the loop of this session, set up from the configuration."""
  return _Run(
    trainer,
    mesh,
    config.train.batch,
    schedule_lib.make_schedule(config),
    writer=writer,
    checkpoints=checkpoints,
    saver=saving.Saver(
      checkpoints,
      options=dataset.with_class_names(config.to_dict(), source),
      best=best,
      max_refused=config.log.max_nonfinite_ticks,
      log=writer.log,
    ),
    losses=health.LossWatch(config.log.max_nonfinite_ticks, writer.log),
    plateau=plateau,
    evaluators=evaluators,
    page=page,
    stop=stop or preemption.Stop(),
    profiler=profiling.Profiler(profile, writer.workdir, writer.log),
    watch=watch,
  )


def _make_step_fn(
  trainer: trainer_lib.Trainer,
  mesh: Mesh,
  config: Config,
  log: Callable[[str], None],
) -> StepFn:
  """Returns the jitted step as a function of a state and a batch."""
  step = text.announce_first_call(
    trainer_lib.jit_step(trainer, mesh), log, 'a training step'
  )
  key = trainer_lib.make_key(config.seed, _STEPS)
  if not config.log.transfer_guard:
    return lambda state, batch: step(state, batch, key)

  def guarded(
    state: TrainState, batch: Mapping[str, Array]
  ) -> tuple[TrainState, dict[str, Array]]:
    with jax.transfer_guard('disallow'):
      return step(state, batch, key)

  return guarded


class _Run:
  """The loop of one session, with its ticks and snapshots."""

  def __init__(
    self,
    trainer: trainer_lib.Trainer,
    mesh: Mesh,
    batch: int,
    schedule: schedule_lib.Schedule,
    *,
    writer: writer_lib.RunWriter,
    checkpoints: checkpoint_lib.Checkpoints,
    saver: saving.Saver,
    losses: health.LossWatch,
    plateau: plateau_lib.Plateau,
    evaluators: Sequence[evaluation.Evaluator],
    page: result_page.ResultPage,
    stop: preemption.Stop,
    profiler: profiling.Profiler,
    watch: peers.Watch,
  ):
    self._schedule = schedule
    self._trainer = trainer
    self._mesh = mesh
    self._batch = batch
    self._writer = writer
    self._checkpoints = checkpoints
    self._saver = saver
    self._losses = losses
    self._plateau = plateau
    self._augment = health.AugmentWatch(writer.log)
    self._evaluators = evaluation.Evaluators(
      evaluators, writer.log, lambda: bool(stop.signal)
    )
    self._page = page
    self._stop = stop
    self._profiler = profiler
    self._watch = watch
    self._fleet = fleet.Fleet()
    self._tick_step = 0  # The step at which the tick began.

  def loop(
    self, state: TrainState, step_fn: StepFn, batches: batches_lib.Batches
  ) -> TrainState:
    """Steps until the end or a request to stop; returns the last state."""
    step, nimg = map(int, jax.device_get((state.step, state.nimg)))
    clock = self._start_clock(nimg)
    if step == 0:
      self._snapshot(state, nimg, clock, save=False)
    end = self._plateau.reached()
    stats = statistics.Accumulator()
    in_flight = collections.deque()
    self._start_tick(clock, step)
    while not (end or self._schedule.is_over(nimg)):
      self._profiler.before(step + 1, state)
      with self._fleet.waiting('data'):
        batch = next(batches)
      state, moments = step_fn(state, batch)
      stats.add(moments)
      in_flight.append(moments)
      if len(in_flight) > trainer_lib.STEPS_IN_FLIGHT:
        # Bounds the memory for batches and results of pending steps.
        with self._fleet.waiting('devices'):
          jax.block_until_ready(in_flight.popleft())
      step, nimg = step + 1, nimg + self._batch
      self._watch.step = step
      self._profiler.after(step, state)
      if self._schedule.ends_tick(nimg, self._batch):
        with self._fleet.waiting('devices'):
          values = stats.result()
        self._end_tick(state, step, nimg, clock, values)
        if self._schedule.ends_snapshot(nimg, self._batch):
          self._snapshot(state, nimg, clock)
          end = self._plateau.reached()
        self._start_tick(clock, step)
      if not self._schedule.is_over(nimg) and self._stop.reached(step):
        self._stop_early(state, step, nimg, stats.result())
        return state
    self._saver.wait()  # The run is done once the state is saved.
    if end and not self._schedule.is_over(nimg):
      self._writer.log(f'Plateau:        {end}')
    self._page.announce()
    self._writer.log(f'Done: {nimg / 1000:g} kimg')
    return state

  def close(self) -> None:
    """Ends a profile that is being recorded."""
    self._profiler.close()

  def _start_clock(self, nimg: int) -> ticks.TickClock:
    """Starts the clock where the previous session stopped it."""
    with processes.fail_together('cut off the records of steps to come'):
      last = self._writer.truncate_after(nimg / 1000 if nimg else -1)

    def value(name: str, default: float) -> float:
      return last.get(name, {}).get('mean', default)

    return ticks.TickClock(
      nimg=nimg,
      total_nimg=self._schedule.total,
      tick=int(value('Progress/tick', -1)) + 1,
      elapsed_sec=value('Timing/total_sec', 0.0),
      evaluation_sec=value('Timing/evaluation_sec', 0.0),
    )

  def _start_tick(self, clock: ticks.TickClock, step: int) -> None:
    clock.start_tick()
    self._fleet.start_tick()
    self._tick_step = step

  def _end_tick(
    self,
    state: TrainState,
    step: int,
    nimg: int,
    clock: ticks.TickClock,
    stats: statistics.Stats,
  ) -> None:
    """Reports a tick, and checks that the run is healthy."""
    p = self._trainer.augment_probability(state)
    tick = clock.end_tick(nimg, augment=p)
    paces = self._fleet.end_tick(step - self._tick_step)
    with processes.fail_together('write the tick'):
      self._writer.write_tick(tick, stats)
      if paces:
        self._writer.log(paces)
      self._losses.update(stats, tick.kimg, self._checkpoints.describe_latest())
      self._checkpoints.check()
      health.warn_nonfinite(stats, self._writer.log)
      self._augment.update(p)

  def _snapshot(
    self,
    state: TrainState,
    nimg: int,
    clock: ticks.TickClock,
    *,
    save: bool = True,
  ) -> None:
    snapshot = Snapshot(
      workdir=self._writer.workdir,
      kimg=nimg / 1000,
      is_last=self._schedule.is_over(nimg),
      generator=self._trainer.generator,
      # Evaluators use whole networks, wherever their parts are stored.
      variables=sharding.replicate(state.generator_ema, self._mesh),
      discriminator=self._trainer.discriminator,
      discriminator_variables=sharding.replicate(
        state.discriminator, self._mesh
      ),
    )
    with clock.evaluation():
      values = self._evaluators(snapshot)
    if nimg and self._evaluators:
      self._writer.log(
        f'Evaluation:     {clock.evaluation_share():.0%} of the time so far'
      )
    with processes.fail_together('write the metrics'):
      self._writer.write_metrics(values, snapshot.kimg)
    self._page.update()
    if save:  # Save last: a run killed before this measures it again.
      self._saver.save(state, values, healthy=self._losses.healthy)

  def _stop_early(
    self, state: TrainState, step: int, nimg: int, stats: statistics.Stats
  ) -> None:
    """Saves and stops in the middle of a tick with these statistics."""
    kimg = nimg / 1000
    self._losses.update(stats, kimg, self._checkpoints.describe_latest())
    if self._checkpoints.latest() != step:
      self._saver.save(state, {}, healthy=self._losses.healthy)
    self._saver.wait()
    self._stop.obeyed = True
    self._writer.log(
      f'Stopped:        by {self._stop.signal} at step {step}, {kimg:g} kimg. '
      'Run the same command again to continue'
    )
