"""Edit this file -> these stages re-run: fingerprints follow code by meaning, settings by use."""

import ast
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipelines.fingerprint import PACKAGES, ROOT, code_digests, digest
from pipelines.graph import STAGES, Node, build_graph
from pipelines.plan import make_plan, node_code
from pipelines.workdir.store import Store
from tests.support.recipes import settings_of

# The report needs every stage, so it is left out of these tables.
ALL = {*STAGES, "counterfactuals"} - {"report"}
TRAINING = {"train_stage1", "train_stage2"}
MEASURING = {"sample", "evaluate_fidelity", "evaluate_classifier", "counterfactuals"}
DOWNSTREAM_OF_TRAINING = TRAINING | MEASURING
EXTRACTOR = {"reference_stats", "sample", "evaluate_fidelity", "counterfactuals"}

EDITS = [
    ("data/decode.py", ALL),
    ("data/shards.py", ALL),
    ("data/augment.py", DOWNSTREAM_OF_TRAINING),
    ("data/autoaugment.py", DOWNSTREAM_OF_TRAINING),
    ("data/batches.py", DOWNSTREAM_OF_TRAINING),
    ("data/build.py", ALL),
    ("data/views.py", ALL - {"preprocess"}),
    ("data/check.py", set()),
    ("data/prepare.py", set()),
    ("data/get.py", set()),
    ("data/export.py", set()),
    ("atjem/curriculum.py", DOWNSTREAM_OF_TRAINING | EXTRACTOR),
    ("atjem/sampling.py", {"sample", "evaluate_fidelity", "counterfactuals"}),
    ("atjem/fidelity.py", EXTRACTOR),
    ("atjem/robustness.py", {"evaluate_classifier"}),
    ("atjem/calibration.py", {"evaluate_classifier"}),
    ("pipelines/stages/counterfactuals.py", {"counterfactuals"}),
    ("pipelines/stages/sample_parts.py", {"sample", "evaluate_fidelity"}),
    ("atjem/counterfactuals.py", {"counterfactuals"}),
    ("atjem/__init__.py", set()),
    ("pipelines/stages/train_stage2.py", {"train_stage2"} | MEASURING),
    ("pipelines/stages/sample.py", {"sample", "evaluate_fidelity"}),
    ("pipelines/stages/evaluate_fidelity.py", {"evaluate_fidelity"}),
    ("pipelines/workdir/checkpoints.py", DOWNSTREAM_OF_TRAINING),
    ("pipelines/commands/run.py", set()),
    ("pipelines/tracking/tracker.py", set()),
    ("pipelines/tracking/record.py", set()),
    ("pipelines/tracking/figures.py", set()),
    ("pipelines/runner.py", set()),
    ("pipelines/workdir/store.py", set()),
    ("pipelines/workdir/shared_store.py", set()),
    ("pipelines/workdir/mirror.py", set()),
    ("pipelines/workdir/remote.py", set()),
    ("pipelines/workdir/lease.py", set()),
    ("pipelines/stages/report.py", set()),
    ("pipelines/stages/charts.py", set()),
    ("pipelines/settings.py", set()),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def _graph(*overrides: str) -> dict[str, Node]:
    return build_graph(settings_of("digits", *overrides))


def test_choosing_by_samples_makes_the_sampler_the_trainings_code():
    assert "atjem/sampling.py" not in node_code(_graph()["train_stage2"])
    assert "atjem/sampling.py" in node_code(_graph("stage2.select=best_frechet")["train_stage2"])


def test_choosing_by_samples_does_not_depend_on_how_many_are_made_later():
    choose = ("stage2.select=best_frechet", "stage2.select_samples=50")
    before = _fingerprints(*choose)["train_stage2"]
    later = ("sample.num_samples=77", "sample.num_selection=33")
    assert _fingerprints(*choose, *later)["train_stage2"] == before
    assert _fingerprints(*choose, "sample.step_size=0.3")["train_stage2"] != before


def test_images_that_moved_are_the_same_images(tmp_path):
    for folder in ("images/cat", "images/dog", "seeds"):
        (tmp_path / "old" / folder).mkdir(parents=True)
        Image.effect_noise((8, 8), 50).save(tmp_path / "old" / folder / "1.png")

    def fingerprints(name: str) -> dict[str, str | None]:
        place = tmp_path / name
        return _fingerprints(f"data.in={place / 'images'}", f"data.ood={place / 'seeds'}")

    before = fingerprints("old")
    (tmp_path / "old").rename(tmp_path / "new")
    assert fingerprints("new") == before
    assert _fingerprints(f"data.in={tmp_path / 'new/images'}")["train_stage1"] != before["train_stage1"]


def _kind(node: Node) -> str:
    """The stage of a node, or its topic."""
    return node.topic or node.stage


def _stale_stages(root: Path, before: dict[str, dict[str, str]]) -> set[str]:
    """Stages and topics whose own code changed, and every stage that needs one."""
    graph = _graph()
    stale = {name for name, node in graph.items() if node_code(node, root) != before[name]}
    while more := {name for name, node in graph.items() if stale & set(node.needs.values())} - stale:
        stale |= more
    return {_kind(graph[name]) for name in stale if graph[name].part != "plain"} - {"report"}


@pytest.mark.parametrize(("file", "expected"), EDITS, ids=[file for file, _ in EDITS])
def test_edited_file_reruns_its_stages(copy, file, expected):
    graph = _graph()
    before = {name: node_code(node, copy) for name, node in graph.items()}
    path = copy / file
    text = path.read_text()
    try:
        path.write_text(text + "\nEDITED = 1\n")
        assert _stale_stages(copy, before) == expected
        path.write_text(f"# a comment\n{text}\n# another\n")
        assert _stale_stages(copy, before) == set()
    finally:
        path.write_text(text)


def test_docstrings_do_not_count_and_code_does(copy):
    path = copy / "atjem" / "sampling.py"
    text = path.read_text()
    before = code_digests("atjem.sampling", copy)
    try:
        path.write_text(text.replace('"""Generates one image', '"""Makes one image'))
        assert code_digests("atjem.sampling", copy) == before
        path.write_text(text.replace("mul(255)", "mul(254)"))
        assert code_digests("atjem.sampling", copy) != before
    finally:
        path.write_text(text)


def _fingerprints(*overrides: str) -> dict[str, str | None]:
    plan = make_plan(settings_of("digits", *overrides), Store(Path("nowhere")))
    return {name: step.fingerprint for name, step in plan.steps.items()}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=1", DOWNSTREAM_OF_TRAINING),
        ("data.seed=1", ALL),
        ("evaluate.counterfactual.eps=1.0", {"counterfactuals"}),
        ("data.test_fraction=0.3", ALL),
        ("stage1.optimizer.lr=0.2", DOWNSTREAM_OF_TRAINING),
        ("stage2.contrastive.step_size=0.4", {"train_stage2"} | MEASURING),
        ("stage2.objective=at", {"train_stage2"} | MEASURING),
        ("sample.step_size=0.1", {"sample", "evaluate_fidelity"}),
        ("evaluate.robust.eps=0.5", {"evaluate_classifier"}),
        ("compute.precision=bf16", DOWNSTREAM_OF_TRAINING),
        ("compute.num_workers=2", set()),
        ("stage2.checkpoint_every=7", set()),
        ("compute.log_every=1", set()),
    ],
)
def test_setting_changes_its_stages(override, expected):
    before, after = _fingerprints(), _fingerprints(override)
    graph = _graph()
    changed = {_kind(graph[name]) for name in before if before[name] != after[name]}
    assert changed - {"report"} == expected
    assert ("report" in changed) == bool(expected)


def test_package_inits_have_no_effect_on_import():
    """Closures leave parents' __init__ out, which is sound only while these do nothing."""
    for package in PACKAGES:
        for file in (ROOT / package).rglob("__init__.py"):
            kinds = {type(node) for node in ast.parse(file.read_text()).body}
            assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef}, file


def test_digest_does_not_depend_on_key_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
