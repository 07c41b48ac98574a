"""The filtered leaky ReLU, one operator with several implementations.

`sg3jax.ops.filtered_lrelu.filtered_lrelu` is the entry point.
"""

from sg3jax.ops.filtered_lrelu.api import filtered_lrelu as filtered_lrelu
from sg3jax.ops.filtered_lrelu.api import make_plan as make_plan
from sg3jax.ops.filtered_lrelu.dispatch import (
  default_implementation as default_implementation,
)
from sg3jax.ops.filtered_lrelu.dispatch import (
  implementations as implementations,
)
from sg3jax.ops.filtered_lrelu.platform import interpreted as interpreted
