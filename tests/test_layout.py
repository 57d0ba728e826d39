"""Tests mirror the packages: pipelines/workdir/store.py has tests/pipelines/workdir/test_store.py."""

from pathlib import Path

import pytest

from tests.support.running import ROOT

PACKAGES = ("atjem", "data", "pipelines", "sweeps")
TESTS = ROOT / "tests"
# Modules without a test file of their name, and what tests them.
ELSEWHERE: dict[str, str] = {}


def _modules() -> list[str]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py")


def _test_file(module: str) -> str:
    path = Path("tests", module)
    return path.with_name(f"test_{path.name}").as_posix()


@pytest.mark.parametrize("module", _modules())
def test_module_has_a_test_file_or_a_reason(module):
    assert (ROOT / _test_file(module)).is_file() != (module in ELSEWHERE)


def test_reasons_are_for_modules_that_exist():
    assert set(ELSEWHERE) <= set(_modules())


def test_folders_of_tests_mirror_packages():
    own = {"support", "faults", "deploy", "benchmarks"}
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert [
        folder
        for folder in folders
        if folder.parts[:1] and folder.parts[0] not in own and not (ROOT / folder).is_dir()
    ] == []
