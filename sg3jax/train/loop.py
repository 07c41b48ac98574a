"""A run from its configuration to its last checkpoint."""

import contextlib
import math
import pathlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from sg3jax import files, text
from sg3jax.data import loader as loader_lib
from sg3jax.data import sources
from sg3jax.nets import factory
from sg3jax.train import checkpoint as checkpoint_lib
from sg3jax.train import config as config_lib
from sg3jax.train import (
  evaluation,
  health,
  init_from,
  memory_plan,
  preemption,
  profiling,
  sharding,
  statistics,
)
from sg3jax.train.config import compare
from sg3jax.train.run_folder import progress_bar, startup_summary, ticks
from sg3jax.train.run_folder import writer as writer_lib
from sg3jax.train.step import ada, augment, freeze, phases
from sg3jax.train.step import trainer as trainer_lib
from sg3jax.train.step.state import TrainState
from sg3jax.types import Array, Config, Snapshot


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
) -> TrainState:
  """Trains, or goes on training, and returns the last state.

  If `workdir` holds a run of the same configuration, it continues from its
  newest checkpoint, with the numbers it would have had uninterrupted.

  Args:
    config: A configuration with the fields of `config.default_config`.
    source: The training images.
    workdir: The run folder.
    mesh: The devices, see `sharding.make_mesh`.
    evaluators: Called before the first step and at every snapshot. What they
      raise is logged, and the run goes on.
    stop: Whether to end early, asked after every step; see `preemption`.
    profile: Steps, counted from 1, to record in `profile/` of the run folder.
    allow_config_change: Whether to go on with another configuration than the
      run began with, as far as the arrays keep their shapes.
    read_networks: Reads what `train.init_from` names.
    best: The metric by which the best checkpoint is kept beside the newest.

  Raises:
    FileNotFoundError: If the run is to start from networks that do not exist.
    ValueError: If the configuration is impossible, or differs from the one
      that the run in `workdir` began with, or does not fit the networks to
      start from; if no checkpoint can be read.
    OSError: If the run folder cannot be written, or its disk is full.
    FloatingPointError: If the losses are not finite for too long.
  """
  workdir = files.local_path(workdir)
  trainer, reasons = prepare(config, source, mesh)
  if not config.train.micro_batches:
    reasons.append(_settle_micro_batches(config, trainer, mesh))
    trainer = make_trainer(config)
  start = init_from.prepare(config, trainer, workdir, read_networks)
  with contextlib.ExitStack() as stack:
    writer = stack.enter_context(writer_lib.RunWriter(workdir))
    stack.enter_context(jax.set_mesh(mesh))
    changes = _check_options(config, writer, allow_config_change)
    if config.log.wandb_project:
      writer.open_wandb(config.log.wandb_project, config)
    checkpoints = checkpoint_lib.Checkpoints(
      workdir, keep=config.log.keep_checkpoints, best=best
    )
    stack.callback(checkpoints.close)
    state = _restore_or_init(
      config, trainer, checkpoints, mesh, start, writer.log
    )
    if changes:  # Now that the checkpoint is known to fit.
      writer.record_change(changes, config, int(state.step))
    startup_summary.log_run(
      writer, config, source, trainer, state, mesh, reasons
    )
    startup_summary.log_transfer(writer, config, trainer, start)
    stop = stop or preemption.Stop()
    profiler = profiling.Profiler(profile, writer.workdir, writer.log)
    stack.callback(profiler.close)
    run = _Run(
      config,
      trainer,
      writer,
      checkpoints,
      evaluation.Evaluators(evaluators, writer.log, lambda: bool(stop.signal)),
      mesh,
      stop,
      profiler,
    )
    batches = _batches(config, source, mesh, int(state.step), writer.log)
    stack.callback(batches.close)
    state = run.loop(state, batches)
  return state


