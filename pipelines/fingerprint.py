"""What a result depends on, as one digest: settings, inputs, code and library versions.

Code counts by meaning: the syntax tree without comments and docstrings, of the stage's module and of every
first-party module that it imports, directly or not. A package's `__init__` counts only where a name is
imported from it; ours have no effect on import. Imports under `if TYPE_CHECKING` do not run and do not count.
"""

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("atjem", "data", "pipelines")


def digest(value: Any) -> str:
    """Of anything JSON can hold; 20 hexadecimal digits (MLflow refuses more than 36)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions without importing anything; 'absent' for a library that is not installed."""
    return {name: _version(name) for name in names}


def code_digests(module: str, root: Path = ROOT) -> dict[str, str]:
    """Digest of each file in the import closure of a first-party module, by its path in the project."""
    found: dict[str, str] = {}
    pending = [module]
    while pending:
        file = module_file(pending.pop(), root)
        if file is None or (name := file.relative_to(root).as_posix()) in found:
            continue
        found[name], imports = _meaning(file.read_text(encoding="utf-8"))
        pending += [inner if module_file(inner, root) else module for module, inner in imports]
    return dict(sorted(found.items()))


def file_digest(file: Path) -> str:
    """As `code_digests` has it."""
    return _meaning(file.read_text(encoding="utf-8"))[0]


def other_files(code: Mapping[str, str], root: Path) -> list[str]:
    """Files below a root that are not there or have another digest than in `code`, as of `code_digests`."""
    files = ((name, root / name, sha) for name, sha in code.items())
    return [name for name, file, sha in files if not file.is_file() or file_digest(file) != sha]


def module_file(module: str, root: Path) -> Path | None:
    """The file of a first-party module, or None for anything else."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names whose values differ between two flat mappings, in order."""
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@cache
def _meaning(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Digest of what the text of a module does, and its imports."""
    tree = _Meaning().visit(ast.parse(text))
    return digest(ast.dump(tree)), tuple(_imports(tree))


class _Meaning(ast.NodeTransformer):
    """Drops what does not run: docstrings and imports for type checkers."""

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                node.body = node.body[1:] or [ast.Pass()]
        return super().visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return [self.visit(other) for other in node.orelse]
        return self.generic_visit(node)


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, module.name) for each import: the second is a module itself, or a name in the first."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((node.module, f"{node.module}.{alias.name}") for alias in node.names)
