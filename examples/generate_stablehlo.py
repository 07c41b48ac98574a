"""Generates images with an exported generator, without sg3jax.

    pip install jax flatbuffers numpy pillow
    python generate_stablehlo.py g.stablehlo out 0 1 2

`sg3jax export --network=... --output=g.stablehlo` writes `g.stablehlo`.
"""

import argparse
import pathlib

import jax
import numpy as np
from jax import export
from PIL import Image


def main() -> None:
  """Parses the arguments and writes `seed0000.png` and so on."""
  parser = argparse.ArgumentParser(
    description='Generates one image for each seed.'
  )
  parser.add_argument('program', type=pathlib.Path)
  parser.add_argument('outdir', type=pathlib.Path)
  parser.add_argument('seeds', type=int, nargs='+')
  parser.add_argument('--trunc', type=float, default=1.0)
  parser.add_argument('--class', type=int, default=0, dest='label')
  args = parser.parse_args()

  program = export.deserialize(bytearray(args.program.read_bytes()))
  _, shapes = jax.tree.unflatten(program.in_tree, program.in_avals)
  # A seed gives the same latent as in the official tools.
  z_dim = shapes['z'].shape[1]
  z = [np.random.RandomState(seed).randn(z_dim) for seed in args.seeds]
  inputs = {
    'z': np.stack(z).astype(np.float32),
    'truncation_psi': np.float32(args.trunc),
  }
  if 'c' in shapes:  # A conditional model takes one-hot labels.
    c = np.zeros((len(z), shapes['c'].shape[1]), np.float32)
    c[:, args.label] = 1
    inputs['c'] = c
  images = np.asarray(jax.jit(program.call)(**inputs))

  pixels = np.clip(images * 127.5 + 128, 0, 255).astype(np.uint8)
  args.outdir.mkdir(parents=True, exist_ok=True)
  for seed, picture in zip(args.seeds, pixels, strict=True):
    path = args.outdir / f'seed{seed:04d}.png'
    is_grey = picture.shape[2] == 1
    Image.fromarray(picture[:, :, 0] if is_grey else picture).save(path)
    print(path)


if __name__ == '__main__':
  main()