def prepare(
  config: Config, source: sources.ImageSource, mesh: Mesh
) -> tuple[trainer_lib.Trainer, list[str]]:
  """Settles in place what a configuration leaves to the data, and checks it.

  Args:
    config: A configuration with the fields of `config.default_config`.
    source: The training images.
    mesh: The devices.

  Returns:
    Networks and recipe, and a reason for each field that was settled.

  Raises:
    ValueError: If the configuration is impossible, or its batch cannot be
      spread over the devices.
  """
  reasons = config_lib.resolve(
    config, img_channels=source.channels, label_dim=source.label_dim
  )
  sharding.check_batch(
    config.train.batch,
    mesh,
    micro_batches=config.train.micro_batches or 1,
    pl_batch_shrink=config.train.pl_batch_shrink
    if config.train.pl_weight
    else 1,
  )
  return make_trainer(config), reasons


def make_trainer(config: Config) -> trainer_lib.Trainer:
  """Returns networks and recipe of a resolved configuration.

  Raises:
    ValueError: If the networks are impossible.
  """
  options = config.train
  generator = factory.make_generator(config.model.to_dict())
  discriminator = factory.make_discriminator(config.model.to_dict())
  return trainer_lib.Trainer(
    generator=generator,
    discriminator=discriminator,
    recipe=phases.Recipe(
      r1_gamma=options.r1_gamma,
      r1_interval=options.r1_interval,
      ema_kimg=options.ema_kimg,
      ema_rampup=options.ema_rampup,
      blur_init_sigma=options.blur_init_sigma,
      blur_fade_kimg=options.blur_fade_kimg or 0.0,
      style_mixing_prob=options.style_mixing_prob,
      pl_weight=options.pl_weight,
      pl_interval=options.pl_interval,
      pl_batch_shrink=options.pl_batch_shrink,
      pl_decay=options.pl_decay,
      augmentation=_make_augmentation(options.augment),
      micro_batches=max(options.micro_batches, 1),
    ),
    g_lr=options.g_lr,
    d_lr=options.d_lr,
    frozen=freeze.make_frozen(
      generator,
      discriminator,
      # On the command line, `mapping,synthesis` makes a tuple of one.
      generator_parts=[
        part for names in options.freeze_g for part in names.split(',')
      ],
      discriminator_layers=options.freeze_d,
    ),
  )


def _make_augmentation(options: Config) -> ada.Augmentation | None:
  if options.mode == 'none':
    return None
  return ada.Augmentation(
    ops=augment.get_ops(options.pipeline),
    fixed_p=options.p if options.mode == 'fixed' else None,
    target=options.target,
    speed_kimg=options.speed_kimg,
    interval=options.interval,
  )


def _settle_micro_batches(
  config: Config, trainer: trainer_lib.Trainer, mesh: Mesh
) -> str:
  """Chooses the largest micro-batches that fit; returns what and why."""
  memory = memory_plan.device_memory(mesh)
  if memory is None:
    config.train.micro_batches = 1
    return 'train.micro_batches = 1: this device does not tell its memory'
  chosen, _ = memory_plan.fit(trainer, mesh, config.train.batch, memory)
  config.train.micro_batches = chosen.micro_batches
  return (
    f'train.micro_batches = {chosen.micro_batches}: takes '
    f'{chosen.peak / 2**30:.2f} of {memory / 2**30:.2f} GiB'
  )


def _check_options(
  config: Config, writer: writer_lib.RunWriter, allow_change: bool
) -> list[str]:
  """Returns what differs from the run so far; raises if it may not."""
  younger = compare.younger_fields()
  difference = [d for d in writer.open_options(config) if d not in younger]
  refused = [d for d in difference if not d.startswith(compare.MAY_CHANGE)]
  if refused and not allow_change:
    raise ValueError(
      f'{writer.workdir} holds a run of another configuration: '
      + '; '.join(refused)
      + '. Use the same options to go on, or another --workdir; or pass '
      '--allow_config_change if the run shall go on with these'
    )
  return difference


def _restore_or_init(
  config: Config,
  trainer: trainer_lib.Trainer,
  checkpoints: checkpoint_lib.Checkpoints,
  mesh: Mesh,
  start: init_from.Start | None,
  log: Callable[[str], None],
) -> TrainState:
  init = trainer_lib.jit_init(trainer, mesh)
  key = jax.random.fold_in(jax.random.key(config.seed), 0)
  if checkpoints.latest() is None:
    init = text.announce_first_call(init, log, 'the networks as new')
    return init(key) if start is None else start.enter(init(key))
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding.replicated(mesh)
    ),
    jax.eval_shape(init, key),
  )
  return checkpoints.restore(like, log)


