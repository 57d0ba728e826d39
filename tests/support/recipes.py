"""Settings of shipped recipes."""

from pipelines.recipe import load_recipe
from pipelines.settings import Settings


def settings_of(name: str, *overrides: str) -> Settings:
    """Fails where the recipe or an override has a problem."""
    recipe, problems = load_recipe(name, overrides)
    assert not problems
    return recipe.settings
