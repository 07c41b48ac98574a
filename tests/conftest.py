"""Fixtures shared by all tests: fake devices and the golden arrays."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

# Four devices on one CPU, so that every test may ask for a mesh of 1, 2 or 4.
jax.config.update('jax_num_cpu_devices', 4)

GOLDENS = pathlib.Path(__file__).parent / 'goldens'


@functools.cache
def load_golden(name: str):
  """Returns a golden file: a dict of arrays (.npz) or parsed JSON (.json)."""
  path = GOLDENS / name
  if path.suffix == '.json':
    return json.loads(path.read_text())
  with np.load(path) as arrays:
    return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope='session')
def golden():
  """`golden('filters.npz')` returns that file's arrays, read once."""
  return load_golden
