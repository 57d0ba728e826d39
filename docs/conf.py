"""Sphinx: `make docs` builds these pages, with warnings as errors."""

import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

PAGES = {
    "README.md": "index",
    "data/README.md": "own-data",
    "deploy/README.md": "clusters",
    "sweeps/README.md": "sweeps",
}

project = "AT-JEM"
author = "the AT-JEM developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["lines.css"]
html_title = "AT-JEM"
html_show_copyright = html_show_sphinx = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False


class SettingsTable(Directive):
    """`{settings}`: every setting of a recipe, from `pipelines/settings.py`."""

    def run(self) -> list[nodes.Node]:
        from pipelines.settings import Settings

        lines = ["| setting | default | is |", "|---|---|---|"]
        lines += [f"| `{name}` | {default} | {text} |" for name, default, text in rows(Settings, "")]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, "pipelines/settings.py"), 0, node)
        return node.children


def rows(section: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    """(dotted name, default, meaning) of each leaf."""
    found = []
    for field, info in section.model_fields.items():
        name = prefix + (info.alias or field)
        inner = inner_section(info.annotation)
        if inner is not None:
            found += rows(inner, f"{name}.")
        else:
            found.append((name, default_of(info), meaning(info)))
    return found


def inner_section(annotation: Any) -> type[BaseModel] | None:
    return next(
        (kind for kind in unions(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)), None
    )


def default_of(info: FieldInfo) -> str:
    if info.is_required():
        return "the recipe's"
    return "`null`" if info.default is None else f"`{info.default}`"


def meaning(info: FieldInfo) -> str:
    choices = next((kind for kind in unions(info.annotation) if get_origin(kind) is Literal), None)
    told = (info.description or "").replace("|", "\\|")
    listed = " or ".join(f"`{choice}`" for choice in get_args(choices)) if choices else ""
    return "; ".join(filter(None, (told, listed)))


def unions(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *(get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()))


def lead_to_pages(app: Any, name: str, source: list[str]) -> None:
    """Links between files of the project, to the pages that include them."""
    for file, page in PAGES.items():
        source[0] = source[0].replace(f"](../{file})", f"]({page}.md)")


def setup(app: Any) -> None:
    app.add_directive("settings", SettingsTable)
    app.connect("source-read", lead_to_pages)
