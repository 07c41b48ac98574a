import pytest

from sg3jax import durations


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
  assert durations.format_duration(seconds) == text
