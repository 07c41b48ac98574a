"""Augments all images shown to the discriminator (math.md 5.2).

`sample` decides what happens to each image, `apply` does it; `augment` is both.
"""

from sg3jax.train.step.augment.pipeline import apply as apply
from sg3jax.train.step.augment.pipeline import augment as augment
from sg3jax.train.step.augment.samples import OPS as OPS
from sg3jax.train.step.augment.samples import PIPELINES as PIPELINES
from sg3jax.train.step.augment.samples import Samples as Samples
from sg3jax.train.step.augment.samples import get_ops as get_ops
from sg3jax.train.step.augment.samples import sample as sample
