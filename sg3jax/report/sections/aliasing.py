"""The energy of feature maps above the band limits of their layers."""

import math

import numpy as np

from sg3jax.eval.analysis import aliasing
from sg3jax.eval.plots import figures as figures_lib
from sg3jax.eval.plots import spectra as plots
from sg3jax.nets import activations
from sg3jax.nets import spec as spec_lib
from sg3jax.report import base
from sg3jax.report.subjects import Subject

_IMAGES = 4  # Images whose spectra are averaged.


@base.register(
  'aliasing',
  title='Energy above the band limits, by layer',
  place=60,
  about=(
    'Each alias-free layer is designed to pass frequencies up to a cutoff f_c, '
    'and to suppress those above a stopband f_t (sg3jax spec plots them). The '
    'energy of its output above these limits has passed the filter or was '
    'folded back by the sampling. The fractions are taken from the power '
    'spectra of the feature maps, less the mean of each channel, under a '
    'Kaiser window, which widens frequencies by up to 2.7 periods of the map: '
    'too much to say anything of the first layers, whose cutoffs are as low. '
    'Critically sampled layers have both limits at half their sampling rate or '
    'above, where there is nothing.'
  ),
)
def analyse(context: base.Context) -> base.Findings:
  """Measures the leakage of the layers of alias-free models."""
  findings = base.Findings()
  cutoff: dict[str, dict[str, float]] = {}
  stopband: dict[str, dict[str, float]] = {}
  for subject in context.subjects:
    if subject.is_stylegan2:
      findings.notes.append(
        f'{subject.name}: layers of StyleGAN2 have no cutoff below half of '
        'their sampling rate, so that there is no band limit to exceed.'
      )
      continue
    rows, leakage = _measure(subject, context.seed)
    findings.tables.append(
      base.Table(
        f'{subject.name}: frequencies in cycles per image; fractions in dB.',
        rows,
      )
    )
    cutoff[subject.name] = {k: v.above_cutoff for k, v in leakage.items()}
    stopband[subject.name] = {k: v.above_stopband for k, v in leakage.items()}
  if cutoff:
    findings.figures.append(
      [
        base.Figure(
          name,
          figures_lib.to_png(plots.plot_leakage(fractions, title)),
          f'Mean over {_IMAGES} images and all channels. Layers without a '
          'point have nothing above.',
        )
        for name, fractions, title in (
          ('cutoff', cutoff, 'Above the cutoff $f_c$'),
          ('stopband', stopband, 'Above the stopband $f_t$'),
        )
        if any(x > 0 for values in fractions.values() for x in values.values())
      ]
    )
  return findings


def _measure(
  subject: Subject, seed: int
) -> tuple[list[dict[str, object]], dict[str, aliasing.Leakage]]:
  generator, variables = subject.model.generator, subject.model.variables
  spec = generator.spec
  assert isinstance(spec, spec_lib.SynthesisSpec)
  layers = [x for x in spec.layers if not x.is_torgb]
  stopbands = spec.stopbands
  powers: dict[str, np.ndarray] = {}
  for i in range(_IMAGES):
    ws = subject.seeds([seed + i])
    maps = activations.feature_maps(generator, variables, ws)
    for layer in layers:
      power = aliasing.power_spectrum(np.asarray(maps[layer.name]))
      powers[layer.name] = powers.get(layer.name, 0) + power
  rows, leakage = [], {}
  for layer in layers:
    found = aliasing.measure_leakage(
      powers[layer.name],
      sampling_rate=layer.out_sampling_rate,
      cutoff=layer.out_cutoff,
      stopband=float(stopbands[layer.index]),
      radial=layer.radial_down_filter,
    )
    leakage[layer.name] = found
    rows.append(
      {
        'layer': layer.name,
        'sampling rate': layer.out_sampling_rate,
        'f_c': layer.out_cutoff,
        'f_t': float(stopbands[layer.index]),
        'above f_c': _decibels(found.above_cutoff),
        'above f_t': _decibels(found.above_stopband),
      }
    )
  return rows, leakage


def _decibels(fraction: float) -> float | None:
  """Returns a fraction in dB; None if nothing is, or can be, above."""
  if math.isnan(fraction) or fraction <= 0:
    return None
  return round(10 * math.log10(fraction), 2)