def _batches(
  config: Config,
  source: sources.ImageSource,
  mesh: Mesh,
  start_step: int,
  report: Callable[[str], None],
) -> Generator[dict[str, Array]]:
  """Yields the global batches from a step on, a function of (seed, step)."""
  batch = config.train.batch
  local = slice(
    jax.process_index() * batch // jax.process_count(),
    (jax.process_index() + 1) * batch // jax.process_count(),
  )
  labels = source.labels() if config.model.label_dim else None
  with loader_lib.make_loader(
    source,
    batch_size=batch,
    seed=config.seed,
    start_step=start_step,
    mirror=config.data.mirror,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_threads=config.data.workers,
    report=report,
  ) as loader:
    total = _steps(config, config.train.total_kimg)
    rows_of_steps = progress_bar.track(
      loader, done=start_step, total=total, kimg_per_step=batch / 1000
    )
    for step, rows in enumerate(rows_of_steps, start_step):
      if labels is None:
        rows = {'image': rows['image']}
      else:  # Generated images get labels as frequent as in the data.
        rng = np.random.default_rng((config.seed, step))
        for name in ('g_label', 'd_label'):
          drawn = labels[rng.integers(len(labels), size=batch)]
          rows = rows | {name: drawn[local]}
      yield sharding.shard_batch(rows, mesh)


