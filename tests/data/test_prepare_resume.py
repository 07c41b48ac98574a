"""Interrupted preparation, continued: the same bytes in the end."""

import hashlib
import json
import os
import pathlib
import signal
import time

import numpy as np
import pytest
import raw_images

from sg3jax.data import files
from sg3jax.data.prepare import images, pool, run, writers
from sg3jax.data.prepare import options as options_lib

_OPTIONS = options_lib.Options(
  width=32, height=32, transform='random-crop', channels=3
)


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
  """Sixty images of ten kinds, and how many of them are damaged."""
  folder = tmp_path_factory.mktemp('mixed')
  return folder, raw_images.write_mixed(folder, 60)


def prepare(source, dest, **arguments):
  return run.prepare(
    str(source),
    dest,
    _OPTIONS,
    **{
      'labels': 'folders',
      'on_error': 'skip',
      'workers': 1,
      'shard_images': 16,
      'log': lambda _: None,
    }
    | arguments,
  )


def contents(path):
  """Returns the hash of each file of a dataset."""
  paths = sorted(path.iterdir()) if path.is_dir() else [path]
  return [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]


@pytest.fixture(scope='module', params=['.zip', '.array_record'])
def whole(request, mixed, tmp_path_factory):
  """A dataset made without interruption, by one process."""
  source, damaged = mixed
  dest = tmp_path_factory.mktemp('whole') / f'whole{request.param}'
  report = prepare(source, dest)
  assert report.images == 60 - damaged
  assert len(report.skipped) == damaged
  assert not dest.with_name(f'{dest.name}.partial').exists()
  return dest


def stop_after(number):
  """Returns `should_stop` for a stop after some images."""
  calls = iter(range(number - 1))
  return lambda: next(calls, None) is None


@pytest.mark.parametrize('stops', [(1,), (7, 40), (20, 1, 17)])
def test_stops_leave_no_trace(stops, mixed, whole, tmp_path):
  dest = tmp_path / f'made{whole.suffix}'
  for number in stops:
    assert prepare(mixed[0], dest, should_stop=stop_after(number)) is None
    assert not dest.exists()
  prepare(mixed[0], dest)
  assert contents(dest) == contents(whole)


def test_what_is_stored_is_not_prepared_again(mixed, tmp_path, monkeypatch):
  dest = tmp_path / 'made.zip'
  prepare(mixed[0], dest, should_stop=stop_after(50))
  seen = []
  original = images.Preparer.__call__

  def call(self, index):
    seen.append(index)
    return original(self, index)

  monkeypatch.setattr(images.Preparer, '__call__', call)
  prepare(mixed[0], dest)
  assert seen == list(range(50, 60))


def test_torn_files_are_cut_back(mixed, tmp_path):
  """As a machine leaves them that loses its power."""
  whole, dest = tmp_path / 'whole.zip', tmp_path / 'made.zip'
  prepare(mixed[0], whole)
  prepare(mixed[0], dest, should_stop=stop_after(30))
  partial = tmp_path / 'made.zip.partial'
  with (partial / 'journal.jsonl').open('a') as journal:
    journal.write('{"notes": ["tur')
  zip_file = partial / 'images.zip'
  os.truncate(zip_file, zip_file.stat().st_size - 5000)
  prepare(mixed[0], dest)
  assert contents(dest) == contents(whole)


def kill_twice(cli, arguments, dest, growth):
  """Kills a command, and its successor, after some bytes of progress each."""
  partial = dest.with_name(f'{dest.name}.partial')

  def size():
    return sum(
      path.stat().st_size for path in partial.rglob('*.*') if path.is_file()
    )

  for number in (signal.SIGKILL, signal.SIGTERM):
    process = cli.start(*arguments)
    line = process.stderr.readline()  # Handlers of signals are in place now.
    assert 'images to prepare' in line, line
    begin, deadline = size(), time.monotonic() + 300
    while size() < begin + growth and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == (75 if number == signal.SIGTERM else -9)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('suffix', 'workers'), [('.zip', 2), ('.array_record', 1)]
)
def test_kills_leave_no_trace(suffix, workers, mixed, tmp_path, cli):
  arguments = (
    'data', 'prepare', f'--source={mixed[0]}', '--resolution=512x512',
    '--transform=random-crop', '--channels=3', '--labels=folders',
    '--on_error=skip', '--shard_images=16',
  )  # fmt: skip
  whole, dest = tmp_path / f'whole{suffix}', tmp_path / f'made{suffix}'
  options = options_lib.Options(512, 512, 'random-crop', channels=3)
  run.prepare(
    str(mixed[0]), whole, options, labels='folders', on_error='skip',
    workers=1, shard_images=16,
  )  # fmt: skip
  arguments += (f'--dest={dest}', f'--workers={workers}')
  kill_twice(cli, arguments, dest, 5e6 if suffix == '.zip' else 1e5)
  assert not dest.exists()
  status, out, error = cli(*arguments)
  assert status == 0, error
  assert '55 images of 512x512 pixels' in out
  assert contents(dest) == contents(whole)


