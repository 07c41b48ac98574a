import pytest

from sg3jax import text as text_lib


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0s'),
    (-3, '0s'),
    (59.4, '59s'),
    (59.6, '1m 00s'),
    (80, '1m 20s'),
    (3600, '1h 00m 00s'),
    (7400, '2h 03m 20s'),
    (86399, '23h 59m 59s'),
    (97380, '1d 03h 03m'),
  ],
)
def test_format_duration(seconds, text):
  assert text_lib.format_duration(seconds) == text


@pytest.mark.parametrize(
  ('number', 'text'),
  [(0, '0 images'), (1, '1 image'), (1200, '1,200 images')],
)
def test_nouns_agree_with_numbers(number, text):
  assert text_lib.counted(number, 'image') == text


def test_the_first_call_is_announced(monkeypatch):
  now = iter([100.0, 180.0])
  monkeypatch.setattr(text_lib.time, 'monotonic', lambda: next(now))
  lines = []

  def add(a, *, b):
    lines.append(f'{a} + {b}')
    return a + b

  function = text_lib.announce_first_call(add, lines.append, 'the sum')
  assert [function(1, b=2), function(3, b=4)] == [3, 7]
  assert lines == [
    'Compiling:      the sum',
    '1 + 2',
    'Compiled:       in 1m 20s',
    '3 + 4',
  ]


def test_a_first_call_that_fails_is_not_done():
  lines = []

  def fail():
    raise RuntimeError('no')

  function = text_lib.announce_first_call(fail, lines.append, 'it', 'Ended:')
  with pytest.raises(RuntimeError, match='no'):
    function()
  assert lines == ['Compiling:      it']
