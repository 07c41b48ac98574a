"""Configurations: defaults, arguments, what the data settle, comparison."""

from sg3jax.train.config.defaults import default_config as default_config
from sg3jax.train.config.defaults import take_model as take_model
from sg3jax.train.config.name_argument import parse_arg as parse_arg
from sg3jax.train.config.resolve import published_gamma as published_gamma
from sg3jax.train.config.resolve import resolve as resolve
