"""Shapes and types shared by the whole package.

Letter key, used in shape annotations and in einsum strings everywhere:

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

# `np.ndarray` is accepted wherever a `jax.Array` is: callers pass either.
AnyArray: TypeAlias = jax.Array | np.ndarray

Images: TypeAlias = Float[AnyArray, 'n h w c']
ImagesU8: TypeAlias = UInt8[np.ndarray, 'n h w c']
Labels: TypeAlias = Float[AnyArray, 'n classes']

# Of an array that may be traced for export: a batch's size can be a symbol.
Shape: TypeAlias = tuple[Any, ...]

# The axis of a device mesh that a batch is spread over.
DATA_AXIS = 'data'

# A run's options, an `ml_collections.ConfigDict`: no type checker can know its
# fields.
Config: TypeAlias = Any

# A tree of arrays: linen collections, gradients, optimizer states.
Tree: TypeAlias = Any
Variables: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """A moment of a training run, as the trainer hands it to evaluators.

  Attributes:
    workdir: The run folder.
    kimg: Thousands of real images shown so far.
    is_last: Whether the run ends here.
    generator: The generator, a linen module.
    variables: Those of its moving average.
  """

  workdir: pathlib.Path
  kimg: float
  is_last: bool
  generator: Any
  variables: Variables
