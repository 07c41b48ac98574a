"""Whole training steps of the published designs, for devices that are absent.

A step is traced and lowered for each, which is what the kernels refuse if they
do. Steps of T and R at 256 pixels are compiled too, which bounds their memory.
What takes long is marked `exhaustive`: all of it takes an hour on two cores.
"""

import aot_gpu
import aot_tpu
import jax
import numpy as np
import pytest
from conftest import CONFIGS, run_file
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

from sg3jax.train import config as config_lib
from sg3jax.train import memory_estimate
from sg3jax.train.planning import topologies
from sg3jax.train.step import build

pytestmark = pytest.mark.slow
exhaustive = pytest.mark.exhaustive

BATCH = 8
DEVICES = {
  'cuda': AbstractDevice('NVIDIA H100 80GB HBM3', 132, 'gpu'),
  'tpu': AbstractDevice('TPU v5 lite', 1, 'tpu'),
}
KERNELS = {'cuda': 'mosaic_gpu', 'tpu': 'tpu_custom_call'}
needs_gpu_kernel = pytest.mark.skipif(
  jax.__version_info__ < (0, 11), reason='the GPU kernel needs JAX 0.11'
)

# Each rate, border, rank and type is in one of these.
COMMON = ('stylegan3_t:256', 'stylegan3_r:256')
OTHERS = (
  *(f'stylegan3_{d}:{size}' for d in 'tr' for size in (128, 512, 1024)),
  'published:ffhqu256,t',
  'published:ffhqu256,r',
  *(f'ladder:{step}' for step in 'FGHTR'),
  'ladder:T-p4',
  'ladder:T-up4',
)
# Their nonlinearities have no filters, so no kernel serves them.
UNFILTERED = (*(f'ladder:{step}' for step in 'ABCDE'), 'stylegan2:256')


def make_trainer(name, implementation=None):
  """Returns the trainer of a configuration, e.g. `stylegan3_t:256`."""
  file, _, arg = name.partition(':')
  config = run_file(CONFIGS / f'{file}.py').get_config(arg)
  config.model.filtered_lrelu_implementation = implementation
  config.train.batch = BATCH
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return build.make_trainer(config)


def lower(name, platform, implementation):
  """Returns the text of a step that is lowered for a device."""
  trainer = make_trainer(name, implementation)
  key = jax.eval_shape(lambda: jax.random.key(0))
  state = jax.eval_shape(trainer.init, key)
  shape = (BATCH, *trainer.generator.spec.image_shape)
  images = {'image': jax.ShapeDtypeStruct(shape, 'uint8')}
  mesh = AbstractMesh(
    (1,), ('data',), (AxisType.Auto,), abstract_device=DEVICES[platform]
  )
  with jax.sharding.use_abstract_mesh(mesh):
    traced = jax.jit(trainer.step).trace(state, images, key)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@needs_gpu_kernel
@pytest.mark.parametrize('name', COMMON)
def test_common_steps_lower_with_the_kernel_of_gpus(name):
  assert KERNELS['cuda'] in lower(name, 'cuda', 'pallas')


def test_a_common_step_lowers_for_tpus():
  assert KERNELS['tpu'] in lower(COMMON[0], 'tpu', None)


@exhaustive
@needs_gpu_kernel
@pytest.mark.parametrize('name', OTHERS)
def test_other_steps_lower_with_the_kernel_of_gpus(name):
  assert KERNELS['cuda'] in lower(name, 'cuda', 'pallas')


@exhaustive
@pytest.mark.parametrize('name', COMMON + OTHERS)
def test_steps_lower_for_gpus_without_the_kernel(name):
  assert KERNELS['cuda'] not in lower(name, 'cuda', 'banded')


@exhaustive
@pytest.mark.parametrize('name', COMMON[1:] + OTHERS)
def test_other_steps_lower_for_tpus(name):
  assert KERNELS['tpu'] in lower(name, 'tpu', None)


@exhaustive
@pytest.mark.parametrize('platform', KERNELS)
@pytest.mark.parametrize('name', UNFILTERED)
def test_steps_without_filters_lower_without_a_kernel(name, platform):
  assert KERNELS[platform] not in lower(name, platform, 'pallas')


# GiB of temporary memory that a step may take for each image.
@exhaustive
@pytest.mark.skipif(aot_gpu.missing() is not None, reason='no GPU compiler')
@pytest.mark.parametrize(
  ('name', 'implementation', 'most'),
  [
    ('stylegan3_t:256', 'pallas', 0.5),
    ('stylegan3_r:256', 'pallas', 0.8),
    ('stylegan3_t:256', 'banded', 1.0),
    ('stylegan3_r:256', 'banded', 1.0),
  ],
)
def test_memory_of_a_step_on_an_h100(name, implementation, most):
  trainer = make_trainer(name, implementation)
  plan = memory_estimate.estimate(
    trainer, aot_gpu.h100_mesh(), BATCH, flops=0.0
  )
  assert plan.memory['temporary'] / 2**30 / BATCH <= most


@exhaustive
@pytest.mark.skipif(
  topologies.missing_tpu() is not None, reason='no TPU compiler'
)
@pytest.mark.parametrize(('name', 'most'), [('stylegan3_t:256', 0.75)])
def test_memory_of_a_step_on_a_v5e(name, most):
  devices = np.array(aot_tpu.devices('v5e')[:1])
  mesh = Mesh(devices, ('data',), axis_types=(AxisType.Auto,))
  plan = memory_estimate.estimate(make_trainer(name), mesh, BATCH, flops=0.0)
  assert plan.memory['temporary'] / 2**30 / BATCH <= most
