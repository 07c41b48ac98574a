"""A fresh R generator is equivariant by construction (paper section 3)."""

import pytest

from sg3jax.sweeps import analysis
from sg3jax.train.config import files as config_files


@pytest.mark.slow
def test_fresh_r_generator_exceeds_60_db():
  config = config_files.load('stylegan3_r:64')
  config.model.z_dim = config.model.w_dim = 64
  config.model.synthesis.channel_base = 1024
  config.model.synthesis.channel_max = 32
  config.model.discriminator.channel_base = 1024
  config.model.discriminator.channel_max = 32
  values = analysis.analyse(config, metrics=('eqt', 'eqr'), samples=16)
  assert values['eqt_db'] > 60
  assert values['eqr_db'] > 60
