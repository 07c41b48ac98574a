import numpy as np
import pytest
import small_models
from PIL import Image

from sg3jax import editing
from sg3jax import model as model_lib
from sg3jax.editing import direction_files, layers
from sg3jax.editing import directions as directions_lib
from sg3jax.editing import ws as ws_lib
from sg3jax.trees import flatten, unflatten


@pytest.fixture(scope='module')
def model():
  return small_models.make_model()


def make_direction(name='turn', w_dim=8, layers=(1, 2)):
  vector = np.random.RandomState(0).standard_normal(w_dim).astype(np.float32)
  return editing.Direction(name, vector, 0.5, layers)


@pytest.mark.parametrize('design', ['t', '2'])
def test_every_layer_has_a_style(design):
  model = small_models.make_model(design)
  styles = layers.style_of_layers(model.generator.spec)
  assert set(styles.values()) == set(range(model.num_ws))
  params = flatten(model.variables['params']['synthesis'])
  affine = '/affine/weight'
  assert {p.removesuffix(affine) for p in params if p.endswith(affine)} == set(
    styles
  )


@pytest.mark.parametrize('design', ['t', '2'])
def test_a_layer_takes_the_style_of_its_number(design):
  """Layers whose affine weights are zero ignore the style of their number."""
  model = small_models.make_model(design)
  spec = model.generator.spec
  ws = np.array(model.mapping(model_lib.seed_latents([0], 8)))
  number = model.num_ws - 2
  params = flatten(model.variables['params']['synthesis'])
  for name, style in layers.style_of_layers(spec).items():
    if style == number:
      params[f'{name}/affine/weight'] = np.zeros_like(
        params[f'{name}/affine/weight']
      )
  variables = {
    **model.variables,
    'params': {
      **model.variables['params'],
      'synthesis': unflatten(params),
    },
  }

  def images(ws):
    return np.asarray(
      model._synthesis(variables, ws, None, 0, noise_mode='const', exact=True)
    )

  before = images(ws)
  for i in range(model.num_ws):
    moved = ws.copy()
    moved[:, i] += 1
    assert np.array_equal(images(moved), before) == (i == number)


def test_pca_is_that_of_float64(model):
  w = np.concatenate(list(ws_lib.sample(model, 3000, seed=1)))
  covariance = directions_lib.style_covariance(
    ws_lib.sample(model, 3000, seed=1), 8
  )
  expected = np.cov(w.astype(np.float64), rowvar=False)
  np.testing.assert_allclose(
    covariance, expected, rtol=1e-10, atol=1e-12 * np.max(expected)
  )
  found = directions_lib.find(model, 'pca', count=8, num_samples=3000, seed=1)
  values = np.linalg.eigvalsh(expected)[::-1]
  np.testing.assert_allclose(
    [d.std**2 for d in found], values, rtol=1e-6, atol=1e-9 * values[0]
  )
  vectors = np.stack([d.vector for d in found])
  np.testing.assert_allclose(vectors @ vectors.T, np.eye(8), atol=1e-5)


def test_covariance_is_accurate_for_large_means():
  x = 1e6 + np.random.RandomState(0).standard_normal((2000, 3))
  found = directions_lib.style_covariance([x[:500], x[500:]], 3)
  np.testing.assert_allclose(found, np.cov(x, rowvar=False), rtol=1e-6)


def test_sefa_changes_the_scales_of_its_layers_most(model):
  found = directions_lib.find(
    model, 'sefa', count=8, layers=(1, 2), num_samples=1000
  )
  names = [layer.name for layer in model.generator.spec.layers[:2]]
  params = model.variables['params']['synthesis']
  changes = []
  for direction in found:
    squares = sum(
      np.sum(
        (direction.vector.astype(np.float64) @ params[name]['affine']['weight'])
        ** 2
      )
      for name in names
    )
    changes.append(squares)
  assert np.all(np.diff(changes) < 0)
  rng = np.random.RandomState(0)
  for _ in range(50):
    other = rng.standard_normal(8)
    other /= np.linalg.norm(other)
    squares = sum(
      np.sum((other @ params[name]['affine']['weight']) ** 2) for name in names
    )
    assert squares <= changes[0]
  assert all(d.layers == (1, 2) for d in found)
  assert [d.name for d in found[:2]] == ['sefa0', 'sefa1']


def test_edits_move_a_range_of_styles():
  ws = np.zeros((2, 4, 8), np.float32)
  direction = make_direction()
  moved = editing.apply(ws, [(direction, 3.0)])
  np.testing.assert_allclose(moved[:, 1:3], 1.5 * np.stack(
    [np.stack([direction.vector] * 2)] * 2), rtol=1e-6)  # fmt: skip
  assert not np.any(moved[:, [0, 3]])
  back = editing.apply(moved, [(direction, -1.0), (direction, -2.0)])
  np.testing.assert_allclose(back, 0, atol=1e-6)
  with pytest.raises(ValueError, match='must have 8 features'):
    editing.apply(ws, [(make_direction(w_dim=4), 1.0)])
  with pytest.raises(ValueError, match='within 0-3'):
    editing.apply(ws, [(make_direction(layers=(2, 4)), 1.0)])


def test_an_edited_model_generates_edited_images(model):
  edits = [(make_direction(), 3.0)]
  edited = editing.EditedModel(model, edits)
  z = model_lib.seed_latents([3], 8)
  ws = editing.apply(model.mapping(z, None, 0.5), edits)
  np.testing.assert_array_equal(
    edited(z, truncation_psi=0.5), model.synthesis(ws)
  )
  assert np.any(np.asarray(edited(z)) != np.asarray(model(z)))


