"""Labels: memory, class names and their order, and broken dataset.json."""

import json
import tracemalloc

import numpy as np
import pytest
from test_files import encode, picture

from sg3jax.data import files, sources
from sg3jax.data import labels as labels_lib

_PNG = encode(picture(0))


def _write(folder, names, labels=None):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(_PNG)
  if labels is not None:
    text = labels if isinstance(labels, str) else json.dumps({'labels': labels})
    (folder / 'dataset.json').write_text(text)
  return folder


@pytest.fixture
def traced():
  """`traced()` returns the most bytes that were allocated so far."""
  tracemalloc.start()
  yield lambda: tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()


def test_labels_read_like_an_array():
  labels = labels_lib.Labels(np.array([2, 0, 1]), 4)
  whole = np.eye(4, dtype=np.float32)[[2, 0, 1]]
  assert (len(labels), labels.shape, labels.dtype) == (3, (3, 4), np.float32)
  np.testing.assert_array_equal(labels, whole)
  np.testing.assert_array_equal(np.asarray(labels, np.float64), whole)
  for rows in (1, -1, slice(1, None), [2, 2], np.array([[0, 1], [2, 0]])):
    np.testing.assert_array_equal(labels[rows], whole[rows])
    assert labels[rows].dtype == np.float32
  np.testing.assert_array_equal(labels.take(np.array([1, 0])), whole[[1, 0]])
  np.testing.assert_array_equal(labels.class_counts(), [1, 1, 1, 0])


def test_vectors_are_copied():
  vectors = np.random.RandomState(0).randn(3, 2).astype(np.float32)
  labels = labels_lib.Labels(vectors, 2)
  np.testing.assert_array_equal(labels, vectors)
  labels[1][:] = 7
  labels[:][:] = 7
  np.testing.assert_array_equal(labels, vectors)
  assert labels.class_counts() is None


def test_classes_stay_integers(traced):
  n, classes = 100_000, 10_000  # One-hot, 3.7 GiB.
  values = np.random.RandomState(0).randint(classes, size=n)
  whole = labels_lib.Labels(values.astype(np.int64), classes)
  subset = whole.take(np.arange(0, n, 2))
  np.testing.assert_array_equal(subset[:16].argmax(axis=1), values[:32:2])
  assert subset.class_counts().sum() == n / 2
  assert whole.values.nbytes == 8 * n
  assert traced() < 8 * 2**20


def test_sources_keep_classes_as_integers(tmp_path, traced):
  names = [f'{i}.png' for i in range(300)]
  labels = [[name, 3000 * i] for i, name in enumerate(names)]
  source = files.ImageFiles(_write(tmp_path, names, labels), use_labels=True)
  assert source.label_dim == 299 * 3000 + 1  # One-hot, a GiB in all.
  assert source.labels().values.nbytes == 8 * 300
  subset = sources.Subset(source, np.arange(10))
  assert subset.labels()[[3]].argmax() == source[3]['label'].argmax()
  assert traced() < 64 * 2**20


@pytest.mark.parametrize(
  ('names', 'order'),
  [
    ([str(i) for i in range(12)], [str(i) for i in range(12)]),
    (['10', '9', '-1'], ['-1', '10', '9']),  # Not all are numbers.
    (['010', '9', '1'], ['1', '9', '010']),
    (['01', '1', '001', '0'], ['0', '001', '01', '1']),
    (['c10', 'c9', 'b'], ['b', 'c10', 'c9']),
    (['²', '1'], ['1', '²']),
    (['1' * 5000, '2'], ['2', '1' * 5000]),
  ],
)
def test_the_order_of_classes(names, order):
  assert labels_lib.class_order(names) == tuple(order)


def test_numbered_folders_are_classes_in_the_order_of_numbers(tmp_path):
  numbers = [0, 1, 2, 9, 10, 11, 100]
  _write(tmp_path, [f'set/{number}/x.png' for number in numbers])
  source = files.ImageFiles(tmp_path, use_labels=True)
  assert source.class_names == tuple(map(str, numbers))
  # Images are sorted by name: set/0, set/1, set/10, set/100 and so on.
  np.testing.assert_array_equal(source.labels().values, [0, 1, 4, 6, 5, 2, 3])
  assert sources.class_names(sources.Subset(source, np.arange(2))) == (
    source.class_names
  )
  lines = sources.describe(source)
  assert lines[0] == (
    'Classes:        0 0 (1), 1 1 (1), 2 2 (1), 3 9 (1), 4 10 (1), 5 11 (1), '
    '6 100 (1)'
  )
  (change,) = sources.changes(source)
  assert 'class folders sorted by name before (0, 1, 10' in change


def test_classes_in_the_order_of_before_are_no_change(tmp_path):
  _write(tmp_path, [f'{name}/x.png' for name in ('b', 'a', '07', '10')])
  assert sources.changes(files.ImageFiles(tmp_path, use_labels=True)) == ()


