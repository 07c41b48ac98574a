"""Generators in plain NumPy, float64, straight from official arrays.

Written from docs/math.md 2.2 to 2.4, one image at a time and without any trick:
what the networks of this package draw after conversion must be the same. Only
the geometry of alias-free layers (rates, sizes, paddings) is taken from
`nets.spec`, which other tests compare with recordings. Images are CHW here.
"""

import numpy as np
from scipy import signal

from sg3jax.nets import spec as spec_lib

_FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16  # Sum 4: keeps the mean.


def images(arrays, model, z, c=None, *, noise=True):
  """Returns images [n, h, w, c].

  Args:
    arrays: Those of an official generator, by name.
    model: The `model` part of our configuration.
    z: Latents.
    c: Labels, or None.
    noise: Whether StyleGAN2 adds its constant noise.
  """
  arrays = {name: np.asarray(x, np.float64) for name, x in arrays.items()}
  ws = _mapping(arrays, model, z, c)
  if model['generator'] == 'stylegan3':
    drawn = _stylegan3(arrays, model, ws)
  else:
    drawn = [_stylegan2(arrays, model, w, noise) for w in ws]
  return np.moveaxis(np.array(drawn), 1, -1)


def _lrelu(x):
  return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def _clip(x, bound):
  return x if bound is None else np.clip(x, -bound, bound)


def _dense(arrays, name, x, lr=1.0):
  weight = arrays[f'{name}.weight']
  y = x @ weight.T * (lr / np.sqrt(weight.shape[1]))
  return y + arrays[f'{name}.bias'] * lr


def _unit(x):
  return x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-8)


def _mapping(arrays, model, z, c):
  x = _unit(np.float64(z))
  if model['label_dim']:
    embedding = _dense(arrays, 'mapping.embed', np.float64(c))
    x = np.concatenate([x, _unit(embedding)], axis=1)
  for i in range(model['mapping_layers']):
    x = _lrelu(_dense(arrays, f'mapping.fc{i}', x, lr=0.01))
  return x


def _convolve(x, kernel, mode='full'):
  """Convolves [i, h, w] with [o, i, k, k]: truly, not correlating."""
  return np.array(
    [
      sum(
        signal.fftconvolve(a, b, mode) for a, b in zip(x, kernels, strict=True)
      )
      for kernels in kernel
    ]
  )


def _modulated(weight, styles, demodulate):
  kernel = weight * styles[:, None, None]
  if demodulate:
    norm = np.sum(kernel**2, axis=(1, 2, 3), keepdims=True)
    kernel = kernel / np.sqrt(norm + 1e-8)
  return kernel


def _stuffed(x, up):
  result = np.zeros((len(x), up * x.shape[1], up * x.shape[2]))
  result[:, ::up, ::up] = x
  return result


# StyleGAN2.


def _centred(x, kernel, up=1):
  """Convolves about the pixels' centres, with zeros stuffed in between."""
  # A sample's area reaches over `up` new pixels, whose middle is (up - 1) / 2
  # behind the sample: there the middle of the kernel belongs.
  start = (kernel.shape[-1] - up) // 2
  rows, columns = (slice(start, start + up * n) for n in x.shape[1:])
  return _convolve(_stuffed(x, up), kernel)[:, rows, columns]


def _with_fir(kernel):
  return np.array([[signal.convolve2d(k, _FIR) for k in row] for row in kernel])


def _styled(arrays, name, x, w, gain, bound, noise, up=1):
  kernel = _modulated(
    arrays[f'{name}.weight'], _dense(arrays, f'{name}.affine', w), True
  )
  if up == 1:  # Networks correlate; upsampling is the adjoint of that.
    x = _centred(x, kernel[:, :, ::-1, ::-1])
  else:
    x = _centred(x, _with_fir(kernel), up)
  if noise and f'{name}.noise_const' in arrays:
    x = x + arrays[f'{name}.noise_strength'] * arrays[f'{name}.noise_const']
  x = _lrelu(x + arrays[f'{name}.bias'][:, None, None]) * gain
  return _clip(x, None if bound is None else bound * gain)


