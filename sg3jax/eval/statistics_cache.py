"""Keeps the features of real images on disk between commands.

A file holds the features of one set of images in one network. Its name is a
hash of everything that they depend on, so nothing has to be invalidated.
"""

import dataclasses
import hashlib
import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from sg3jax import files
from sg3jax.data import sources
from sg3jax.eval import feature_sets
from sg3jax.eval.metrics import formulas

_FORMAT = 1
# Images whose pixels enter the hash of a source: names alone would not tell
# data that were resized differently under the same names.
_HASHED = 32
_DAMAGED = (
  ValueError,
  KeyError,
  EOFError,
  OSError,
  zipfile.BadZipFile,
  zlib.error,
)


def identify(source: sources.ImageSource) -> dict[str, Any] | None:
  """Returns what identifies the images of a source, or None if nothing does."""
  names = sources.fingerprint(source)
  if names is None:
    return None
  digest = hashlib.sha256()
  count = len(source)
  for i in np.unique(np.linspace(0, count - 1, _HASHED).astype(int)).tolist():
    digest.update(source[i]['image'].tobytes())
  return {
    'images': count,
    'images_sha256': names,
    'resolution': source.resolution,
    'channels': source.channels,
    'pixels_sha256': digest.hexdigest(),
  }


@dataclasses.dataclass(frozen=True)
class Cache:
  """Reads and writes features of real images.

  Attributes:
    folder: The folder of the files; None to keep nothing.
  """

  folder: pathlib.Path | None

  def load(self, key: Mapping[str, Any]) -> feature_sets.FeatureSet | None:
    """Returns the features for a key, or None if they are not there.

    A damaged file causes a warning. On several hosts the features are only
    used if all hosts have them.
    """
    found = self._read(key)
    if jax.process_count() > 1:
      all_found = multihost_utils.process_allgather(np.array(found is not None))
      if not np.all(all_found):
        return None
    return found

  def save(
    self, key: Mapping[str, Any], features: feature_sets.FeatureSet
  ) -> None:
    """Writes the features for a key; if that fails, logs a warning."""
    if self.folder is None or jax.process_index() > 0:
      return
    moments = features.moments
    arrays: dict[str, Any] = {
      'key': np.array(_text(key)),
      'count': np.array(moments.count),
      'mean': moments.mean,
      'cov': moments.cov,
    }
    arrays |= {f'rows/{name}': rows for name, rows in features.rows.items()}
    path = self._path(key)
    try:
      with files.replacing(path) as temporary:
        np.savez(temporary, **arrays)
    except OSError as error:
      logging.warning(
        'Features of real images are not kept: %s',
        files.write_error(path, error),
      )

  def _path(self, key: Mapping[str, Any]) -> pathlib.Path:
    assert self.folder is not None
    name = hashlib.sha256(_text(key).encode()).hexdigest()[:24]
    return self.folder / f'{key["network"]}-{name}.npz'

  def _read(self, key: Mapping[str, Any]) -> feature_sets.FeatureSet | None:
    if self.folder is None or not self._path(key).exists():
      return None
    path = self._path(key)
    try:
      # The archive has a checksum of each array.
      with np.load(path, allow_pickle=False) as arrays:
        if str(arrays['key']) != _text(key):
          raise ValueError('it belongs to other images')
        moments = formulas.Moments(
          int(arrays['count']), arrays['mean'], arrays['cov']
        )
        rows = {
          name.removeprefix('rows/'): arrays[name]
          for name in arrays.files
          if name.startswith('rows/')
        }
    except _DAMAGED as error:
      logging.warning(
        '%s cannot be read (%s): it is computed again', path, error
      )
      return None
    return feature_sets.FeatureSet(moments, rows)


def _text(key: Mapping[str, Any]) -> str:
  return json.dumps({'format': _FORMAT, **key}, sort_keys=True)
