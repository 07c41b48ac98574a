"""docs/kernels.md says what each implementation supports: this makes it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sg3jax.ops import filters
from sg3jax.ops.filtered_lrelu import dispatch
from sg3jax.ops.filtered_lrelu import plan as plan_lib
from sg3jax.ops.filtered_lrelu.activation import Activation
from sg3jax.ops.filtered_lrelu.gpu import launch as gpu_launch
from sg3jax.ops.filtered_lrelu.gpu.mosaic import plgpu

DOCUMENT = pathlib.Path(__file__).parents[2] / 'docs' / 'kernels.md'
KINDS = {'pallas_tpu': 'TPU v5 lite', 'pallas_gpu': 'NVIDIA H100 80GB HBM3'}
BASE = {'dtype': 'bfloat16', 'up': 2, 'down': 2, 'taps': 6, 'low': 9}

REQUESTS = {
  'bfloat16': {},
  'float16': {'dtype': 'float16'},
  'float32': {'dtype': 'float32'},
  'float64': {'dtype': 'float64'},
  **{
    f'up {up}, down {down}': {'up': up, 'down': down}
    for up in (1, 2, 4)
    for down in (1, 2, 4)
    if (up, down) not in ((1, 1), (2, 2))
  },
  'up 3, down 5': {'up': 3, 'down': 5},
  '4 taps a factor': {'taps': 4},
  '8 taps a factor': {'taps': 8},
  '16 taps a factor': {'taps': 16},
  'radial filters, 2 to 4 terms': {'is_radial': True},
  'cropping': {'low': -6},
  'no clamp': {'clamp': None},
  'slope above 1': {'slope': 1.5},
  'negative gain': {'gain': -1.0},
}


def make_plan(
  up, down, taps, low, is_radial=False, gain=1.4, slope=0.2, clamp=256.0
):
  def lowpass(factor):
    options = {'cutoff': 4.0, 'half_width': 4.0, 'sampling_rate': 32.0}
    return filters.kaiser_lowpass(taps * factor, **options)

  radial = filters.radial_lowpass(
    12, cutoff=4.0, half_width=4.0, sampling_rate=32.0
  )
  return plan_lib.make_plan(
    (64, 64),
    None if up == 1 else lowpass(up),
    radial if is_radial else None if down == 1 else lowpass(down),
    up=up,
    down=down,
    padding=((low, low), (low, low)),
    activation=Activation(gain, slope, clamp),
    tolerance=4e-7,
  )


def answer(name, dtype, **options):
  if name not in dispatch.KERNELS:
    return 'yes'
  plan = make_plan(**options)
  for chain in (plan.forward, plan.backward):
    operands = [
      jax.ShapeDtypeStruct(
        (8, terms[0][0].in_size, terms[0][1].in_size, 128), jnp.dtype(dtype)
      )
      for terms in chain.expand
    ]
    module = dispatch.KERNELS[name][1]
    if reason := module.unsupported(chain, *operands, kind=KINDS[name]):
      return f'no: {reason}'
  return 'yes'


def test_the_documents_table_is_true(monkeypatch):
  monkeypatch.setattr(gpu_launch, '_OLDEST_JAX', (0, 0))
  if plgpu is None:
    pytest.skip('this JAX is installed without Mosaic GPU')
  names = [name for name in dispatch.IMPLEMENTATIONS if name != 'pallas']
  lines = [f'| | {" | ".join(names)} |', '|---' * (len(names) + 1) + '|']
  with jax.enable_x64(True):
    for request, changes in REQUESTS.items():
      cells = [answer(name, **(BASE | changes)) for name in names]
      lines.append(f'| {request} | {" | ".join(cells)} |')
  table = '\n'.join(lines)
  text = DOCUMENT.read_text()
  documented = text.split('<!-- supported -->')[1].split('<!-- /supported')[0]
  assert documented.strip() == table, f'put this into {DOCUMENT}:\n\n{table}\n'
  assert np.all([line.count('|') == len(names) + 2 for line in lines])