def test_formats_that_were_not_read_are_a_change(tmp_path):
  _write(tmp_path, ['a.png'])
  (tmp_path / 'b.bmp').write_bytes(encode(picture(0), 'BMP'))
  assert sources.changes(files.ImageFiles(tmp_path)) == (
    '1 image not read before: b.bmp',
  )


def test_empty_classes_are_named(tmp_path):
  labels = [['a.png', 1], ['b.png', 2], ['c.png', 4]]
  _write(tmp_path, ['a.png', 'b.png', 'c.png'], labels)
  source = files.ImageFiles(tmp_path, use_labels=True)
  assert source.class_names is None
  assert sources.describe(source) == [
    'Classes:        0 (0), 1 (1), 2 (1), 3 (0), 4 (1)',
    'Warning: no images of 2 classes of 5: 0, 3. The networks will not learn '
    'these classes',
  ]


def test_classes_that_a_subset_leaves_out_are_named(tmp_path):
  _write(tmp_path, [f'{name}/1.png' for name in ('cat', 'dog', 'emu')])
  source = files.ImageFiles(tmp_path, use_labels=True)
  lines = sources.describe(sources.Subset(source, np.array([0, 2])))
  assert 'no images of 1 class of 3: 1 dog.' in lines[1]


def test_many_classes_are_a_short_line(tmp_path):
  labels = [['a.png', 9_999]]
  source = files.ImageFiles(
    _write(tmp_path, ['a.png'], labels), use_labels=True
  )
  classes, warning = sources.describe(source)
  assert classes.endswith('19 (0), and 9,980 more')
  assert 'no images of 9,999 classes of 10,000' in warning
  assert max(len(classes), len(warning)) < 300


def test_vectors_have_no_classes(tmp_path):
  _write(tmp_path, ['a.png'], [['a.png', [0.5, -1]]])
  assert sources.describe(files.ImageFiles(tmp_path, use_labels=True)) == []


_DEEP = 100_000


@pytest.mark.parametrize(
  ('text', 'problem'),
  [
    ('[' * _DEEP, 'is not valid JSON'),
    ('[' * _DEEP + ']' * _DEEP, 'nested too deeply'),
    ('{"labels":' * _DEEP + 'null' + '}' * _DEEP, 'nested too deeply'),
    (
      '{"labels": [["a.png", ' + '[' * _DEEP + ']' * _DEEP + ']]}',
      'too deeply',
    ),
    # Shallow enough to be parsed.
    ('{"labels": [["a.png", ' + '[' * 400 + ']' * 400 + ']]}', 'has the entry'),
    ('', 'is not valid JSON'),
    ('null', 'wrong structure'),
    ('"labels"', 'wrong structure'),
    ('NaN', 'wrong structure'),
    ('{"labels": NaN}', 'wrong structure'),
    ('{"labels": 3}', 'wrong structure'),
    ('{"labels": "a.png"}', 'wrong structure'),
    ('{"labels": [], "labels": [["a.png", 0]]}', "key 'labels' 2 times"),
    ('{"labels": [["a.png", NaN]]}', 'has the entry'),
    ('{"labels": [["a.png", Infinity]]}', 'has the entry'),
    ('{"labels": [["a.png", [-Infinity]]]}', 'has the entry'),
    ('{"labels": [["a.png", [1e39]]]}', 'has the entry'),
    ('{"labels": [["a.png", [' + '9' * 4000 + ']]]}', 'has the entry'),
    ('{"labels": [["a.png", ' + '9' * 4000 + ']]}', 'count classes from 0'),
    ('{"labels": [["a.png", ' + '9' * 5000 + ']]}', 'is not valid JSON'),
    ('{"labels": [["a.png", null]]}', 'has the entry'),
    ('{"labels": [["a.png", "0"]]}', 'has the entry'),
    ('{"labels": [["a.png", {"0": 1}]]}', 'has the entry'),
    ('{"labels": [[null, 0]]}', 'has the entry'),
    ('{"labels": [["a.png", 0, 1]]}', 'has the entry'),
    ('{"labels": [{"a.png": 0}]}', 'has the entry'),
    ('{"labels": [["a.png", 0], [".\\\\a.PNG", 0]]}', 'more than once'),
    ('{"labels": [["\\ud800\\n.png", 0]]}', 'has no label for a.png'),
    ('{"labels": [["a.png", 0], ["\\ud800\\n.png", 0]]}', 'does not exist'),
  ],
  ids=lambda text: text[:20],
)
def test_broken_lists_of_labels_end_with_one_line(tmp_path, text, problem):
  _write(tmp_path, ['a.png'], text)
  with pytest.raises(ValueError, match=problem) as info:
    files.ImageFiles(tmp_path, use_labels=True)
  message = str(info.value)
  assert 'dataset.json' in message
  assert '\n' not in message
  message.encode()
  assert len(message) < 500


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_encodings_that_windows_writes(tmp_path, encoding):
  _write(tmp_path, ['é.png'])
  text = json.dumps({'labels': [['é.png', 0]]}, ensure_ascii=False)
  (tmp_path / 'dataset.json').write_text(text, encoding=encoding)
  assert files.ImageFiles(tmp_path, use_labels=True).label_dim == 1
