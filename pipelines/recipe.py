"""A recipe: a YAML file of settings, with the user's overrides laid over it."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipelines.problems import BadInput, Problem
from pipelines.settings import Settings
from pipelines.yaml_text import read_yaml

RECIPES = Path(__file__).parent
LARGEST_FILE = 2 << 20  # characters, more than are allowed
_DEEPEST, _SHOWN = 10, 100  # sections of sections; characters of what has more
_NOT_IN_NAMES = frozenset("/\\:*?\"'<>|%#")  # of experiments and of their folders


@dataclass(frozen=True)
class Recipe:
    name: str
    settings: Settings


def shipped_recipes() -> list[str]:
    """Names of the recipes in this folder."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> tuple[Recipe, list[Problem]]:
    """The recipe with its overrides, and every problem found in them.

    Where a setting is bad, the recipe carries the file's own value instead, so that later checks can
    still look for further problems. Raises BadInput when nothing usable remains.
    """
    path = find_recipe(name_or_path)
    values = _read(path)
    own = _copy(values)
    problems = [problem for text in overrides for problem in _override(values, text)]
    if _images(values) != _images(own):
        values.pop("published", None)  # the paper's figures are of other images
    settings, found = _validate(values, own, str(path))
    problems += found
    if settings is None:
        raise BadInput(problems)
    return Recipe(path.stem, settings), problems


def _images(values: dict[str, Any]) -> Any:
    data = values.get("data")
    return data.get("in") if isinstance(data, dict) else None


def find_recipe(name_or_path: str) -> Path:
    """The file of a shipped recipe, or the one given. Raises BadInput when there is none."""
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise BadInput([Problem("--pipeline", repr(name_or_path), "no such file")])
        _check_name(path.stem)
        return path
    if name_or_path not in shipped_recipes():
        near = difflib.get_close_matches(name_or_path, shipped_recipes(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(shipped_recipes())
        problem = Problem(
            "--pipeline", repr(name_or_path), f"{hint}use one of {known}, or a path to a .yaml file"
        )
        raise BadInput([problem])
    return RECIPES / f"{name_or_path}.yaml"


def _check_name(name: str) -> None:
    """A recipe's name is also an experiment's and a folder's. Raises BadInput for one that leads away."""
    if name.startswith(".") or not name.isprintable() or _NOT_IN_NAMES & set(name):
        allowed = "rename the file: no dot before, no quotes, none of / \\ : * ? < > | % #"
        raise BadInput([Problem("--pipeline", f"a recipe called {name!r}", allowed)])


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            values = read_yaml(file.read(LARGEST_FILE))
    except (ValueError, OSError) as error:
        raise BadInput([Problem(str(path), f"not readable as YAML: {error}", "mend the file")]) from error
    if not isinstance(values, dict):
        raise BadInput([Problem(str(path), f"holds {type(values).__name__}", "it must hold settings")])
    return values


def _override(values: dict[str, Any], text: str) -> Iterator[Problem]:
    """Lays one `key.path=value` over the values; the value is read as YAML."""
    name, equals, raw = text.partition("=")
    name = name.strip()
    if not equals or not name:
        yield Problem("--set", repr(text), "write it as key.path=value")
        return
    if name.count(".") > _DEEPEST:
        yield Problem(name[:_SHOWN], "unknown setting", "there is no such setting")
        return
    try:
        value = read_yaml(raw)
    except ValueError:
        value = raw
    *sections, last = name.split(".")
    target = values
    for section in sections:
        inner = target.setdefault(section, {})
        if not isinstance(inner, dict):
            yield Problem(name, "unknown setting", f"{section} is a value and has no settings in it")
            return
        target = inner
    target[last] = value


def _validate(
    values: dict[str, Any], own: dict[str, Any], file: str
) -> tuple[Settings | None, list[Problem]]:
    try:
        return Settings.model_validate(numbers(values)), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = [_problem(detail, file) for detail in details]
    for detail in details:
        _restore(values, own, [str(part) for part in detail["loc"]])
    try:
        return Settings.model_validate(numbers(values)), problems
    except ValidationError:
        return None, problems


def _restore(values: dict[str, Any], own: dict[str, Any], loc: list[str]) -> None:
    """Puts the recipe's own value back where a value was refused, or drops it."""
    *sections, last = loc
    for section in sections:
        inner = values.get(section)
        if not isinstance(inner, dict):
            last = section
            break
        values, own = inner, own.get(section) or {}
    if last in own:
        values[last] = _copy(own[last])
    else:
        values.pop(last, None)


def _copy(value: Any) -> Any:
    return {name: _copy(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def numbers(value: Any) -> Any:
    """YAML 1.1 reads 5e-4 as text; here it is the number that was meant."""
    if isinstance(value, dict):
        return {name: numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [numbers(inner) for inner in value]
    if isinstance(value, str) and value[:1] in "+-.0123456789" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _problem(detail: ErrorDetails, file: str) -> Problem:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, _all_names(Settings), n=1, cutoff=0.5)
        allowed = f"did you mean {near[0]!r}?" if near else "there is no such setting"
        return Problem(where, "unknown setting", allowed)
    if detail["type"] == "missing":
        return Problem(where, "missing", f"{file} or --set must give it")
    message = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return Problem(where, repr(detail["input"]), message)


def _all_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        dotted = prefix + (field.alias or name)
        names.append(dotted)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _all_names(field.annotation, f"{dotted}.")
    return names
