import pytest
from PIL import Image

from sg3jax.eval.plots import layers
from sg3jax.nets import spec as spec_lib


@pytest.mark.parametrize(
  ('design', 'names'),
  [
    (spec_lib.stylegan3_t, ['layers.png', 'filters.png']),
    (
      spec_lib.stylegan3_r,
      ['layers.png', 'filters.png', 'radial_filters.png'],
    ),
  ],
)
def test_pictures_of_a_design(design, names, tmp_path):
  paths = layers.plot_design(design(32, num_layers=5), tmp_path / 'new')
  assert [path.name for path in paths] == names
  for path in paths:
    with Image.open(path) as image:
      assert min(image.size) > 200
  assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == sorted(names)


def test_layers_without_filters_are_drawn(tmp_path):
  # Nothing is oversampled: no layer filters anything on the way down.
  spec = spec_lib.stylegan3_t(32, lrelu_upsampling=1)
  (path,) = layers.plot_design(spec, tmp_path)
  assert path.name == 'layers.png'
  figure = layers._plot_layers(spec)
  labels = [text.get_text() for text in figure.axes[1].texts]
  assert labels == ['no filter'] * 14


@pytest.mark.parametrize('name', ['lanczos', 'gaussian', 'ideal'])
def test_filters_without_a_formula_are_drawn(name, tmp_path):
  spec = spec_lib.stylegan3_t(32, num_layers=5, filter=name)
  names = [path.name for path in layers.plot_design(spec, tmp_path)]
  # Ideal filters have no taps whose response could be drawn.
  assert names == ['layers.png', 'filters.png'][: 1 if name == 'ideal' else 2]
  figure = layers._plot_layers(spec)
  labels = [text.get_text() for text in figure.axes[1].texts]
  assert labels == [name] * 5
