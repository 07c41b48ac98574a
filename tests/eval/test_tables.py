from sg3jax import text


def test_columns_are_aligned_and_numbers_to_the_right():
  rows = [
    {'name': 'a', 'figure': 1.5, 'count': 12345},
    {'name': 'a longer one', 'figure': None},
  ]
  assert text.markdown(rows).splitlines() == [
    '| name         | figure |  count |',
    '| ------------ | -----: | -----: |',
    '| a            |    1.5 | 12,345 |',
    '| a longer one |        |        |',
  ]


def test_text_cannot_break_the_table():
  table = text.markdown([{'error': 'one|\ntwo', 'ok': True, 'x': 2345.6}])
  assert table.splitlines()[2:] == ['| one\\| two | yes | 2,346 |']


def test_no_rows():
  assert text.markdown([], ['point']).splitlines()[0] == '| point |'
