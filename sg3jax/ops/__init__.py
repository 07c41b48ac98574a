"""Operators on NHWC feature maps.

`sg3jax.ops.filtered_lrelu(x, fu, fd, b, ...)` is the function itself; the other
operators are in modules of their names.
"""

from sg3jax.ops.filtered_lrelu import filtered_lrelu as filtered_lrelu
