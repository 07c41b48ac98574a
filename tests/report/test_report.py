"""The report: names of models, files, the page, features, real images."""

import base64
import dataclasses

import html_page
import numpy as np
import pytest
import tiny_models

from sg3jax.data import files as data_files
from sg3jax.nets.features import base as networks
from sg3jax.report import base, features, page, reals, subjects, writer

_PNG = base64.b64decode(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAA'
  'AABJRU5ErkJggg=='
)


class TestNames:
  def test_a_run_is_named_by_its_folder(self):
    assert subjects.make_names(['runs/a', 'runs/b']) == ['a', 'b']

  def test_equal_folders_are_told_apart_by_those_above(self):
    assert subjects.make_names(['x/run', 'y/run']) == ['x/run', 'y/run']

  def test_checkpoints_of_a_run_are_told_apart_by_their_steps(self):
    names = subjects.make_names(['r/checkpoints/8', 'r/checkpoints/best', 'r'])
    assert names == ['r/8', 'r/best', 'r']

  def test_the_same_model_twice_is_refused(self):
    with pytest.raises(ValueError, match='must be different'):
      subjects.make_names(['runs/a', './runs/a'])


class TestOutput:
  def test_new_files(self, tmp_path):
    output = writer.check_output(tmp_path / 'x' / 'a.html', overwrite=False)
    assert output.folder == tmp_path / 'x' / 'a_files'

  @pytest.mark.parametrize('name', ['report', 'report.png'])
  def test_other_suffixes_are_refused(self, tmp_path, name):
    with pytest.raises(ValueError, match=r'must be an \.html file'):
      writer.check_output(tmp_path / name, overwrite=False)

  def test_an_existing_report_is_refused_unless_asked(self, tmp_path):
    path = tmp_path / 'a.html'
    path.write_text('mine')
    with pytest.raises(FileExistsError, match=r'a\.html exists'):
      writer.check_output(path, overwrite=False)
    writer.check_output(path, overwrite=True)
    path.unlink()
    (tmp_path / 'a_files').mkdir()
    with pytest.raises(FileExistsError, match='a_files exists'):
      writer.check_output(path, overwrite=False)

  def test_a_folder_with_other_files_is_never_replaced(self, tmp_path):
    (tmp_path / 'a_files').mkdir()
    (tmp_path / 'a_files' / 'thesis.tex').write_text('mine')
    with pytest.raises(ValueError, match=r'thesis\.tex'):
      writer.check_output(tmp_path / 'a.html', overwrite=True)

  def test_folders_and_files_in_the_way(self, tmp_path):
    (tmp_path / 'a.html').mkdir()
    with pytest.raises(IsADirectoryError):
      writer.check_output(tmp_path / 'a.html', overwrite=True)
    (tmp_path / 'file').write_text('')
    with pytest.raises(NotADirectoryError):
      writer.check_output(tmp_path / 'file' / 'b.html', overwrite=False)


_SECTION = base.Section('one', 'Title & more', 1, 'About <it>.', lambda c: None)


class TestPage:
  def test_it_has_what_was_found_and_escapes_it(self):
    findings = base.Findings(
      tables=[
        base.Table('Caption.', [{'model': '<b>', 'x': 0.5}, {'model': 'b'}])
      ],
      figures=[[base.Figure('f', _PNG, 'Below.', 'Above')]],
      notes=['Missing.'],
    )
    content = page.render('A "title"', 'Made.', [(_SECTION, findings)])
    parsed = html_page.Page(content)
    assert parsed.sections == ['one']
    assert 'b' not in parsed.tags
    for text in ('Title & more', 'About <it>.', '<b>', '0.5', 'Below.', 'Above',
                 'Missing.', 'Caption.', 'Made.'):  # fmt: skip
      assert text in parsed.text
    (image,) = parsed.images
    assert image['alt'] == 'Title & more: Above'
    assert (image['width'], image['height']) == ('1', '1')
    assert base64.b64decode(image['src'].partition(',')[2]) == _PNG

  def test_it_links_to_nothing_outside(self):
    content = page.render('t', 'm', [(_SECTION, base.Findings())])
    assert set(html_page.Page(content).links) == {'data:,', '#one'}


def test_pictures_are_replaced_as_a_whole(tmp_path):
  figures = [base.Figure(name, _PNG, '') for name in ('a/b', 'a b')]
  folder = tmp_path / 'new' / 'r_files'
  for rows in ([figures], [figures[:1]]):
    writer._write_pictures(folder, [(_SECTION, base.Findings(figures=rows))])
    names = sorted(path.name for path in folder.iterdir())
    assert names == ['one-a-b-.png', 'one-a-b.png'][-len(rows[0]) :]
  assert list(folder.parent.iterdir()) == [folder]


def test_sections_are_in_order_and_have_distinct_names():
  found = base.sections()
  assert [section.name for section in found] == [
    'models', 'spectra', 'sticking', 'representations', 'equivariance',
    'aliasing', 'truncation', 'memorisation',
  ]  # fmt: skip
  assert len({section.place for section in found}) == len(found)


class TestFeatures:
  @pytest.fixture
  def network(self, monkeypatch):
    network = networks.FeatureNetwork(
      name='sums',
      title='Sums',
      dims={'sum': 1},
      apply=lambda v, x: {'sum': v['scale'] * x.sum((1, 2))},
      protocol='as they are',
      init=lambda key: {'scale': np.float32(2)},
    )
    monkeypatch.setitem(networks._NETWORKS, 'sums', network)
    return network

  def test_the_first_available_network_is_chosen(self, network, tmp_path):
    found = features.choose(tmp_path, ('inception', 'sums'))
    assert found.title == 'Sums (sum; as they are)'
    images = np.ones((2, 4, 4, 1), np.uint8)
    np.testing.assert_array_equal(found.apply(images), [[32], [32]])

  def test_networks_without_weights_are_passed_over(self, network, tmp_path):
    networks._NETWORKS['sums'] = dataclasses.replace(network, init=None)
    assert features.choose(tmp_path, ('sums',)) is features.LOW_PASS


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return tiny_models.write_images(tmp_path_factory.mktemp('data'))


class TestReals:
  @pytest.fixture
  def source(self, data):
    return data_files.ImageFiles(data, resolution=16, use_labels=True)

  def test_they_are_in_random_order_by_the_seed(self, source):
    first, again, other = (
      np.concatenate(list(reals.prepare(source, s, channels=3).batches(99)))
      for s in (0, 0, 1)
    )
    assert first.shape == (40, 16, 16, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    fewer = list(reals.prepare(source, 0, channels=3).batches(7))
    np.testing.assert_array_equal(np.concatenate(fewer), first[:7])

  def test_a_class_selects_its_images(self, source):
    label = np.array([0, 1], np.float32)
    found = reals.prepare(source, 0, channels=3, label=label)
    assert len(found) == 20
    assert {int(found.source[i]['label'].argmax()) for i in range(20)} == {1}

  def test_other_channels_are_refused(self, source):
    with pytest.raises(ValueError, match='must have 1 channel,'):
      reals.prepare(source, 0, channels=1)
