"""Whole training steps of the published designs, for devices that are absent.

A step is traced and lowered for each, which is what the kernels refuse if they
do; T and R at 256 pixels are compiled too, and their memory is guarded.
"""

import jax
import pytest
from conftest import CONFIGS, run_file
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from sg3jax.train import config as config_lib
from sg3jax.train import loop

pytestmark = pytest.mark.slow

BATCH = 8
DEVICES = {
  'cuda': AbstractDevice('NVIDIA H100 80GB HBM3', 132, 'gpu'),
  'tpu': AbstractDevice('TPU v5 lite', 1, 'tpu'),
}
needs_gpu_kernel = pytest.mark.skipif(
  jax.__version_info__ < (0, 11), reason='the GPU kernel needs JAX 0.11'
)

# Those that CI lowers: each rate, border, rank and type is in one of them.
COMMON = ('stylegan3_t:256', 'stylegan3_r:256')
OTHERS = (
  *(f'stylegan3_{d}:{size}' for d in 'tr' for size in (128, 512, 1024)),
  'published:ffhqu256,t',
  'published:ffhqu256,r',
  *(f'ladder:{step}' for step in 'ABCDEFGHTR'),
  'ladder:T-p4',
  'ladder:T-up4',
  'stylegan2:256',
)


def make_trainer(name, implementation=None):
  """Returns the trainer of a configuration, e.g. `stylegan3_t:256`."""
  file, _, arg = name.partition(':')
  config = run_file(CONFIGS / f'{file}.py').get_config(arg)
  config.model.filtered_lrelu_implementation = implementation
  config.train.batch = BATCH
  config_lib.resolve(config, img_channels=3, label_dim=0)
  return loop.make_trainer(config)


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
  assert 'mosaic_gpu' in lower(name, 'cuda', 'pallas')


@pytest.mark.parametrize('name', COMMON)
def test_common_steps_lower_for_tpus(name):
  assert 'tpu_custom_call' in lower(name, 'tpu', None)


@needs_gpu_kernel
@pytest.mark.parametrize('name', OTHERS)
def test_other_steps_lower_with_the_kernel_of_gpus(name):
  assert 'func.func public @main' in lower(name, 'cuda', 'pallas')


@pytest.mark.parametrize('name', COMMON + OTHERS)
def test_all_steps_lower_for_gpus_without_the_kernel(name):
  assert 'mosaic_gpu' not in lower(name, 'cuda', 'banded')


@pytest.mark.parametrize('name', OTHERS)
def test_other_steps_lower_for_tpus(name):
  assert 'func.func public @main' in lower(name, 'tpu', None)
