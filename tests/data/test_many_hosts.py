"""Every image once an epoch, however many hosts read it, now and after."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from sg3jax.data import loader, sources

array_record = pytest.importorskip('array_record.python.array_record_module')

NUMBER = 20_000
SHARDS = 7
BATCH = 64

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """20,000 images of 4x4 pixels in unequal shards; pixels number them."""
  folder = tmp_path_factory.mktemp('records')
  borders = np.linspace(0, 1, SHARDS + 1) ** 1.5 * NUMBER
  borders = borders.astype(int)
  for shard, (first, last) in enumerate(itertools.pairwise(borders)):
    path = folder / f'images-{shard:05d}-of-{SHARDS:05d}.array_record'
    writer = array_record.ArrayRecordWriter(str(path), 'group_size:1')
    for number in range(first, last):
      writer.write(_encode(number))
    writer.close()
  found = sources.open_source(str(folder), resolution=4)
  assert len(found) == NUMBER
  return found


def _encode(number):
  image = np.zeros((4, 4, 3), np.uint8)
  image[0, 0] = number >> 16 & 255, number >> 8 & 255, number & 255
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'png', compress_level=0)
  return file.getvalue()


def _numbers(batch):
  red, green, blue = np.moveaxis(batch['image'][:, 0, 0].astype(int), -1, 0)
  return red << 16 | green << 8 | blue


def read(source, hosts, *, start, batches, seed=3):
  """Returns what each of the hosts reads: numbers [host, batch, row]."""
  found = []
  for host in range(hosts):
    with loader.make_loader(
      source,
      batch_size=BATCH,
      seed=seed,
      start_image=start,
      process_index=host,
      process_count=hosts,
      num_threads=1,
    ) as batches_of_host:
      rows = [_numbers(next(batches_of_host)) for _ in range(batches)]
    found.append(np.stack(rows))
  return np.stack(found)


def in_order(rows):
  """Joins the rows of hosts to batches, and batches to positions."""
  return np.moveaxis(rows, 0, 1).reshape(-1)


@pytest.fixture(scope='module')
def order(source):
  """The images of one host, for an epoch and what its last batch begins."""
  batches = -(-NUMBER // BATCH)
  return in_order(read(source, 1, start=0, batches=batches))


def test_one_host_reads_each_image_once(order):
  assert sorted(order[:NUMBER]) == list(range(NUMBER))
  # The last batch begins the next epoch: nothing is dropped or padded.
  assert len(order) > NUMBER
  assert len(set(order[NUMBER:])) == len(order) - NUMBER


@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_share_an_epoch(source, order, hosts):
  rows = read(source, hosts, start=0, batches=len(order) // BATCH)
  shares = [set(share[: NUMBER // BATCH].reshape(-1)) for share in rows]
  assert {len(share) for share in shares} == {NUMBER // BATCH * BATCH // hosts}
  assert len(set.union(*shares)) == NUMBER // BATCH * BATCH
  np.testing.assert_array_equal(in_order(rows), order)


def test_a_resume_on_other_hosts_continues_the_epoch(source, order):
  """Four hosts, then one, then two: together each image once."""
  parts, start = [], 0
  for hosts, batches in ((4, 100), (1, 37), (2, 176)):
    rows = read(source, hosts, start=start, batches=batches)
    parts.append(in_order(rows))
    start += batches * BATCH
  together = np.concatenate(parts)
  assert sorted(together[:NUMBER]) == list(range(NUMBER))
  np.testing.assert_array_equal(together, order)


def test_another_position_would_repeat_images(source, order):
  """The test can fail: a resume one batch too early shows images twice."""
  early = in_order(read(source, 2, start=NUMBER // 2 - BATCH, batches=2))
  assert len(set(order[: NUMBER // 2]) & set(early)) > BATCH // 2