def _stylegan2(arrays, model, w, noise):
  """One image; all styles are the same."""
  architecture, bound = model['stylegan2']['architecture'], model['conv_clamp']
  x, image, side = arrays['synthesis.b4.const'], None, 4
  while side <= model['resolution']:
    name = f'synthesis.b{side}'
    is_residual = architecture == 'resnet' and side > 4
    gain = np.sqrt(0.5) if is_residual else 1
    shortcut = x
    if side > 4:
      x = _styled(arrays, f'{name}.conv0', x, w, 1, bound, noise, up=2)
    x = _styled(arrays, f'{name}.conv1', x, w, gain, bound, noise)
    if is_residual:
      kernel = arrays[f'{name}.skip.weight']
      kernel = _with_fir(kernel / np.sqrt(kernel.shape[1]))
      x = x + _centred(shortcut, kernel, 2) * gain
    if architecture == 'skip' or side == model['resolution']:
      styles = _dense(arrays, f'{name}.torgb.affine', w)
      kernel = _modulated(
        arrays[f'{name}.torgb.weight'], styles / np.sqrt(styles.size), False
      )
      rgb = _centred(x, kernel) + arrays[f'{name}.torgb.bias'][:, None, None]
      rgb = _clip(rgb, bound)
      if image is not None:
        identity = np.eye(len(image))[:, :, None, None]
        rgb = rgb + _centred(image, identity * _FIR, 2)
      image = rgb
    side *= 2
  return image


# StyleGAN3.


def _fourier(arrays, spec, w):
  """The input of one image."""
  t = _dense(arrays, 'synthesis.input.affine', w)
  r_c, r_s, t_x, t_y = t / np.hypot(t[0], t[1])
  rotation = np.array([[r_c, -r_s, 0], [r_s, r_c, 0], [0, 0, 1]])
  matrix = rotation @ np.array([[1, 0, -t_x], [0, 1, -t_y], [0, 0, 1]])
  freqs = arrays['synthesis.input.freqs']
  phases = arrays['synthesis.input.phases'] + freqs @ matrix[:2, 2]
  freqs = freqs @ matrix[:2, :2]
  rate, size = spec.sampling_rates[0], spec.input_size
  excess = np.linalg.norm(freqs, axis=1) - spec.first_cutoff
  amplitudes = np.clip(1 - excess / (rate / 2 - spec.first_cutoff), 0, 1)
  place = (np.arange(size) + 0.5 - size / 2) / rate
  cycles = (
    freqs[:, 0, None, None] * place
    + freqs[:, 1, None, None] * place[:, None]
    + phases[:, None, None]
  )
  x = amplitudes[:, None, None] * np.sin(2 * np.pi * cycles)
  weight = arrays['synthesis.input.weight']
  return np.tensordot(weight / np.sqrt(len(weight)), x, 1)


def _padded(x, padding):
  """Pads, or crops where a number is negative."""
  for axis, (low, high) in enumerate(padding, 1):
    edges = [(0, 0)] * 3
    edges[axis] = (max(low, 0), max(high, 0))
    x = np.pad(x, edges)
    x = x.take(range(max(-low, 0), x.shape[axis] - max(-high, 0)), axis)
  return x


def _filtered(x, f):
  """Convolves every channel with [t] in both axes, or with [t, t]."""
  if f is None:
    return x
  f = np.outer(f, f) if f.ndim == 1 else f
  return signal.fftconvolve(x, f[None], 'valid', axes=(1, 2))


def _layer(arrays, name, layer, bound, x, styles):
  """One layer of one image; styles are scaled already."""
  weight = arrays[f'{name}.weight']
  kernel = _modulated(weight, styles, not layer.is_torgb)
  kernel = kernel / np.sqrt(arrays[f'{name}.magnitude_ema'])
  x = _convolve(x, kernel[:, :, ::-1, ::-1])
  x = x + arrays[f'{name}.bias'][:, None, None]
  up, down = layer.up_factor, layer.down_factor
  x = _padded(_stuffed(x, up), layer.padding)
  x = _filtered(x, arrays.get(f'{name}.up_filter')) * up**2
  x = _clip(x if layer.is_torgb else _lrelu(x), bound)
  return _filtered(x, arrays.get(f'{name}.down_filter'))[:, ::down, ::down]


def _stylegan3(arrays, model, ws):
  """All images: styles are scaled over the batch."""
  spec = spec_lib.SynthesisSpec(
    resolution=model['resolution'],
    img_channels=model['img_channels'],
    **model['synthesis'],
  )
  xs = [_fourier(arrays, spec, w) for w in ws]
  for layer in spec.layers:
    name = next(
      name.removesuffix('.bias')
      for name in arrays
      if name.startswith(f'synthesis.L{layer.index}_')
      and name.endswith('.bias')
      and 'affine' not in name
    )
    styles = _dense(arrays, f'{name}.affine', ws)
    if layer.is_torgb:
      styles = styles / np.sqrt(layer.in_channels)
    else:
      styles = styles / np.sqrt(np.mean(styles**2))
    xs = [
      _layer(arrays, name, layer, model['conv_clamp'], x, style)
      for x, style in zip(xs, styles, strict=True)
    ]
    assert xs[0].shape == (layer.out_channels, layer.out_size, layer.out_size)
  return [x * model['output_scale'] for x in xs]
