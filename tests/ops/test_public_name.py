"""The operator under the name that users call it by."""

import numpy as np

import sg3jax.ops
from sg3jax.ops import filters


def test_readme_example():
  f = filters.kaiser_lowpass(12, cutoff=16, half_width=16, sampling_rate=128)
  x = np.ones((1, 36, 36, 4), np.float32)
  y = sg3jax.ops.filtered_lrelu(
    x, f, f, np.zeros(4, np.float32), up=2, down=2, padding=(11, 10)
  )
  assert y.shape == (1, 36, 36, 4)
  # Constants pass the low-passes; the gain is the square root of two.
  np.testing.assert_allclose(y[:, 8:-8, 8:-8], 2**0.5, rtol=1e-2)