def test_workers_have_no_influence(mixed, tmp_path):
  whole, dest = tmp_path / 'whole.zip', tmp_path / 'made.zip'
  prepare(mixed[0], whole)
  prepare(mixed[0], dest, workers=2, should_stop=stop_after(20))
  prepare(mixed[0], dest, workers=2)
  assert contents(dest) == contents(whole)


@pytest.mark.exhaustive
def test_five_thousand_images_killed_twice(tmp_path, cli):
  source = tmp_path / 'source'
  damaged = raw_images.write_mixed(source, 5000)
  arguments = (
    'data', 'prepare', f'--source={source}', '--resolution=256x256',
    '--transform=center-crop', '--channels=3', '--on_error=skip',
  )  # fmt: skip
  whole, dest = tmp_path / 'whole.zip', tmp_path / 'made.zip'
  status, out, error = cli(*arguments, f'--dest={whole}', '--workers=1')
  assert status == 0, error
  print(out)
  assert f'{5000 - damaged:,} images of 256x256 pixels' in out
  arguments += (f'--dest={dest}', '--workers=4')
  kill_twice(cli, arguments, dest, 3e8)
  status, out, error = cli(*arguments)
  assert status == 0, error
  print(error, out)
  assert contents(dest) == contents(whole)


def test_other_options_or_data_are_refused(mixed, tmp_path):
  dest = tmp_path / 'made.zip'
  prepare(mixed[0], dest, should_stop=stop_after(5))
  with pytest.raises(ValueError, match=r'differ in labels: repeat'):
    prepare(mixed[0], dest, labels='none')
  with pytest.raises(ValueError, match='differ in number of images, names'):
    prepare(mixed[0], dest, max_images=30)


def test_two_at_once_are_refused(mixed, tmp_path):
  dest = tmp_path / 'made.zip'

  def again():
    prepare(mixed[0], dest)

  with pytest.raises(ValueError, match='is in use by process'):
    prepare(mixed[0], dest, should_stop=again)


def test_a_failure_at_the_first_image_leaves_nothing(tmp_path):
  source = tmp_path / 'source'
  source.mkdir()
  (source / 'a.png').write_bytes(b'no image')
  with pytest.raises(ValueError, match=r'a\.png .image 0. cannot be used'):
    prepare(source, tmp_path / 'made.zip', labels='none', on_error='stop')
  assert [p.name for p in tmp_path.iterdir()] == ['source']


def test_a_failing_disk_is_not_a_damaged_image(mixed, tmp_path, monkeypatch):
  original = pathlib.Path.open

  def fail(self, mode='r', *arguments, **options):
    if self.suffix == '.webp':
      raise OSError(116, 'Stale file handle')
    return original(self, mode, *arguments, **options)

  monkeypatch.setattr(pathlib.Path, 'open', fail)
  with pytest.raises(OSError, match='it may be intact'):
    prepare(mixed[0], tmp_path / 'made.zip')


def test_a_worker_that_dies_is_reported():
  with pytest.raises(OSError, match='use fewer workers than 2'):
    list(pool.ordered_map(os._exit, range(20), 2))


def test_names_are_those_of_the_official_tool():
  assert writers.image_name(12345) == '00012/img00012345.png'


def test_records_what_was_done(mixed, whole):
  dataset = files.ImageFiles(whole, use_labels=True)
  about = dataset.preparation
  assert about['filter'] == 'lanczos'
  assert about['images'] == len(dataset) == 60 - mixed[1]
  assert about['conversions']['turned'] == 5
  assert len(about['skipped']) == mixed[1]
  assert dataset.class_names == ('class0', 'class1', 'class2')
  assert any('filter lanczos' in note for note in dataset.notes)


def test_both_forms_are_the_same_data(mixed, tmp_path):
  """An ArrayRecord folder trains on what the zip file does, in its order."""
  for suffix in ('.zip', '.array_record'):
    prepare(mixed[0], tmp_path / f'made{suffix}')
  one, other = (
    files.ImageFiles(tmp_path / f'made{suffix}', use_labels=True)
    for suffix in ('.zip', '.array_record')
  )
  assert one.fingerprint() == other.fingerprint()
  assert one.class_names == other.class_names
  np.testing.assert_array_equal(one.labels()[:], other.labels()[:])
  for i in range(0, len(one), 7):
    np.testing.assert_array_equal(one[i]['image'], other[i]['image'])


def test_dataset_json_has_the_official_layout(mixed, tmp_path):
  prepare(mixed[0], tmp_path / 'made.array_record', max_images=4)
  text = (tmp_path / 'made.array_record' / 'dataset.json').read_text()
  assert json.loads(text)['labels'][0] == ['00000/img00000000.png', 0]
