"""Spaces over the digits recipe, written as a YAML file would hold them."""

import yaml

from pipelines.recipe import load_recipe
from sweeps.space import Space, parse_space

SETTINGS = load_recipe("digits")[0].settings


def parse(settings: dict, **more: object) -> tuple[Space, list[str]]:
    """The space, and its problems as lines."""
    text = yaml.safe_dump({"settings": settings, **more})
    space, problems = parse_space(text, "my.yaml", "digits", (), SETTINGS)
    return space, [str(problem) for problem in problems]
