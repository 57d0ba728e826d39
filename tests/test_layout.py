"""Tests mirror the packages: pipelines/workdir/store.py has tests/pipelines/workdir/test_store.py."""

from pathlib import Path

import pytest

from tests.support.running import ROOT

PACKAGES = ("atjem", "data", "pipelines", "sweeps")
OTHERS = ("support", "faults", "deploy", "benchmarks")  # folders of tests/ that mirror no package
# Modules without a test file of their name: what tests them, and why they have none of their own.
ELSEWHERE = {
    "tests/pipelines/test_results.py: a whole run goes through them, and its result shows their work": (
        "pipelines/__main__.py pipelines/commands/session.py pipelines/commands/options.py"
        " pipelines/curves.py pipelines/compute/channel.py pipelines/compute/worker_start.py"
        " pipelines/stages/inputs.py pipelines/stages/train_stage1.py pipelines/stages/training.py"
    ),
    "tests/pipelines/tracking/test_record.py: what they draw or log is looked at in MLflow": (
        "pipelines/stages/charts.py pipelines/stages/pictures.py pipelines/tracking/archive.py"
        " pipelines/tracking/driver.py pipelines/tracking/figures.py"
    ),
    "tests/pipelines/tracking/test_leftovers.py: parts of one mechanism, tested whole": (
        "pipelines/tracking/handover.py pipelines/tracking/refusals.py pipelines/trial.py"
    ),
    "tests/pipelines/commands/test_run.py: bad input reaches the terminal through them": (
        "pipelines/number_text.py pipelines/usage.py pipelines/preflight/files.py data/command_line.py"
    ),
    "tests/pipelines/stages/test_evaluate_classifier.py: its parts, and its half that attacks": (
        "pipelines/stages/classifier_parts.py pipelines/stages/robust.py"
    ),
    "tests/pipelines/stages/test_evaluate_fidelity.py: its files of features": (
        "pipelines/stages/reference.py pipelines/stages/tensors.py"
    ),
    "tests/pipelines/workdir/test_shared_store.py: how it moves files": "pipelines/workdir/transfer.py",
    "tests/pipelines/compute/test_team.py: how many workers a training has": "pipelines/compute/room.py",
    "tests/data/test_augment.py: its copies to a GPU": "data/devices.py",
    "tests/faults/test_cluster.py: needs a cluster of several nodes": "pipelines/compute/nodes.py",
    "tests/pipelines/compute/test_spread.py: the rule that spread obeys": "pipelines/compute/priority.py",
    "tests/sweeps/test_tune_pgd.py: a real sweep goes through them": (
        "sweeps/figures.py sweeps/jobs.py sweeps/results.py sweeps/session.py"
        " sweeps/trial.py sweeps/tuning.py"
    ),
    "tests/atjem/test_ranks.py: two processes and one agree": "atjem/models/synced_norm.py",
    "tests/data/test_decode.py: names and limits of formats": "data/formats.py",
    "tests/data/sources/test_noise.py: a table of names": "data/sources/noise_names.py",
    "tests/pipelines/test_terminal.py: names must not act on a terminal": "data/visible.py",
}


def _modules() -> list[str]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py")


def test_module_has_a_test_file_or_a_reason():
    without = [
        module
        for module in _modules()
        if not (ROOT / "tests" / module).with_name(f"test_{Path(module).name}").is_file()
    ]
    assert without == sorted(module for modules in ELSEWHERE.values() for module in modules.split())


@pytest.mark.parametrize("reason", ELSEWHERE)
def test_reason_names_a_test_file(reason):
    assert (ROOT / reason.split(": ")[0]).is_file()


def test_folders_of_tests_mirror_the_packages():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    mirrors = [folder for folder in folders if not folder.as_posix().startswith(OTHERS)]
    assert [folder for folder in mirrors if not (ROOT / folder).is_dir()] == []
