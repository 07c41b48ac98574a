"""Operators on NHWC feature maps.

`sg3jax.ops.filtered_lrelu(x, fu, fd, b, ...)` is the function itself; each of
the other operators is in a module of the same name.
"""

from sg3jax.ops.filtered_lrelu import filtered_lrelu as filtered_lrelu
