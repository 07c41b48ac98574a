"""The order of batches, their rows on every host, and how loading ends."""

import collections
import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from multiprocessing import resource_tracker

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sg3jax.data import files, labels, loader, sources


class Numbers:
  """Image i is filled with i on the left and 255 - i on the right."""

  name = 'numbers'

  def __init__(self, count, *, channels=3, broken=()):
    self.count, self.channels, self.broken = count, channels, broken
    self.resolution, self.label_dim = 4, 2

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    if index in self.broken:
      raise ValueError(f'image {index} is broken')
    image = np.full((4, 4, self.channels), index, np.uint8)
    image[:, 2:] = 255 - index
    return {'image': image, 'label': self.labels()[index]}

  def labels(self):
    numbers = np.arange(self.count, dtype=np.float32)
    return labels.Labels(np.stack([numbers, -numbers], axis=1), 2)


def take(count, source, **options):
  with loader.make_loader(source, **options) as batches:
    return list(itertools.islice(batches, count))


def numbers(batches):
  """Returns which images the batches hold, flipped ones included."""
  return np.concatenate([b['label'][:, 0] for b in batches]).astype(int)


def equal(a, b):
  return len(a) == len(b) and all(
    np.array_equal(x[key], y[key])
    for x, y in zip(a, b, strict=True)
    for key in ('image', 'label')
  )


def test_the_test_source_is_a_source():
  assert isinstance(Numbers(1), sources.ImageSource)


@pytest.mark.parametrize('num_threads', [0, 1, 3])
def test_shapes_types_and_rows(num_threads):
  batches = take(6, Numbers(10), batch_size=4, seed=0, num_threads=num_threads)
  for batch in batches:
    assert set(batch) == {'image', 'label'}
    assert (batch['image'].shape, batch['label'].shape) == (
      (4, 4, 4, 3),
      (4, 2),
    )
    assert (batch['image'].dtype, batch['label'].dtype) == (
      np.uint8,
      np.float32,
    )
    np.testing.assert_array_equal(
      batch['image'][:, 0, 0, 0], batch['label'][:, 0]
    )


def test_order_depends_on_the_seed_alone():
  def run(seed, num_threads=2):
    return take(
      20, Numbers(11), batch_size=4, seed=seed, num_threads=num_threads
    )

  first = run(0)
  assert equal(run(0), first)
  assert equal(run(0, num_threads=0), first)
  assert not equal(run(1), first)


def test_processes_give_the_same_batches():
  options = {
    'batch_size': 4, 'seed': 3, 'start_image': 5, 'mirror': True,
    'process_index': 1, 'process_count': 2,
  }  # fmt: skip
  found = take(
    13,
    Numbers(11),
    num_processes=2,
    num_threads=2,
    **options,
  )
  assert equal(found, take(13, Numbers(11), num_threads=0, **options))


