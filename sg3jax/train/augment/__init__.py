"""Augmentation of all that the discriminator sees (math.md 5.2).

`draw` decides what happens to each image, `apply` does it, `augment` is both.
"""

from sg3jax.train.augment.draws import OPS as OPS
from sg3jax.train.augment.draws import PIPELINES as PIPELINES
from sg3jax.train.augment.draws import Draws as Draws
from sg3jax.train.augment.draws import draw as draw
from sg3jax.train.augment.draws import get_ops as get_ops
from sg3jax.train.augment.pipeline import apply as apply
from sg3jax.train.augment.pipeline import augment as augment
