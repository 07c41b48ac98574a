"""Flattens trees of arrays by path, and rebuilds them."""

from collections.abc import Mapping
from typing import Any

import jax

from sg3jax.types import Tree


def flatten(tree: Tree) -> dict[str, Any]:
  """Returns the leaves of a tree by path: `params/mapping/fc0/weight`."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree.leaves_with_path(tree)
  }


def unflatten(arrays: Mapping[str, Any]) -> Tree:
  """Returns the tree of dicts for leaves by path; the inverse of `flatten`."""
  tree: Tree = {}
  for path, array in arrays.items():
    *folders, leaf = path.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[leaf] = array
  return tree