@settings(max_examples=15, deadline=None)
@given(
  count=st.integers(1, 40),
  batch=st.integers(1, 50),
  seed=st.integers(0, 2**32 - 1),
  mirror=st.booleans(),
)
def test_every_epoch_shows_every_image_once(count, batch, seed, mirror):
  epoch = 2 * count if mirror else count
  seen = numbers(
    take(
      -(-4 * epoch // batch),
      Numbers(count),
      batch_size=batch,
      seed=seed,
      mirror=mirror,
      num_threads=0,
    )
  )
  times = 2 if mirror else 1
  for shown in seen[: 4 * epoch].reshape(4, epoch):
    assert collections.Counter(shown) == dict.fromkeys(range(count), times)


def test_no_two_epochs_are_equal():
  """Nor is an epoch of one seed that of a neighbouring seed."""
  epochs = set()
  for seed in range(3):
    seen = numbers(take(30, Numbers(30), batch_size=30, seed=seed))
    epochs |= {tuple(epoch) for epoch in seen.reshape(30, 30)}
  assert len(epochs) == 90


def test_orders_are_uniform():
  """All 6 orders of 3 images come equally often."""
  seen = numbers(take(90, Numbers(3), batch_size=4, seed=0))
  counts = collections.Counter(tuple(epoch) for epoch in seen.reshape(-1, 3))
  chi2 = sum((count - 20) ** 2 / 20 for count in counts.values())
  assert len(counts) == 6
  assert chi2 < 25  # Of 5 degrees of freedom: probability 1e-4.


@settings(max_examples=12, deadline=None)
@given(
  count=st.integers(1, 30),
  start=st.integers(0, 40),
  mirror=st.booleans(),
  processes=st.sampled_from([1, 2, 3]),
)
def test_starting_at_a_step_is_getting_there(count, start, mirror, processes):
  def run(steps, **options):
    return take(
      steps,
      Numbers(count),
      batch_size=6,
      seed=5,
      mirror=mirror,
      process_index=processes - 1,
      process_count=processes,
      num_threads=0,
      **options,
    )

  assert equal(run(start + 3)[start:], run(3, start_image=6 * start))


def test_a_far_step_is_reached_at_once():
  begin = time.monotonic()
  batches = take(2, Numbers(3), batch_size=32, seed=0, start_image=320_000_000)
  assert time.monotonic() - begin < 5
  assert batches[0]['image'].shape[0] == 32


@settings(max_examples=12, deadline=None)
@given(
  count=st.integers(1, 30),
  sizes=st.lists(st.sampled_from([2, 4, 6, 10]), min_size=2, max_size=5),
  mirror=st.booleans(),
)
def test_another_batch_size_skips_and_repeats_no_image(count, sizes, mirror):
  """Whatever the size of each batch, the images are those of one size."""

  def run(start, size, process_index=0, process_count=1):
    (batch,) = take(
      1,
      Numbers(count),
      batch_size=size,
      seed=5,
      start_image=start,
      mirror=mirror,
      process_index=process_index,
      process_count=process_count,
      num_threads=0,
    )
    return batch['image']

  start, parts = 0, []
  for size in sizes:
    parts.append(run(start, size))
    halves = [run(start, size, i, 2) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), parts[-1])
    start += size
  np.testing.assert_array_equal(np.concatenate(parts), run(0, start))


@settings(max_examples=12, deadline=None)
@given(
  count=st.integers(1, 30),
  local=st.integers(1, 4),
  processes=st.integers(1, 4),
  mirror=st.booleans(),
)
def test_hosts_together_hold_the_batch(count, local, processes, mirror):
  def run(index, total):
    return take(
      7,
      Numbers(count),
      batch_size=local * processes,
      seed=3,
      mirror=mirror,
      process_index=index,
      process_count=total,
      num_threads=0,
    )

  parts = [run(i, processes) for i in range(processes)]
  joined = [
    {k: np.concatenate([p[k] for p in step]) for k in step[0]}
    for step in zip(*parts, strict=True)
  ]
  assert equal(joined, run(0, 1))


def test_mirror_shows_both_sides():
  (batch,) = take(1, Numbers(5), batch_size=10, seed=0, mirror=True)
  plain = {i: Numbers(5)[i]['image'] for i in range(5)}
  seen = collections.Counter()
  for image, label in zip(batch['image'], batch['label'], strict=True):
    number = int(label[0])
    flipped = image[0, 0, 0] != number
    expected = plain[number][:, ::-1] if flipped else plain[number]
    np.testing.assert_array_equal(image, expected)
    seen[number, flipped] += 1
  assert seen == dict.fromkeys(itertools.product(range(5), [False, True]), 1)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_one_image_fills_batches(channels):
  batches = take(
    3, Numbers(1, channels=channels), batch_size=5, seed=0, mirror=True
  )
  sides = np.concatenate([b['image'][:, 0, 0, 0] for b in batches])
  assert batches[0]['image'].shape == (5, 4, 4, channels)
  assert set(sides) == {0, 255}


