import pathlib

import pytest

from sg3jax.train.config import files as config_files


def test_load_by_name_with_an_argument():
  config = config_files.load('stylegan3_t:64,batch=8')
  assert (config.model.resolution, config.train.batch) == (64, 8)
  assert config_files.load('stylegan3_t').model.resolution == 256


def test_load_a_file(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('N = 3\ndef get_config():\n  return {"n": N}\n')
  assert config_files.load(str(path)) == {'n': 3}
  with pytest.raises(ValueError, match=r'mine\.py takes no argument'):
    config_files.load(f'{path}:64')
  path.write_text('')
  with pytest.raises(ValueError, match=r'must define get_config\(\) to be'):
    config_files.load(str(path))


def test_an_unknown_name_lists_the_known_ones():
  with pytest.raises(ValueError, match=r"'stylegan4'.*quickstart.*stylegan3_t"):
    config_files.load('stylegan4:256')


def test_locate_keeps_the_argument():
  located = config_files.locate('stylegan3_r:512,batch=16')
  path, _, argument = located.partition(':')
  assert pathlib.Path(path).is_file()
  assert argument == '512,batch=16'
