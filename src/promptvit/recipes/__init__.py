"""Recipes: the authors' settings as data, one YAML file per method, suite and backbone."""