def test_directions_are_named_and_chosen_by_name():
  found = [make_direction(name) for name in ('sefa0', 'sefa1')]
  named = directions_lib.rename(found, ['smile=1'])
  assert [d.name for d in named] == ['sefa0', 'smile']
  edits = directions_lib.parse_edits(['smile:2.5', 'sefa0:-1'], named)
  assert [(d.name, s) for d, s in edits] == [('smile', 2.5), ('sefa0', -1)]
  for bad in ('smile', 'smile=2', '=1', 'smile=x', 'a:b=1'):
    with pytest.raises(ValueError, match='must be NAME=NUMBER'):
      directions_lib.rename(found, [bad])
  with pytest.raises(ValueError, match='must differ'):
    directions_lib.rename(found, ['sefa0=1'])
  for bad in ('smile', 'smile:', ':1', 'smile:nan', 'smile:1e9'):
    with pytest.raises(ValueError, match='must be NAME:STRENGTH'):
      directions_lib.parse_edits([bad], named)
  with pytest.raises(ValueError, match="no direction 'age'"):
    directions_lib.parse_edits(['age:1'], named)


def test_directions_are_found_once(model, tmp_path):
  options = {'count': 2, 'layers': None, 'num_samples': 1000, 'seed': 0}
  found, is_read = direction_files.find_once(model, tmp_path, 'pca', **options)
  assert not is_read
  again, is_read = direction_files.find_once(model, tmp_path, 'pca', **options)
  assert is_read
  for a, b in zip(found, again, strict=True):
    np.testing.assert_array_equal(a.vector, b.vector)
    assert (a.name, a.std, a.layers) == (b.name, b.std, b.layers)
  with pytest.raises(FileExistsError, match='another method'):
    direction_files.find_once(model, tmp_path, 'sefa', **options)
  other = small_models.make_model(seed=1)
  with pytest.raises(FileExistsError, match='another model'):
    direction_files.find_once(other, tmp_path, 'pca', **options)


def test_damaged_files_of_directions_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='does not exist'):
    direction_files.read(tmp_path)
  path = tmp_path / direction_files.FILE
  path.write_bytes(b'nothing')
  with pytest.raises(ValueError, match='must be a file of directions'):
    direction_files.read(tmp_path)
  np.savez(path, vectors=np.zeros((1, 8)))
  with pytest.raises(ValueError, match='must be a file of directions'):
    direction_files.read(path)


def test_the_sheet_has_a_row_for_each_direction(model, tmp_path):
  ws = np.asarray(model.mapping(model_lib.seed_latents([0], 8)))
  found = [make_direction(name) for name in 'ab']
  path = tmp_path / 'sheet.png'
  direction_files.save_sheet(model, ws, found, (-1, 0, 1), path)

  assert Image.open(path).size == (48, 32)


def test_styles_are_read_as_they_were_written(tmp_path):
  path = tmp_path / 'w.npz'
  rng = np.random.RandomState(0)
  w = rng.standard_normal((2, 4, 8)).astype(np.float32)
  maps = {'b4/conv1/noise_const': rng.standard_normal((2, 4, 4))}
  ws_lib.write(path, ws_lib.Styles(w, np.stack([np.eye(3)] * 2), maps))
  styles = ws_lib.read(path, 4, 8)
  np.testing.assert_array_equal(styles.w, w)
  np.testing.assert_array_equal(styles.transform, np.stack([np.eye(3)] * 2))
  ((path_of_map, found),) = styles.noise.items()
  np.testing.assert_array_equal(found, maps[path_of_map])
  with pytest.raises(FileExistsError):
    ws_lib.write(path, styles)


@pytest.mark.parametrize(
  'shape', [(4, 8), (3, 1, 8), (3, 8), (1, 4, 8), (1, 8)]
)
def test_styles_of_other_tools_are_repeated(tmp_path, shape):
  w = np.random.RandomState(0).standard_normal(shape)
  np.savez(tmp_path / 'w.npz', w=w)
  found = ws_lib.read(tmp_path / 'w.npz', 4, 8).w
  assert found.shape == (1 if shape in ((4, 8), (1, 4, 8), (1, 8)) else 3, 4, 8)
  np.testing.assert_allclose(found[0, 0], w.reshape(-1, 8)[0], rtol=1e-6)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'v': np.zeros((1, 4, 8))}, 'must have the key w, got v'),
    ({'w': np.zeros((1, 5, 8))}, r'must have the shape \[n, 4, 8\]'),
    ({'w': np.zeros((0, 4, 8))}, r'must have the shape \[n, 4, 8\]'),
    ({'w': np.full((1, 4, 8), np.nan)}, 'finite numbers'),
    ({'w': np.array([['a'] * 8] * 4)}, 'finite numbers'),
    (
      {'w': np.zeros((2, 4, 8)), 'transform': np.zeros((1, 3, 3))},
      r'transform .* must be numbers of the shape \[2, 3, 3\]',
    ),
  ],
)
def test_styles_that_do_not_fit_are_refused(tmp_path, arrays, message):
  np.savez(tmp_path / 'w.npz', **arrays)
  with pytest.raises(ValueError, match=message):
    ws_lib.read(tmp_path / 'w.npz', 4, 8)


def test_files_that_hold_no_styles_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError):
    ws_lib.read(tmp_path / 'w.npz', 4, 8)
  (tmp_path / 'w.npz').write_bytes(b'PK\x03\x04 and so on')
  with pytest.raises(ValueError, match='cannot be read'):
    ws_lib.read(tmp_path / 'w.npz', 4, 8)


def test_the_statistics_are_those_of_random_styles(model):
  w = np.concatenate(list(ws_lib.sample(model, 2000, seed=3)))
  found = ws_lib.statistics(model, 2000, seed=3)
  np.testing.assert_allclose(found.mean, w.mean(0), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.scale, np.sqrt(w.var(0).mean()), rtol=1e-5)
