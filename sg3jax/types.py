"""Shapes and types that the whole package shares.

Shape annotations and einsum strings use these letters:

  n  images of a batch            h, w  rows, columns of an image or feature map
  c  channels (i in, o out)       k     side of a convolution kernel
  t  taps of a filter             r     rank of a split filter
  l  layers (one style each)      z, d  features of z and of w

Images and feature maps are NHWC, convolution kernels HWIO, dense kernels IO.
Images are in [-1, 1], float32 unless a precision policy says otherwise.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Float, UInt8

Array: TypeAlias = jax.Array

# For functions that accept arrays of NumPy and of JAX.
AnyArray: TypeAlias = jax.Array | np.ndarray

Images: TypeAlias = Float[AnyArray, 'n h w c']
ImagesU8: TypeAlias = UInt8[np.ndarray, 'n h w c']
Labels: TypeAlias = Float[AnyArray, 'n classes']

# The shape of an array that may be traced for export, in which the batch size
# can be a symbol.
Shape: TypeAlias = tuple[Any, ...]

# The axis of a device mesh over which a batch is sharded.
DATA_AXIS = 'data'

# The options of a run, an `ml_collections.ConfigDict`, whose fields no type
# checker can infer.
Config: TypeAlias = Any

# A tree of arrays: Linen collections, gradients, optimizer states.
Tree: TypeAlias = Any
Variables: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """The state of a training run that the trainer passes to evaluators.

  Attributes:
    workdir: The run folder.
    kimg: Thousands of real images shown so far.
    is_last: Whether this is the end of the run.
    generator: The generator, a Linen module.
    variables: Variables of the generator's moving average.
    discriminator: The discriminator, a Linen module; None if there is none.
    discriminator_variables: Variables of the discriminator, if there is one.
  """

  workdir: pathlib.Path
  kimg: float
  is_last: bool
  generator: Any
  variables: Variables
  discriminator: Any = None
  discriminator_variables: Variables | None = None