class _Run:
  """The loop of one session, and what it does at ticks and snapshots."""

  def __init__(
    self,
    config: Config,
    trainer: trainer_lib.Trainer,
    writer: writer_lib.RunWriter,
    checkpoints: checkpoint_lib.Checkpoints,
    evaluators: evaluation.Evaluators,
    mesh: Mesh,
    stop: preemption.Stop,
    profiler: profiling.Profiler,
  ):
    self._config = config
    self._trainer = trainer
    self._writer = writer
    self._checkpoints = checkpoints
    self._evaluators = evaluators
    self._mesh = mesh
    self._stop = stop
    self._profiler = profiler
    self._losses = health.LossWatch(config.log.max_nonfinite_ticks, writer.log)
    self._healthy = True  # Whether the losses of the last tick were finite.
    self._refused = 0  # States in a row that were not finite when saved.
    self._last_p = 0.0  # Of augmentations, at the last tick of this session.
    self._total_steps = _steps(config, config.train.total_kimg)
    self._steps_per_tick = _steps(config, config.log.kimg_per_tick)
    self._steps_per_snapshot = (
      self._steps_per_tick * config.log.ticks_per_snapshot
    )

  def loop(
    self, state: TrainState, batches: Iterator[dict[str, Array]]
  ) -> TrainState:
    """Steps until the end, or until told to stop; returns the last state."""
    step_fn = text.announce_first_call(
      trainer_lib.jit_step(self._trainer, self._mesh),
      self._writer.log,
      'a training step',
    )
    key = jax.random.fold_in(jax.random.key(self._config.seed), 1)
    done = int(state.step)
    clock = self._start_clock(state)
    if done == 0:
      self._snapshot(state, save=False)
    stats = statistics.Accumulator()
    clock.start_tick()
    while done < self._total_steps:
      self._profiler.before(done + 1, state)
      state, moments = step_fn(state, next(batches), key)
      stats.add(moments)
      done += 1
      self._profiler.after(done, state)
      is_last = done == self._total_steps
      if is_last or done % self._steps_per_tick == 0:
        values = stats.result()
        p = self._trainer.augment_probability(state)
        tick = clock.end_tick(int(state.nimg), augment=p)
        self._writer.write_tick(tick, values)
        self._check_losses(values, tick.kimg)
        self._checkpoints.check()
        self._warn_nonfinite(values)
        self._warn_augment(p)
        if is_last or done % self._steps_per_snapshot == 0:
          self._snapshot(state)
        clock.start_tick()
      if not is_last and self._stop.reached(done):
        self._stop_early(state, stats.result())
        return state
    self._checkpoints.wait()  # Done only when it is known to be saved.
    self._writer.log(f'Done: {int(state.nimg) / 1000:g} kimg')
    return state

  def _start_clock(self, state: TrainState) -> ticks.TickClock:
    """Starts the clock where the last session of the run stopped it."""
    nimg = int(state.nimg)
    last = self._writer.truncate_after(nimg / 1000 if nimg else -1)

    def value(name: str, default: float) -> float:
      return last.get(name, {}).get('mean', default)

    return ticks.TickClock(
      nimg=nimg,
      total_nimg=self._total_steps * self._config.train.batch,
      tick=int(value('Progress/tick', -1)) + 1,
      elapsed_sec=value('Timing/total_sec', 0.0),
    )

  def _snapshot(self, state: TrainState, *, save: bool = True) -> None:
    snapshot = Snapshot(
      workdir=self._writer.workdir,
      kimg=int(state.nimg) / 1000,
      is_last=int(state.step) == self._total_steps,
      generator=self._trainer.generator,
      variables=state.generator_ema,
    )
    figures = self._evaluators(snapshot)
    self._writer.write_metrics(figures, snapshot.kimg)
    if save:  # Last: a run killed above draws and measures this one again.
      self._save(state, figures)

  def _save(self, state: TrainState, figures: Mapping[str, float]) -> None:
    """Saves the state, unless that would put a sick one over good ones."""
    chosen = self._config.log.keep_best
    if chosen and figures and not math.isfinite(figures.get(chosen, math.nan)):
      self._writer.log(
        f'Warning: config.log.keep_best is {chosen}, which is none of the '
        f'figures, or no number: {", ".join(figures)}; see config.log.metrics'
      )
    if not self._healthy:
      self._writer.log('Not saved:      the losses are not finite')
      return
    try:
      self._checkpoints.save(state, self._config.to_dict(), figures)
    except FloatingPointError as error:
      self._refused += 1
      self._writer.log(f'Not saved:      {error}')
      if self._refused >= self._config.log.max_nonfinite_ticks:
        last_good = self._checkpoints.describe_latest()
        raise health.diverged(str(error), last_good) from error
    else:
      self._refused = 0

  def _check_losses(self, stats: statistics.Stats, kimg: float | int) -> None:
    self._healthy = self._losses.update(
      stats, kimg, self._checkpoints.describe_latest()
    )

  def _stop_early(self, state: TrainState, stats: statistics.Stats) -> None:
    """Saves and leaves, in the middle of a tick with these statistics."""
    kimg = int(state.nimg) / 1000
    self._check_losses(stats, kimg)
    if self._checkpoints.latest() != int(state.step):
      self._save(state, {})
    self._checkpoints.wait()
    self._stop.obeyed = True
    self._writer.log(
      f'Stopped:        by {self._stop.signal} at step {int(state.step)}, '
      f'{kimg:g} kimg. Run the same command again to go on'
    )

  def _warn_nonfinite(self, stats: statistics.Stats) -> None:
    for player in 'GD':
      count = stats.get(f'Gradients/nonfinite/{player}')
      if count and count['mean']:
        total = count['mean'] * count['num']
        self._writer.log(
          f'Warning: {total:.0f} non-finite gradient values of {player} were '
          'replaced in this tick'
        )

  def _warn_augment(self, p: float) -> None:
    """Says, once each time, that p has left the range that is healthy."""
    if self._last_p <= ada.HEALTHY_P < p:
      self._writer.log(
        f'Warning: the augmentation probability is above {ada.HEALTHY_P:g}: '
        'there may be too few images for this network, and '
        'augmentations may leak into what it generates. Look for turned or '
        'recoloured fakes; more images, data.mirror or a higher '
        'train.r1_gamma can help'
      )
    self._last_p = p


def _steps(config: Config, kimg: float) -> int:
  """Returns the steps that show at least so many images."""
  return math.ceil(kimg * 1000 / config.train.batch)
