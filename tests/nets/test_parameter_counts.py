"""Parameter counts that the paper's designs must have."""

import pytest

from sg3jax.nets import abstract
from sg3jax.nets import generator as generator_lib
from sg3jax.nets import spec as spec_lib


def _count(spec) -> int:
  return abstract.count(
    abstract.shapes(generator_lib.Generator(spec))['params']
  )


@pytest.mark.parametrize(
  ('design', 'resolution', 'channel_base', 'count'),
  [
    (spec_lib.stylegan3_t, 256, 2**14, 23_320_443),
    (spec_lib.stylegan3_r, 256, 2**14, 15_779_565),
    (spec_lib.stylegan3_t, 512, 2**15, 24_873_519),
    (spec_lib.stylegan3_t, 1024, 2**15, 22_313_167),
    (spec_lib.stylegan3_r, 1024, 2**15, 15_093_151),
  ],
)
def test_published_counts(design, resolution, channel_base, count):
  assert _count(design(resolution, channel_base=channel_base)) == count


@pytest.mark.parametrize(
  ('design', 'channel_base', 'channel_max', 'millions'),
  [
    (spec_lib.stylegan3_t, 2**13, 256, 6.90),
    (spec_lib.stylegan3_t, 2**15, 1024, 86.31),
    (spec_lib.stylegan3_r, 2**13, 256, 5.69),
    (spec_lib.stylegan3_r, 2**15, 1024, 50.76),
    (spec_lib.stylegan3_t, 2**15, 512, 28.47),
    (spec_lib.stylegan3_r, 2**15, 512, 18.82),
  ],
)
def test_capacity_sweep_at_256(design, channel_base, channel_max, millions):
  count = _count(
    design(256, channel_base=channel_base, channel_max=channel_max)
  )
  assert round(count / 1e6, 2) == millions