@pytest.mark.parametrize(
  ('num_threads', 'num_processes'), [(0, 0), (2, 0), (0, 1)]
)
def test_errors_reach_the_consumer_in_order(num_threads, num_processes):
  order = numbers(take(5, Numbers(20), batch_size=4, seed=0))
  broken = Numbers(20, broken={int(order[9])})
  with loader.make_loader(
    broken,
    batch_size=4,
    seed=0,
    num_threads=num_threads,
    num_processes=num_processes,
  ) as batches:
    for _ in range(2):
      next(batches)
    with pytest.raises(ValueError, match=f'image {order[9]} is broken'):
      next(batches)
    with pytest.raises(ValueError, match='closed'):  # Batch 2 is not skipped.
      next(batches)


def test_a_damaged_file_is_named(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  for name in 'ab':
    Image.fromarray(pixels).save(tmp_path / f'{name}.png')
  whole = (tmp_path / 'b.png').read_bytes()
  (tmp_path / 'b.png').write_bytes(whole[: len(whole) // 2])
  source = files.ImageFiles(tmp_path)
  with pytest.raises(ValueError, match=r'b\.png in .* replace or remove it'):
    take(1, source, batch_size=2, seed=0)


def test_reading_ahead_is_bounded_and_ends_on_close():
  """Threads read a few batches ahead, and none after the loader is closed."""
  lock, read = threading.Lock(), []

  class Counted(Numbers):
    def __getitem__(self, index):
      with lock:
        read.append(index)
      return super().__getitem__(index)

  def settled():
    count = -1
    while count != len(read):
      count = len(read)
      time.sleep(0.2)
    return count

  batches = loader.make_loader(Counted(50), batch_size=4, seed=0, num_threads=2)
  assert settled() == 0  # Nothing is read before the first batch is wanted.
  next(batches)
  ahead = settled()
  assert 4 < ahead <= 4 * 5
  batches.close()
  batches.close()
  assert settled() == ahead
  with pytest.raises(ValueError, match='closed'):
    next(batches)


def _children() -> list[psutil.Process]:
  """Returns the processes that read for this one."""
  return [
    child
    for child in psutil.Process().children()
    if 'resource_tracker' not in ' '.join(child.cmdline())
  ]


def test_processes_outlive_signals_to_all_and_end_on_close():
  """A terminal's Ctrl-C and a scheduler's notice go to each process of a job.

  They arrive from the moment at which a process exists; the batches are those
  without a signal.
  """
  expected = take(20, Numbers(11), batch_size=4, seed=0)
  resource_tracker.ensure_running()  # It is a child too, but reads nothing.
  before = set(_children())
  readers = set()
  done = threading.Event()

  def send():
    while not done.wait(0.01):
      for reader in set(_children()) - before:
        readers.add(reader)
        reader.send_signal(signal.SIGINT)
        reader.send_signal(signal.SIGTERM)

  sender = threading.Thread(target=send)
  sender.start()
  try:
    with loader.make_loader(
      Numbers(11), batch_size=4, seed=0, num_threads=0, num_processes=2
    ) as batches:
      found = [next(batches) for _ in range(20)]
      done.set()
      sender.join()
  finally:
    done.set()
  assert len(readers) == 2
  assert equal(found, expected)
  gone, alive = psutil.wait_procs(readers, timeout=10)
  assert (len(gone), alive) == (2, [])


def test_a_process_that_dies_is_noticed():
  before = set(_children())
  with loader.make_loader(
    Numbers(11), batch_size=4, seed=0, num_threads=0, num_processes=1
  ) as batches:
    next(batches)
    (reader,) = set(_children()) - before
    reader.kill()
    with pytest.raises(RuntimeError, match='exit code -9'):
      list(batches)


def test_processes_end_with_the_one_that_they_read_for():
  """Nobody is left to tell them to end if that one is killed."""
  script = f"""
    import sys, time
    sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
    import test_loader
    from sg3jax.data import loader
    if __name__ == '__main__':
      x = loader.make_loader(
        test_loader.Numbers(9), batch_size=2, seed=0, num_processes=2
      )
      next(x)
      print([child.pid for child in test_loader._children()], flush=True)
      time.sleep(60)
  """
  reader = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(script)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert reader.stdout is not None
  pids = json.loads(reader.stdout.readline())
  children = [psutil.Process(pid) for pid in pids]
  assert len(children) == 2
  reader.kill()
  reader.wait()
  _, alive = psutil.wait_procs(children, timeout=10)
  assert not alive


@pytest.mark.parametrize('use', ['', 'next(x)', 'next(x); x.close()'])
def test_the_process_ends(use):
  """Returns whether the loader was consumed, closed, or neither."""
  script = f"""
    import numpy as np
    from sg3jax.data import loader
    class Source:
      name, resolution, channels, label_dim = 's', 2, 3, 0
      def __len__(self):
        return 5
      def __getitem__(self, index):
        return {{'image': np.zeros((2, 2, 3), np.uint8),
                'label': np.zeros(0, np.float32)}}
    x = loader.make_loader(Source(), batch_size=4, seed=0, num_threads=2)
    {use}
  """
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(script)],
    timeout=60,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize(
  ('options', 'problem'),
  [
    ({'batch_size': 5, 'process_count': 2}, 'batch_size must be .* 2, got 5'),
    ({'batch_size': 0}, 'got 0'),
    ({'process_index': 2, 'process_count': 2}, 'from 0 to 1, got 2'),
    ({'process_index': -1}, 'from 0 to 0, got -1'),
    ({'seed': -1}, 'got -1'),
    ({'seed': 2**32}, 'got 4294967296'),
    ({'start_image': -1}, 'got -1, 2 and 0'),
    ({'num_threads': -1}, 'got 0, -1 and 0'),
    ({'num_processes': -1}, 'got 0, 2 and -1'),
  ],
)
def test_bad_arguments(options, problem):
  with pytest.raises(ValueError, match=problem):
    loader.make_loader(Numbers(3), **({'batch_size': 4, 'seed': 0} | options))


def test_no_images():
  with pytest.raises(ValueError, match='numbers must have images'):
    loader.make_loader(Numbers(0), batch_size=4, seed=0)


class _Slow(Numbers):
  """Every read of some images takes a while."""

  def __init__(self, count, slow, seconds):
    super().__init__(count)
    self._slow, self._seconds = slow, seconds

  def __getitem__(self, index):
    if index in self._slow:
      time.sleep(self._seconds)
    return super().__getitem__(index)


@pytest.mark.parametrize('num_threads', [0, 2])
def test_a_stall_is_reported_once_while_it_lasts(num_threads):
  order = numbers(take(8, Numbers(40), batch_size=4, seed=0))
  # Batches 2 and 6 stall for half a second, two images of each for a half.
  slow = {int(order[i]) for i in (8, 9, 24, 25)}
  said = []

  def report(text):
    said.append((time.monotonic(), text))

  with loader.make_loader(
    _Slow(40, slow, 0.25),
    batch_size=4,
    seed=0,
    num_threads=num_threads,
    report=report,
    patience_sec=0.2,
  ) as batches:
    for i in range(8):
      next(batches)
      if i == 1:
        assert not said
  (early, waiting), (late, came) = said
  assert waiting.startswith('Warning: waiting for data: no batch for 0.2 s')
  assert 'data.workers' in waiting
  assert re.fullmatch(r'The data arrived after 0\.[345]\d* s', came)
  assert late > early + 0.1  # It was said while the run was waiting.


@pytest.mark.parametrize('kind', [SystemExit, MemoryError, KeyboardInterrupt])
def test_a_thread_that_dies_is_noticed(kind):
  class Deadly(Numbers):
    def __getitem__(self, index):
      raise kind('dead')

  with (
    loader.make_loader(
      Deadly(8), batch_size=4, seed=0, num_threads=2, report=print
    ) as batches,
    pytest.raises(kind, match='dead'),
  ):
    next(batches)
